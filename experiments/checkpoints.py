"""Checkpoints: a folder of safetensors and JSON, no pickle, that appears whole or not at all.

    checkpoints/epoch-0003/model.safetensors    weights and buffers
                           ema.safetensors      their moving average, where there is one
                           optimizer.safetensors  the optimizer's tensors
                           state.json           configuration, epoch, best score, RNG states, the rest of the optimizer

A checkpoint is written under another name, flushed to the disk, and renamed; older ones are removed only then.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

__all__ = ["Checkpoint", "find", "get_random_state", "last", "load_weights", "read", "set_random_state", "write"]

_NAME = "epoch-{:04d}"
_TENSOR = "__tensor__"


@dataclass
class Checkpoint:
    """A training run after `epoch` epochs.

    Attributes:
        model, ema: weights by name.
        optimizer: the optimizer's state_dict.
        state: what JSON holds: config, classes, epoch, updates, best, random (RNG states per process).
        path: the folder it was read from.
    """

    model: dict[str, Tensor]
    state: dict[str, Any]
    ema: dict[str, Tensor] | None = None
    optimizer: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights that evaluation uses: the moving average where there is one."""
        return self.model if self.ema is None else self.ema


def write(folder: Path, checkpoint: Checkpoint, keep: tuple[int, ...] = ()) -> Path:
    """Write the checkpoint of epoch `state["epoch"]` into `folder`; of the others only those of epochs `keep` stay."""
    final = folder / _NAME.format(checkpoint.state["epoch"])
    partial = folder / f".{final.name}.partial"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    tensors: dict[str, Tensor] = {}
    optimizer = _split(checkpoint.optimizer, tensors, "optimizer")
    files = {"model": checkpoint.model, "ema": checkpoint.ema, "optimizer": tensors}
    for name, content in files.items():
        if content is not None:
            plain = {key: value.detach().cpu().contiguous() for key, value in content.items()}
            save_file(plain, partial / f"{name}.safetensors")
    (partial / "state.json").write_text(json.dumps({**checkpoint.state, "optimizer": optimizer}, indent=1))
    for path in [*partial.iterdir(), partial]:
        _flush(path)
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    _flush(folder)
    kept = {_NAME.format(epoch) for epoch in keep} | {final.name}
    for path in folder.iterdir():
        if path.name not in kept and path.name.removeprefix(".").startswith("epoch-"):
            shutil.rmtree(path)
    return final


def last(run: Path) -> Path | None:
    """The last complete checkpoint of a run; None if it has none."""
    found = sorted(path for path in (run / "checkpoints").glob("epoch-*") if (path / "state.json").is_file())
    return found[-1] if found else None


def find(path: str | Path) -> Path:
    """The checkpoint folder meant by `path`: itself, or the best of a run; ValueError if it is neither."""
    path = Path(path)
    if (path / "state.json").is_file():
        return path
    newest = last(path) if path.is_dir() else None
    if newest is not None:
        best = json.loads((newest / "state.json").read_text())["best"]["epoch"]
        best_path = newest.with_name(_NAME.format(best))
        return best_path if best_path.is_dir() else newest
    if path.is_file():
        raise ValueError(
            f"{path} is a file; a folder with model.safetensors and state.json is wanted (pickles are never loaded)"
        )
    raise ValueError(f"{path} is no checkpoint; a folder with model.safetensors and state.json, or a run's, is wanted")


def read(path: Path, weights_only: bool = False) -> Checkpoint:
    """The checkpoint in the folder `path`, on the CPU; ValueError if it is incomplete or damaged."""
    try:
        state = json.loads((path / "state.json").read_text())
        model = load_file(path / "model.safetensors")
        ema = load_file(path / "ema.safetensors") if (path / "ema.safetensors").exists() else None
        tensors = {} if weights_only else load_file(path / "optimizer.safetensors")
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no readable checkpoint ({' '.join(str(error).split())})") from None
    optimizer = state.pop("optimizer")
    return Checkpoint(model, state, ema, {} if weights_only else _join(optimizer, tensors), path)


def load_weights(
    model: nn.Module, weights: Mapping[str, Tensor], source: str, new_head: str | None = None
) -> list[str]:
    """Load `weights` into `model`; ValueError if they are another model's. Returns the names left as they were.

    With `new_head`, the name of the classifier, the classifier's weights are loaded only where their shapes agree.
    """
    own = model.state_dict()
    head = {name for name in own if new_head is not None and name.startswith(f"{new_head}.")}
    misfits = [name for name in own if name not in weights or weights[name].shape != own[name].shape]
    extra = [name for name in weights if name not in own and not (new_head and name.startswith(f"{new_head}."))]
    wrong = [name for name in misfits if name not in head] + extra
    if wrong:
        what = wrong[0]
        have = f"has shape {tuple(weights[what].shape)}" if what in weights else "is missing"
        want = f"shape {tuple(own[what].shape)} is wanted" if what in own else "the model has no such weight"
        raise ValueError(f"{source} is a checkpoint of another model: {what} {have}, {want}")
    model.load_state_dict({name: weights[name] for name in own if name not in misfits}, strict=False)
    return misfits


def _split(value: Any, tensors: dict[str, Tensor], name: str) -> Any:
    """`value` with its tensors moved to `tensors`, their names left in their places; keys stay typed as pairs."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return {_TENSOR: name}
    if isinstance(value, Mapping):
        return {"items": [[key, _split(item, tensors, f"{name}.{key}")] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return [_split(item, tensors, f"{name}.{i}") for i, item in enumerate(value)]
    return value


def _join(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if _TENSOR in value:
            return tensors[value[_TENSOR]]
        return {key: _join(item, tensors) for key, item in value["items"]}
    return [_join(item, tensors) for item in value] if isinstance(value, list) else value


def get_random_state() -> dict[str, Any]:
    """The state of this process's generators: Python's, NumPy's, torch's on the CPU and on its GPU."""
    version, internal, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002  # timm's mixup draws from it
    state: dict[str, Any] = {
        "python": [version, list(internal), gauss],
        "numpy": [kind, np.asarray(keys).tolist(), position, has_gauss, cached],
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state().numpy().tobytes().hex()
    return state


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put the generators back where `get_random_state` found them."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.asarray(keys, dtype=np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(_bytes(state["torch"]))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(_bytes(state["cuda"]))


def _bytes(text: str) -> Tensor:
    return torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8)


def _flush(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
