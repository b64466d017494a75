"""Movies whose frames are pictures: the images of a folder, and the pages of a TIFF."""

from __future__ import annotations

import re
from pathlib import Path

from vars_dyn.images import Pages, Picture, image_files, read_picture
from vars_dyn.movies.source import Source

__all__ = ["Folder", "Paged"]


class Folder(Source):
    """The image files of a folder. The numbers in their names order them, so that 10 comes after 9."""

    def __init__(self, folder: Path) -> None:
        self.files = sorted(image_files(folder), key=lambda file: _natural(file.name))
        self.count = len(self.files)

    def picture(self, number: int, *, colour: bool) -> Picture:
        return read_picture(self.files[number], colour=colour)

    def close(self) -> None:
        """Nothing is open."""


def _natural(name: str) -> list[tuple[int, int | str]]:
    parts = re.split(r"(\d+)", name)
    return [*((1, int(part)) if part.isdecimal() else (0, part) for part in parts), (0, name)]


class Paged(Source):
    """The pages of a TIFF."""

    def __init__(self, path: Path) -> None:
        self._pages, self.files = Pages(path), [path]
        self.count = self._pages.count

    def picture(self, number: int, *, colour: bool) -> Picture:
        return self._pages.picture(number, colour=colour)

    def close(self) -> None:
        self._pages.close()
