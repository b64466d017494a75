"""The command's INPUT: from files and arrays to signals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from matplotlib import cbook
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open

from vars_dyn.images import Signals, centre, crop, image_files, normalise, patches, read_image
from vars_dyn.simulate.options import InputOptions

__all__ = ["read_array", "read_signals"]

#: The face and cap of the photograph that is simulated by default, and the size to which it is reduced.
_PORTRAIT = (60, 130, 288, 288)
_PORTRAIT_SCALE = 0.5


def read_signals(options: InputOptions, seed: int) -> Signals:
    """The signals that the options describe, in float64; ValueError with one sentence where that cannot be."""
    if not options.input:
        box = options.crop or _PORTRAIT
        scale = options.scale or (1.0 if options.crop else _PORTRAIT_SCALE)
        photograph = Path(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))
        images = _prepared([read_image(photograph, colour=options.colour)], box, scale)
        return _coded(images, ["grace_hopper.jpg of matplotlib"], options, seed)
    paths = [Path(name) for name in options.input]
    for path in paths:
        if not path.exists():
            raise ValueError(
                f"INPUT {path} does not exist; an image, a folder of images, a .npy file or a zarr array is wanted"
            )
    arrays = [path for path in paths if is_array(path)]
    if not arrays:
        files = [file for path in paths for file in (image_files(path) if path.is_dir() else [path])]
        images = [read_image(file, colour=options.colour) for file in files]
        return _coded(_prepared(images, options.crop, options.scale), [str(f.resolve()) for f in files], options, seed)
    if len(paths) > 1:
        raise ValueError(
            f"INPUT holds {len(paths)} paths of which {arrays[0]} is an array; images, or one array, are wanted"
        )
    values = _real(read_array(arrays[0], "INPUT"), f"INPUT {arrays[0]}")
    if values.ndim == 3:
        stack = [image[None] for image in values]
        return _coded(_prepared(stack, options.crop, options.scale), [str(arrays[0].resolve())], options, seed)
    if values.ndim != 2:
        raise ValueError(
            f"INPUT {arrays[0]} has shape {values.shape}; two dimensions (a signal a row) or three (a stack of grey "
            "images) are wanted"
        )
    if options.whole:
        raise ValueError(
            f"INPUT {arrays[0]} has shape {values.shape}: --whole wants images, an array of three dimensions"
        )
    signals = Signals(values, {}, {"input": [str(arrays[0].resolve())]})
    return _preprocessed(signals, options, subtract=options.mean == "subtract")


def is_array(path: Path) -> bool:
    """Whether a path names an array (.npy, or zarr: a folder with zarr's metadata) rather than images."""
    return path.suffix == ".npy" or any((path / name).is_file() for name in ("zarr.json", ".zarray", ".zgroup"))


def read_array(path: Path, what: str) -> NDArray[Any]:
    """An array from .npy, .safetensors (a name after a colon where it holds several) or zarr; never from a pickle."""
    file, _, name = str(path).partition(".safetensors:")
    if name or path.suffix == ".safetensors":
        return _from_safetensors(Path(f"{file}.safetensors") if name else path, name, what)
    if not path.exists():
        raise ValueError(f"{what} {path} does not exist; a .npy or .safetensors file or a zarr array is wanted")
    if path.is_dir():
        return _from_zarr(path, what)
    if path.suffix != ".npy":
        raise ValueError(f"{what} {path} is of no known kind; .npy, .safetensors or a zarr array is wanted")
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{what} {path} cannot be read as .npy: {' '.join(str(error).split())}") from None


def _from_zarr(path: Path, what: str) -> NDArray[Any]:
    try:
        node = zarr.open(path, mode="r")
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{what} {path} cannot be read as zarr: {' '.join(str(error).split())}") from None
    if isinstance(node, zarr.Array):
        try:
            return np.asarray(node[...])
        except (OSError, ValueError, RuntimeError) as error:
            raise ValueError(f"{what} {path} cannot be read as zarr: {' '.join(str(error).split())}") from None
    names = ", ".join(sorted(name for name, _ in node.arrays())) or "none"
    raise ValueError(f"{what} {path} is a zarr group; one of its arrays is wanted, as {path}/NAME (it holds {names})")


def _from_safetensors(path: Path, name: str, what: str) -> NDArray[Any]:
    if not path.is_file():
        raise ValueError(f"{what} {path} does not exist; a .npy or .safetensors file or a zarr array is wanted")
    try:
        with safe_open(str(path), framework="pt") as file:
            names = list(file.keys())
            if name not in names and (name or len(names) != 1):
                raise ValueError(f"{what} {path} holds {', '.join(names)}; one of them is wanted, as {path}:NAME")
            tensor = file.get_tensor(name or names[0])
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{what} {path} cannot be read as safetensors: {error}") from None
    if not tensor.is_floating_point():
        raise ValueError(f"{what} {path} holds {tensor.dtype}; real numbers are wanted")
    return np.asarray(tensor.double().numpy())


def _real(values: NDArray[Any], what: str) -> NDArray[np.float64]:
    """Finite real numbers as float64; unsigned bytes and words, as images store them, scaled to [0, 1]."""
    if values.dtype.kind not in "fiu":
        raise ValueError(f"{what} has dtype {values.dtype}; real numbers are wanted")
    if not values.size:
        raise ValueError(f"{what} has shape {values.shape} and is empty; at least one signal is wanted")
    if not np.isfinite(values).all():
        place = tuple(int(k) for k in np.argwhere(~np.isfinite(values))[0])
        raise ValueError(f"{what} holds NaN or infinity, first at {place}; finite numbers are wanted")
    scale = np.iinfo(values.dtype).max if values.dtype in (np.uint8, np.uint16) else 1.0
    return values.astype(np.float64) / scale


def real_array(path: Path, what: str) -> NDArray[np.float64]:
    """The array at `path`, checked to be of finite real numbers."""
    return _real(read_array(path, what), f"{what} {path}")


def _prepared(
    images: Sequence[NDArray[np.float64]], box: Sequence[int] | None, scale: float | None
) -> list[NDArray[np.float64]]:
    cut = [crop(image, box) if box is not None else image for image in images]
    return [_resized(image, scale) for image in cut] if scale is not None and scale != 1 else cut


def _resized(image: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    rows, columns = (max(1, round(n * scale)) for n in image.shape[-2:])
    planes = [
        np.asarray(Image.fromarray(plane.astype(np.float32)).resize((columns, rows), Image.Resampling.LANCZOS))
        for plane in image
    ]
    return np.stack(planes).astype(np.float64)


def _coded(images: list[NDArray[np.float64]], names: list[str], options: InputOptions, seed: int) -> Signals:
    """Images as signals: whole, or cut into patches."""
    if options.whole:
        shapes = sorted({image.shape[-2:] for image in images})
        if len(shapes) > 1:
            raise ValueError(
                f"the images have {_pixels(shapes[0])} and {_pixels(shapes[1])} pixels; --whole wants one size (--crop)"
            )
        signals = Signals(np.stack(images), {}, {})
    else:
        signals = _drawn(patches(images, options.patch, options.stride), options.patches, seed)
    signals = Signals(signals.values, signals.coordinates, {**signals.attributes, "input": names})
    return _preprocessed(signals, options, subtract=options.mean != "keep")


def _pixels(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} x {shape[1]}"


def _drawn(signals: Signals, count: int | None, seed: int) -> Signals:
    """`count` of the patches, drawn by the seed and kept in order."""
    total = len(signals.values)
    if count is None or count == total:
        return signals
    if count > total:
        raise ValueError(f"--patches is {count}, but the images hold {total} patches")
    index = np.sort(np.random.default_rng(seed).choice(total, count, replace=False))
    return Signals(signals.values[index], {k: v[index] for k, v in signals.coordinates.items()}, signals.attributes)


def _preprocessed(signals: Signals, options: InputOptions, *, subtract: bool) -> Signals:
    if subtract:
        signals = centre(signals)
    if options.norm == "unit":
        signals = normalise(signals)
    done = {"mean": "subtracted" if subtract else "kept", "norm": options.norm}
    return Signals(signals.values, signals.coordinates, signals.attributes | done)
