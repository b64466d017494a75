"""Pictures of attention: maps under corruption, after each update or beside fixations, and atoms of dictionaries.

A map is that of `experiments.evaluation.measures.maps`, resized bilinearly to the image's size. Its colours reach from
its own minimum to its own maximum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Float, UInt8
from matplotlib.animation import FuncAnimation, PillowWriter
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from experiments.data.images import as_images
from experiments.evaluation.corruptions import corrupt_all
from experiments.evaluation.measures import saliency
from experiments.evaluation.measures.maps import attention_map, view
from experiments.report.outputs import MARK
from experiments.report.plots import save
from vars_dyn.attention import upsampled

__all__ = ["animation", "atoms", "beside_fixations", "under_corruption", "updates"]

Images = UInt8[np.ndarray, "n h w 3"]

CORRUPTIONS = (("gaussian_noise", 5), ("fog", 5), ("contrast", 5))


def under_corruption(
    models: Mapping[str, nn.Module],
    images: Images,
    path: Path,
    corruptions: Sequence[tuple[str, int]] = CORRUPTIONS,
    layer: str | None = None,
) -> None:
    """Draw each image, clean and corrupted, above the maps of every model (the paper's Fig. 3 and 11)."""
    kinds = [("clean", 0), *corruptions]
    rows = 1 + len(models)
    figure, axes = _panels(rows * len(images), len(kinds))
    for column, (name, level) in enumerate(kinds):
        shown = images if name == "clean" else corrupt_all(images, name, level)
        axes[0, column].set_title(f"{name.replace('_', ' ')} {level or ''}", fontsize="small")
        for i, picture in enumerate(shown):
            axes[rows * i, column].imshow(picture)
        for row, model in enumerate(models.values(), 1):
            for i, found in enumerate(_maps(model, shown, layer)):
                axes[rows * i + row, column].imshow(found, cmap="magma")
    for i in range(len(images)):
        for row, label in enumerate(models, 1):
            _name(axes[rows * i + row, 0], label)
    save(figure, path)


def updates(model: nn.Module, images: Images, path: Path, layer: str | None = None) -> None:
    """Draw the map at the start of the iteration and after each update (Fig. 5 and 7), with a row per image."""
    steps = _steps(model, images, layer)
    figure, axes = _panels(len(images), 1 + len(steps))
    for row, picture in enumerate(images):
        axes[row, 0].imshow(picture)
        for step, maps in enumerate(steps):
            axes[row, 1 + step].imshow(maps[row], cmap="magma")
    axes[0, 0].set_title("image", fontsize="small")
    for step in range(len(steps)):
        axes[0, 1 + step].set_title(f"{step} updates" if step != 1 else "1 update", fontsize="small")
    save(figure, path)


def animation(model: nn.Module, images: Images, path: Path, layer: str | None = None) -> None:
    """Draw the maps of `updates` as an animated GIF, with a frame per update."""
    steps = _steps(model, images, layer)
    figure, axes = _panels(2, len(images))
    shown = [axes[1, i].imshow(steps[0][i], cmap="magma") for i in range(len(images))]
    for i, picture in enumerate(images):
        axes[0, i].imshow(picture)

    def draw(step: int) -> list[Any]:
        figure.suptitle(f"after {step} updates", fontsize="small")
        for drawn, found in zip(shown, steps[step], strict=True):
            drawn.set_data(found)
            drawn.set_clim(found.min(), found.max())
        return shown

    path.parent.mkdir(parents=True, exist_ok=True)
    FuncAnimation(figure, draw, len(steps)).save(path, _Marked(fps=3), dpi=80)
    plt.close(figure)


class _Marked(PillowWriter):
    """Writes GIFs that carry the mark of this package, which Matplotlib's writer leaves out."""

    _frames: list[Image.Image]  # Matplotlib's, missing in its stubs

    def finish(self) -> None:
        first, *others = self._frames
        duration = int(1000 / self.fps)
        first.save(self.outfile, save_all=True, append_images=others, duration=duration, loop=0, comment=MARK)


def atoms(
    model: nn.Module,
    images: Images,
    path: Path,
    count: int = 8,
    head: int = 0,
    threshold: float = 0.5,
    layer: str | None = None,
) -> None:
    """Draw the `count` atoms of a head's dynamic dictionary that the codes use most, as masks (Fig. 8-10).

    The atom is scaled from its minimum to its maximum over the tokens. Where it is not above `threshold`, the image is
    dimmed. Raises ValueError for a layer without a dynamic dictionary.
    """
    found = view(model, _tensor(model, images), layer)
    masks = found.masks(threshold)
    if not 0 <= head < masks.shape[1]:
        raise ValueError(f"head is {head}; one of the layer's {masks.shape[1]}, from 0, is wanted")
    if not 1 <= count <= masks.shape[2]:
        raise ValueError(f"count is {count}; between 1 and the layer's {masks.shape[2]} atoms is wanted")
    usage = found.codes[-1].abs().sum(-2)[..., : masks.shape[2]]  # type: ignore[index]  # there are, with atoms
    figure, axes = _panels(len(images), 1 + count)
    for row, picture in enumerate(images):
        axes[row, 0].imshow(picture)
        for column, atom in enumerate(usage[row, head].argsort(descending=True)[:count], 1):
            own = masks[row, head, int(atom)].float()[None, None]
            mask = torch.nn.functional.interpolate(own, picture.shape[:2])[0, 0].cpu().numpy()
            axes[row, column].imshow((picture * (0.2 + 0.8 * mask[..., None])).astype(np.uint8))
            axes[row, column].set_title(f"atom {int(atom)}", fontsize="x-small")
    save(figure, path)


def beside_fixations(
    models: Mapping[str, nn.Module],
    images: Sequence[UInt8[np.ndarray, "h w 3"]],
    seen: Sequence[Images],
    fixations: Sequence[np.ndarray],
    path: Path,
    sigma: float,
    layer: str | None = None,
) -> None:
    """Draw images with fixations, their density (`sigma` pixels wide), and each model's map and NSS (Fig. 4 and 12).

    `seen` has, for each model, the images at the model's size.
    """
    figure, axes = _panels(len(images), 2 + len(models))
    for row, (picture, points) in enumerate(zip(images, fixations, strict=True)):
        density = np.zeros(picture.shape[:2])
        np.add.at(density, (points[:, 0], points[:, 1]), 1)
        axes[row, 0].imshow(picture)
        axes[row, 0].plot(points[:, 1], points[:, 0], "o", ms=2.5, color="gold", mec="black", mew=0.3)
        axes[row, 1].imshow(gaussian_filter(density, sigma, mode="constant"), cmap="magma")
        for column, ((label, model), own) in enumerate(zip(models.items(), seen, strict=True), 2):
            size = (picture.shape[0], picture.shape[1])
            found = upsampled(attention_map(model, _tensor(model, own[row : row + 1]), layer).cpu().double()[0], size)
            axes[row, column].imshow(found, cmap="magma")
            score = saliency.nss(found.numpy(), points)
            axes[row, column].set_title(f"{label if not row else ''}\nNSS {score:.2f}".strip(), fontsize="small")
    axes[0, 0].set_title("fixations", fontsize="small")
    axes[0, 1].set_title("their density", fontsize="small")
    save(figure, path)


def _steps(model: nn.Module, images: Images, layer: str | None) -> list[np.ndarray]:
    """The maps of all iterates, by step. Raises ValueError if the layer does not iterate."""
    maps = view(model, _tensor(model, images), layer).maps.mean(2)
    if len(maps) < 2:
        raise ValueError("the layer has no iterates; a VARS layer with solver ista or fista is wanted")
    return list(_upsampled(maps, images))


def _maps(model: nn.Module, images: Images, layer: str | None) -> np.ndarray:
    return _upsampled(attention_map(model, _tensor(model, images), layer), images)


def _upsampled(maps: Float[Tensor, "*lead h w"], images: Images) -> np.ndarray:
    return upsampled(maps, (images.shape[1], images.shape[2])).cpu().numpy()


def _tensor(model: nn.Module, images: Images) -> Tensor:
    return as_images(images).to(next(model.parameters()).device)


def _panels(rows: int, columns: int) -> tuple[Any, np.ndarray]:
    """A grid of panels without axes."""
    size = (1.35 * columns, 1.4 * rows + 0.2)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    return figure, axes


def _name(axis: Any, label: str) -> None:
    axis.set_ylabel(label, fontsize="small")
