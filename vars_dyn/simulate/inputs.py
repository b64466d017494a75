"""Read the command's INPUT: signals from images, sounds, movies and arrays."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from matplotlib import cbook
from numpy.typing import NDArray
from safetensors import safe_open

from vars_dyn._reading import one_line, regular_file
from vars_dyn._resources import need_memory
from vars_dyn.images import Signals, centre, crop, image_files, normalise, patch_count, patches, read_picture
from vars_dyn.simulate.moving import are_movies, is_sound, read_movies, read_sounds, stacked
from vars_dyn.simulate.options import InputOptions
from vars_dyn.simulate.scaling import described, divisor, rescaled

__all__ = ["read_array", "read_signals"]

#: The part of the default photograph that shows face and cap, and the factor that resizes it.
_PORTRAIT = (60, 130, 288, 288)
_PORTRAIT_SCALE = 0.5
#: Largest number of chunks of a zarr array. More would take too long to read.
_CHUNKS = 10**6
_KINDS = {"npy": ".npy", "zarr": "zarr", "safetensors": "safetensors"}


def read_signals(options: InputOptions, seed: int) -> Signals:
    """The signals that the options describe, in float64; ValueError, with one sentence, if they cannot be made."""
    if not options.input:
        box = options.crop or _PORTRAIT
        scale = options.scale or (1.0 if options.crop else _PORTRAIT_SCALE)
        photograph = Path(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))
        images, scaling = _images([photograph], options)
        return _coded(_prepared(images, box, scale), ["grace_hopper.jpg of matplotlib"], scaling, options, seed)
    paths = [Path(name) for name in options.input]
    for path in paths:
        if not path.exists():
            raise ValueError(
                f"INPUT {path} does not exist; an image, a folder of images, a sound, a movie, a .npy file or a zarr "
                "array is wanted"
            )
    arrays = [path for path in paths if is_array(path)]
    if any(is_sound(path) for path in paths):
        return _preprocessed(read_sounds(paths, options), options, subtract=options.mean != "keep")
    if not arrays and are_movies(paths, options):
        return _preprocessed(read_movies(paths, options), options, subtract=options.mean != "keep")
    if not arrays:
        files = [file for path in paths for file in (image_files(path) if path.is_dir() else [path])]
        images, scaling = _images(files, options)
        names = [str(file.resolve()) for file in files]
        return _coded(_prepared(images, options.crop, options.scale), names, scaling, options, seed)
    if len(paths) > 1:
        raise ValueError(
            f"INPUT holds {len(paths)} paths of which {arrays[0]} is an array; images, or one array, are wanted"
        )
    what, names = f"INPUT {arrays[0]}", [str(arrays[0].resolve())]
    values, scaling = _scaled(read_array(arrays[0], "INPUT"), what, options.full_scale)
    if options.movie:
        signals = stacked(values, what, options)
        signals = Signals(signals.values, {}, {"input": names, **scaling})
        return _preprocessed(signals, options, subtract=options.mean != "keep")
    if values.ndim == 3:
        stack = [image[None] for image in values]
        return _coded(_prepared(stack, options.crop, options.scale), names, scaling, options, seed)
    if values.ndim != 2:
        raise ValueError(
            f"{what} has shape {values.shape}; two dimensions (a signal a row) or three (a stack of grey "
            "images) are wanted"
        )
    if options.whole:
        raise ValueError(f"{what} has shape {values.shape}: --whole wants images, an array of three dimensions")
    signals = Signals(values, {}, {"input": names, **scaling})
    return _preprocessed(signals, options, subtract=options.mean == "subtract")


def _images(files: Sequence[Path], options: InputOptions) -> tuple[list[NDArray[np.float64]], dict[str, Any]]:
    """The images on the scale that was asked for, and the attributes that say how they were scaled."""
    asked = options.full_scale
    images, scales, ground = [], [], False
    for file in files:
        picture = read_picture(file, colour=options.colour)
        scale = divisor(asked, picture.depth)
        images.append(picture.over(options.background, scale))
        scales.append(scale)
        ground = ground or picture.alpha is not None
    return images, described(scales, "images", f", over a ground of {options.background:g}" if ground else "")


def is_array(path: Path) -> bool:
    """Whether a path is an array (a .npy file, or a folder with zarr's metadata) and not images."""
    return path.suffix == ".npy" or any((path / name).is_file() for name in ("zarr.json", ".zarray", ".zgroup"))


def read_array(path: Path, what: str) -> NDArray[Any]:
    """Read an array from .npy, .safetensors (with a name after a colon if it holds several) or zarr, never a pickle."""
    file, _, name = str(path).partition(".safetensors:")
    if name or path.suffix == ".safetensors":
        return _from_safetensors(Path(f"{file}.safetensors") if name else path, name, what)
    if not path.exists():
        raise ValueError(f"{what} {path} does not exist; a .npy or .safetensors file or a zarr array is wanted")
    if path.is_dir():
        return _from_zarr(path, what)
    if path.suffix != ".npy":
        raise ValueError(f"{what} {path} is of no known kind; .npy, .safetensors or a zarr array is wanted")
    with _reading(path, what, "npy"):
        regular_file(path, "a .npy file")
        # Mapping the file compares its header with its length before any memory is taken.
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        _fits(mapped.size, path, what)
        return np.array(mapped)


@contextmanager
def _reading(path: Path, what: str, kind: str) -> Iterator[None]:
    """Turn any error that a library raises for a damaged or hostile file into a ValueError of one sentence."""
    try:
        yield
    except (MemoryError, KeyboardInterrupt):
        raise
    except ValueError as error:
        told = str(error)
        raise ValueError(
            told if "wanted" in told else f"{what} {path} cannot be read as {_KINDS[kind]}: {one_line(error)}"
        ) from None
    except Exception as error:
        reason = one_line(error) or type(error).__name__
        raise ValueError(f"{what} {path} cannot be read as {_KINDS[kind]}: {reason}") from None


def _fits(entries: int, path: Path, what: str) -> None:
    """Raise ValueError if memory cannot hold an array both as it is stored and in float64."""
    need_memory(24.0 * entries, f"{what} {path}, an array of {entries} numbers,", "a part of it is wanted")


def _from_zarr(path: Path, what: str) -> NDArray[Any]:
    with _reading(path, what, "zarr"):
        node = zarr.open(path, mode="r")
        if isinstance(node, zarr.Array):
            _fits(math.prod(node.shape), path, what)
            if math.prod(-(-n // c) for n, c in zip(node.shape, node.chunks, strict=True)) > _CHUNKS:
                raise ValueError(
                    f"{what} {path} has {node.shape} numbers in chunks of {node.chunks}; at most {_CHUNKS} chunks "
                    "are wanted"
                )
            return np.asarray(node[...])
        names = ", ".join(sorted(name for name, _ in node.arrays())[:20]) or "none"
    raise ValueError(f"{what} {path} is a zarr group; one of its arrays is wanted, as {path}/NAME (it holds {names})")


def _from_safetensors(path: Path, name: str, what: str) -> NDArray[Any]:
    if not path.exists():
        raise ValueError(f"{what} {path} does not exist; a .npy or .safetensors file or a zarr array is wanted")
    with _reading(path, what, "safetensors"):
        regular_file(path, "a .safetensors file")
        with safe_open(str(path), framework="pt") as file:
            names = list(file.keys())
            if name not in names and (name or len(names) != 1):
                raise ValueError(f"{what} {path} holds {', '.join(names)}; one of them is wanted, as {path}:NAME")
            _fits(math.prod(file.get_slice(name or names[0]).get_shape()), path, what)
            tensor = file.get_tensor(name or names[0])
    if not tensor.is_floating_point():
        raise ValueError(f"{what} {path} holds {tensor.dtype}; real numbers are wanted")
    return np.asarray(tensor.double().numpy())


def _scaled(values: NDArray[Any], what: str, asked: str | float) -> tuple[NDArray[np.float64], dict[str, Any]]:
    """The array in float64, divided by the scale that was asked for, and the attributes that say so."""
    scale = 1.0 if isinstance(asked, str) else asked
    if asked == "dtype" and values.dtype.kind in "iu":
        scale = float(np.iinfo(values.dtype).max)
    with np.errstate(over="ignore"):
        found = _real(values, what) / scale
    if not np.isfinite(found).all():
        raise ValueError(f"--full-scale is {asked}, by which {what} overflows; a larger number is wanted")
    return found, described([scale], f"the array's {values.dtype} numbers")


def _real(values: NDArray[Any], what: str) -> NDArray[np.float64]:
    """The numbers in float64; ValueError unless they are real and finite."""
    if values.dtype.kind not in "fiu":
        raise ValueError(f"{what} has dtype {values.dtype}; real numbers are wanted")
    if not values.size:
        raise ValueError(f"{what} has shape {values.shape} and is empty; at least one signal is wanted")
    with np.errstate(over="ignore"):
        found = values.astype(np.float64)
    if not np.isfinite(found).all():
        place = tuple(int(k) for k in np.argwhere(~np.isfinite(found))[0])
        raise ValueError(f"{what} holds NaN or infinity, first at {place}; finite numbers are wanted")
    if values.dtype.kind in "iu" and values.dtype.itemsize == 8 and float(np.abs(found).max()) >= 2.0**53:
        raise ValueError(
            f"{what} holds integers of 2^53 or more, which float64 rounds; smaller ones, or floats, are wanted"
        )
    return found


def real_array(path: Path, what: str) -> NDArray[np.float64]:
    """The array at `path` as it is stored; ValueError unless its numbers are real and finite."""
    return _real(read_array(path, what), f"{what} {path}")


def _prepared(
    images: Sequence[NDArray[np.float64]], box: Sequence[int] | None, scale: float | None
) -> list[NDArray[np.float64]]:
    cut = [crop(image, box) if box is not None else image for image in images]
    return [rescaled(image, scale) for image in cut]


def _coded(
    images: list[NDArray[np.float64]], names: list[str], scaling: dict[str, Any], options: InputOptions, seed: int
) -> Signals:
    """Make signals of images: whole images, or patches."""
    if options.whole:
        shapes = sorted({image.shape[-2:] for image in images})
        if len(shapes) > 1:
            raise ValueError(
                f"the images have {_pixels(shapes[0])} and {_pixels(shapes[1])} pixels; --whole wants one size (--crop)"
            )
        signals = Signals(np.stack(images), {}, {})
    else:
        signals = _cut(images, options, seed)
    signals = Signals(signals.values, signals.coordinates, {**signals.attributes, "input": names, **scaling})
    return _preprocessed(signals, options, subtract=options.mean != "keep")


def _pixels(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} x {shape[1]}"


def _cut(images: list[NDArray[np.float64]], options: InputOptions, seed: int) -> Signals:
    """All patches, or as many as were asked for, drawn by the seed and kept in order."""
    total, count = patch_count(images, options.patch, options.stride), options.patches
    if count is not None and count > total:
        raise ValueError(f"--patches is {count}, but the images hold {total} patches")
    kept = total if count is None else count
    entries = kept * options.patch**2 * len(images[0])
    # Three arrays of float64: the patches, the centred ones, and those divided by their norms.
    need_memory(24.0 * entries, f"cutting {kept} patches", "fewer (--patches), a --crop or a larger --stride is wanted")
    chosen = None
    if count is not None and count < total:
        need_memory(16.0 * total, f"drawing from {total} patches", "a --crop or a larger --stride is wanted")
        chosen = np.sort(np.random.default_rng(seed).choice(total, count, replace=False))
    return patches(images, options.patch, options.stride, chosen)


def _preprocessed(signals: Signals, options: InputOptions, *, subtract: bool) -> Signals:
    if subtract:
        signals = centre(signals)
    if options.norm == "unit":
        signals = normalise(signals)
    done = {"mean": "subtracted" if subtract else "kept", "norm": options.norm}
    return Signals(signals.values, signals.coordinates, signals.attributes | done)
