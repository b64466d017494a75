"""Starting from stored weights, of the same attention or of another one, and what learns first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from experiments.options import plain_data
from experiments.options.plain_data import as_plain
from experiments.settings import Attention, Model, Settings
from experiments.training import checkpoints
from experiments.training.networks import build_model
from vars_dyn.attention import replace_attention
from vars_dyn.attention.base import TokenMixer

__all__ = ["held_back", "start_from", "stored_network"]

#: The modules of an attention layer that another kind of attention takes over.
_CARRIED = ("qkv", "v", "proj", "norm", "q_norm", "k_norm")


def stored_network(source: str | Path) -> tuple[nn.Module, Settings, dict[str, Any]]:
    """The network of a checkpoint (or of a run's best one) with its weights, its settings and its state.

    The weights are the moving average where there is one. Raises ValueError if it is no checkpoint of a training run.
    """
    path = checkpoints.find(source)
    stored = checkpoints.read(path, weights_only=True)
    missing = [name for name in ("config", "classes") if name not in stored.state]
    if missing:
        raise ValueError(f"{path} has no {' and no '.join(missing)} in state.json; a training run's are wanted")
    try:
        settings = plain_data.read(Settings, stored.state["config"], "")
    except ValueError as error:
        raise ValueError(f"{path} is no checkpoint of a training run: {error}") from None
    network = build_model(settings.model, len(stored.state["classes"]), settings.data.image_size)
    checkpoints.load_weights(network, stored.weights, str(path))
    return network, settings, {**stored.state, "path": str(path)}


def start_from(network: nn.Module, settings: Settings) -> list[str]:
    """Load the weights of `settings.finetune` into `network`, and return the names of those that stay newly drawn.

    If the source has another attention than `settings.model`, its layers are replaced first, so that values, output
    projections, and queries where both have them are kept. The random numbers of the run stay as they are.

    Raises ValueError if the source is no checkpoint, or one of another model.
    """
    source = str(settings.finetune)
    head = getattr(network, "pretrained_cfg", {}).get("classifier")
    with torch.random.fork_rng():
        weights, replaced = _weights(source, settings, head)
    fresh = _drawn(network) if replaced else set()
    own = {name: value.clone() for name, value in network.state_dict().items() if name in fresh}
    return [*checkpoints.load_weights(network, {**weights, **own}, source, new_head=head), *own]


def _weights(source: str, settings: Settings, head: str | None) -> tuple[dict[str, Tensor], bool]:
    """The source's weights in the form of the run's network, and whether its attention was replaced for that.

    If it was, the weights that the new layers have anew are left out.
    """
    wanted = settings.model.attention
    if source.endswith(".safetensors"):
        weights, own = checkpoints.read_tensors(Path(source)), Attention()
    else:
        stored = checkpoints.read(checkpoints.find(source), weights_only=True)
        weights, config = stored.weights, stored.state.get("config")
        own = wanted if config is None else plain_data.read(Settings, config, "").model.attention
    if wanted.kind is None or as_plain(own) == as_plain(wanted):
        return weights, False
    classifier = weights.get(f"{head}.weight")
    classes = 1000 if classifier is None else len(classifier)
    model = build_model(Model(settings.model.name, own, settings.model.sizes), classes, settings.data.image_size)
    checkpoints.load_weights(model, weights, source)
    replace_attention(model, wanted.kind, **wanted.options())
    drawn = _drawn(model)
    return {name: value for name, value in model.state_dict().items() if name not in drawn}, True


def _drawn(network: nn.Module) -> set[str]:
    """The names of the weights and buffers of attention layers that no other kind of attention has."""
    layers = [name for name, layer in network.named_modules() if isinstance(layer, TokenMixer)]
    inside = {
        name: next((each for each in layers if name.startswith(f"{each}.")), None) for name in network.state_dict()
    }
    return {
        name
        for name, layer in inside.items()
        if layer is not None and name.removeprefix(f"{layer}.").partition(".")[0] not in _CARRIED
    }


def held_back(network: nn.Module) -> list[nn.Parameter]:
    """The parameters that do not learn in `attention_epochs`: all outside attention layers and the classifier."""
    head = getattr(network, "pretrained_cfg", {}).get("classifier")
    learning: list[nn.Module] = [layer for layer in network.modules() if isinstance(layer, TokenMixer)]
    if not learning:
        raise ValueError(
            "optimization.attention_epochs is above 0, but the model has none of this project's attention layers; give "
            "model.attention.kind too"
        )
    learning += [network.get_submodule(head)] if isinstance(head, str) else []
    chosen = {id(parameter) for layer in learning for parameter in layer.parameters()}
    return [parameter for parameter in network.parameters() if id(parameter) not in chosen]
