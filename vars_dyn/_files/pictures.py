"""Recognise the pictures that a simulation made. Only these may be replaced."""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image

__all__ = ["is_our_picture"]


def is_our_picture(path: Path) -> bool:
    """Whether a picture carries the mark of a simulation: PNG's Software, Creator in PDF and SVG, a comment."""
    try:
        if path.is_symlink() or not path.is_file():
            return False
        if path.suffix.lower() == ".png":
            with Image.open(path, formats=("PNG",)) as image:
                return str(image.info.get("Software", "")).startswith("vars_dyn")
        with path.open("rb") as file:
            start = file.read(1 << 16)
            file.seek(max(0, path.stat().st_size - (1 << 16)))
            around = start + file.read()
        if path.suffix.lower() in (".gif", ".mp4"):  # the comment, among the first or the last bytes
            return (start[:4] == b"GIF8" or start[4:8] == b"ftyp") and b"vars_dyn " in around
        if path.suffix.lower() == ".pdf":
            return start.startswith(b"%PDF") and re.search(rb"/Creator \(vars_dyn ", around) is not None
        return re.search(rb"<dc:creator>\s*<cc:Agent>\s*<dc:title>vars_dyn ", around) is not None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
