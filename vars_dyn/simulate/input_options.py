"""The options of INPUT and of the dictionary."""

# ruff: noqa: RUF009 -- `option` and `flag` only call dataclasses.field
from __future__ import annotations

from dataclasses import dataclass

from vars_dyn.simulate import values as read
from vars_dyn.simulate.declaring import flag, option

__all__ = ["DictionaryOptions", "InputOptions"]


@dataclass(frozen=True)
class InputOptions:
    """signals"""

    input: list[str] = option(
        None,
        lambda text: str(read.path(text)),
        "image files, or folders of them (PNG, JPEG, TIFF, BMP, PPM, WebP); sounds (WAV); movies (MP4, MKV, AVI, ..., "
        "or TIFFs of several pages); or one .npy file or zarr array of two dimensions (one signal per row) or three (a "
        "stack of grey images). Default: the photograph of Grace Hopper that comes with matplotlib",
        "INPUT",
    )
    whole: bool = flag("code each image whole with a convolutional dictionary, instead of cutting it into patches")
    movie: bool = flag("take the images of each folder, or of an array, as the frames of one movie")
    clip: read.Clip | None = option(
        "none",
        read.or_none(read.clip),
        "part of a sound or movie to take, in samples or frames, or in seconds such as 0.5s,2s; with a STEP, every "
        "STEP-th frame (default: all)",
        "START,STOP[,STEP]",
    )
    channels: str = option(
        "separate",
        read.one_of("separate", "together", "mean"),
        "channels of a sound: each a signal of its own, all together one signal, or their mean",
        "separate|together|mean",
    )
    colour: bool = flag("keep the colours of images instead of turning them grey")
    crop: tuple[int, ...] | None = option(
        "none", read.or_none(read.box), "part of each image to take, in pixels (default: all)", "TOP,LEFT,HEIGHT,WIDTH"
    )
    scale: float | None = option(
        "none",
        read.or_none(read.number(0.0, above=True)),
        "factor that resizes each image or frame after the crop, and the rate of a sound (default: none)",
        "FACTOR",
    )
    full_scale: str | float = option(
        "auto",
        read.full_scale,
        "stored number that becomes 1. auto: the white of each image's depth (255 for 8 bits, 65535 for 16), the "
        "largest amplitude of a sound's (32768 for 16 bits), and 1 for arrays and whatever holds floats; dtype: as "
        "auto, and the largest number of an array's integer type; none: numbers stay as they are stored; or a number",
        "auto|dtype|none|NUMBER",
    )
    background: float = option(
        "1", read.fraction, "grey behind transparent pixels, from 0 (black) to 1 (white)", "GREY"
    )
    patch: int = option("16", read.count(2), "side of the square patches in pixels", "PIXELS")
    stride: int | None = option(
        "none",
        read.or_none(read.count(1)),
        "pixels from one patch to the next (default: the patch's side)",
        "PIXELS",
    )
    patches: int | None = option(
        "none", read.or_none(read.count(1)), "number of patches to draw at random by --seed (default: all)", "COUNT"
    )
    mean: str = option(
        "auto",
        read.one_of("auto", "subtract", "keep"),
        "what to do with each signal's mean. auto: subtract it from images, keep it in an array's rows",
        "auto|subtract|keep",
    )
    norm: str = option("keep", read.one_of("keep", "unit"), "unit divides each signal by its norm", "keep|unit")


@dataclass(frozen=True)
class DictionaryOptions:
    """dictionary"""

    dictionary: str = option(
        "gabor",
        str,
        "gabor; gammatone, for sounds; random:M (M normally distributed atoms of norm 1); or a .npy file of shape "
        "(d, d'), of templates (M, C, *k) for what is coded whole, a .safetensors[:NAME] file, or a zarr array",
        "DICTIONARY",
    )
    orientations: int = option("4", read.count(1), "Gabor bank: number of orientations", "COUNT")
    scales: int | None = option(
        "none",
        read.or_none(read.count(1)),
        "Gabor bank: number of scales, an octave apart (default: 3; 2 with --whole)",
        "COUNT",
    )
    phases: int = option("2", read.count(1), "Gabor bank: number of phases", "COUNT")
    places: int = option(
        "4", read.count(1), "without --whole: places of the Gabor bank along each side, at the finest scale", "COUNT"
    )
    wavelength: float = option("4", read.number(2.0), "Gabor bank: shortest wavelength in pixels", "PIXELS")
    speeds: tuple[float, ...] = option(
        "0,1", read.speeds, "Gabor bank of movies: speeds of the templates, in pixels per frame", "SPEEDS"
    )
    bands: int = option("24", read.count(1), "gammatones and Gabor bank of sounds: number of frequencies", "COUNT")
    kernel: tuple[int, ...] | None = option(
        "auto",
        read.or_auto(read.sides(1)),
        "for what is coded whole: sides of the templates, one number or one for each dimension. auto: 11 pixels, 5 "
        "frames (5,11,11 for movies), 512 samples",
        "SIDES|auto",
    )
    conv_stride: tuple[int, ...] | None = option(
        "auto",
        read.or_auto(read.sides(1)),
        "for what is coded whole: from one place of a template to the next. auto: 4 pixels, 2 frames (2,4,4 for "
        "movies), 64 samples",
        "SIDES|auto",
    )
