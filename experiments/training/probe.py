"""How attention settles in the course of training: each epoch records the iterates of every VARS layer on a few images.

The images are the same in all epochs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor, nn

from experiments.data.images import Labelled, as_images, evaluation_images
from experiments.settings import Settings
from vars_dyn import _files
from vars_dyn.attention import VarsAttention
from vars_dyn.attention.inspection import layer_inputs

__all__ = ["open_trajectories", "probe_images", "write"]


def probe_images(images: Labelled, settings: Settings) -> Float[Tensor, "n 3 h w"] | None:
    """The first images of each class in turn, normalised; None if none are asked for."""
    if not settings.probe_images:
        return None
    data = settings.data
    chosen = images.subset(min(settings.probe_images, len(images)), "probe_images")
    pixels, _ = evaluation_images(chosen, data)
    mean, std = (torch.tensor(value).reshape(3, 1, 1) for value in (data.mean, data.std))
    return (as_images(pixels) - mean) / std


def write(
    run: Path, epoch: int, network: nn.Module, images: Float[Tensor, "n 3 h w"], settings: Settings
) -> Path | None:
    """Record the layers at `images` in `run`/trajectories/epoch-NNNN.zarr, which appears whole or not at all.

    Returns its path, or None if there are no VARS layers.
    """
    layers = _datasets(network, images)
    if not layers:
        return None
    folder = run / "trajectories"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"epoch-{epoch:04d}.zarr"
    tree = xr.DataTree.from_dict({"/": xr.Dataset(attrs={"epoch": epoch, "seed": settings.seed}), **layers})
    with _files.replacing_folder(path) as partial:
        tree.to_zarr(partial, mode="w", zarr_format=3, consolidated=False)
    return path


def open_trajectories(run: Path, layer: str) -> xr.Dataset:
    """All epochs of a layer, given by its name in the model. They are read lazily, with the dimension epoch first."""
    paths = sorted((run / "trajectories").glob("epoch-*.zarr"))
    if not paths:
        raise ValueError(f"{run} has no trajectories; train with probe_images above 0, and a VARS attention")
    parts = [xr.open_zarr(path, group=layer, chunks=None, consolidated=False) for path in paths]
    epochs = [int(path.name[6:10]) for path in paths]
    return xr.concat(parts, xr.DataArray(epochs, dims="epoch", name="epoch"), combine_attrs="drop_conflicts")


@torch.no_grad()
def _datasets(network: nn.Module, images: Tensor) -> dict[str, xr.Dataset]:
    if not any(isinstance(layer, VarsAttention) for layer in network.modules()):
        return {}
    was_training = network.training
    network.eval()
    try:
        seen = layer_inputs(network, images)
    finally:
        network.train(was_training)
    return {
        name.replace(".", "_"): _dataset(each.layer, each.x, each.grid)
        for name, each in seen.items()
        if isinstance(each.layer, VarsAttention)
    }


def _dataset(layer: VarsAttention, x: Tensor, grid: tuple[int, int] | None) -> xr.Dataset:
    """The iterates of one layer: codes, and the objective, the relative gap and the share of zeros of every channel."""
    dictionary, signal = layer.reconstruction(x, grid)
    iterates: list[Tensor] = []
    layer.solve(dictionary, signal, iterates)
    names = ("iteration", "image", "head", "channel")
    codes = torch.stack([layer.by_head(code) for code in iterates])
    values: dict[str, tuple[tuple[str, ...], np.ndarray, str]] = {
        "code": ((*names, "atom"), _array(codes), "code of the signal of a channel")
    }
    values["sparsity"] = (names, _array((codes == 0).float().mean(-1)), "share of zeros in the code")
    if layer.variant.solves_problem:
        problem = layer.problem(x, grid)
        shape = codes.shape[1:-1]
        gaps = torch.stack([problem.relative_gap(code).reshape(shape) for code in iterates])
        objective = torch.stack([problem.objective(code).reshape(shape) for code in iterates])
        values["relative_gap"] = (names, _array(gaps), "duality gap relative to half the squared signal")
        # At z = P a + x the coupled field's Lyapunov function V(z, a) is the objective E(a), up to a constant.
        values["lyapunov"] = (names, _array(objective), "V(P a + x, a) = E(a), up to a constant")
    dataset = xr.Dataset({name: (dims, value) for name, (dims, value, _) in values.items()})
    for name, (_, _, meaning) in values.items():
        dataset[name].attrs = {"units": "1", "long_name": meaning}
    dataset.attrs = {"layer": type(layer).__name__, "settings": layer.extra_repr()}
    return dataset


def _array(value: Tensor) -> np.ndarray:
    return value.float().cpu().numpy()
