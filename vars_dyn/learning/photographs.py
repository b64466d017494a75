"""The photographs that installed packages ship, so that a first run needs no data."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from matplotlib import cbook

__all__ = ["photographs"]

#: Natural photographs in packages that may be installed; matplotlib always is.
_OTHERS = {
    "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
    "skimage": tuple(
        f"data/{name}"
        for name in ("astronaut.png", "camera.png", "chelsea.png", "coffee.png", "grass.png", "gravel.png")
    ),
}


def photographs() -> list[Path]:
    """The files of photographs: matplotlib's, and those of scikit-learn and scikit-image where they are installed."""
    found = [Path(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))]
    for package, names in _OTHERS.items():
        specification = find_spec(package)
        for place in (specification.submodule_search_locations or ()) if specification else ():
            found += [Path(place, name) for name in names if Path(place, name).is_file()]
    return found
