"""Images as signals: how they are read, cut into patches, and assembled from patches."""

from vars_dyn.images.reading import (
    FORMATS,
    IMAGE_SUFFIXES,
    Pages,
    Picture,
    image_files,
    read_image,
    read_picture,
    read_rgb,
)
from vars_dyn.images.signals import Signals, assemble, centre, crop, normalise, patch_count, patches, resized

__all__ = [
    "FORMATS",
    "IMAGE_SUFFIXES",
    "Pages",
    "Picture",
    "Signals",
    "assemble",
    "centre",
    "crop",
    "image_files",
    "normalise",
    "patch_count",
    "patches",
    "read_image",
    "read_picture",
    "read_rgb",
    "resized",
]
