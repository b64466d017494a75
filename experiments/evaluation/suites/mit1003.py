"""How well an attention map predicts where people look, on MIT1003 (the paper's fixation experiment).

Judd et al., "Learning to predict where humans look", ICCV 2009. The suite reads MIT1003/ALLSTIMULI/<image>.jpeg and
MIT1003/DATA/<subject>/<image>.mat. The latter holds a struct with the image's name, whose DATA.eyeData has the gaze at
240 Hz, x and y in pixels of the image, counted from 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, Int
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from experiments.data.images import Labelled, read_image
from experiments.evaluation.measures import saliency
from experiments.evaluation.suites.mapped import MapOptions, MapSuite
from experiments.evaluation.suites.suite import SuitePart, Tally, chunks

__all__ = ["Gaze", "Mit1003", "fixations_of", "gaze_files", "read_gaze", "subjects_of"]

#: Metrics, by the name of the record.
METRICS = ("nss", "auc_judd", "cc")


@dataclass
class Gaze:
    """What counts as a fixation.

    Attributes:
        pixels_per_degree: pixels per degree of visual angle; also the width of the density that CC compares with.
        speed: gaze that is slower, in degrees per second, can be a fixation.
        shortest: how many seconds slow gaze lasts at least to be a fixation.
    """

    pixels_per_degree: float = 34.0
    speed: float = 30.0
    shortest: float = 0.05

    def check(self) -> None:
        """Raise ValueError for a number that is not positive."""
        for name, value in asdict(self).items():
            if not 0 < value < float("inf"):
                raise ValueError(f"gaze.{name} is {value}; a number above 0 is wanted")


class _Options(MapOptions, Protocol):
    """The options of attention maps and of fixations."""

    gaze: Gaze


class Mit1003(MapSuite):
    """NSS, AUC-Judd and CC, each a mean over images, against the fixations of all subjects together.

    Each subject's first fixation, which is where the cross was, and those off the image are dropped. Images without
    fixations are left out of the means, and subjects without a file for an image are left out at that image. The
    records count both.
    """

    how: _Options
    name = "mit1003"
    needs = "MIT1003"
    groups = ("maps", "gaze")

    def parts(self) -> Iterator[SuitePart]:
        root = self.subject.folder(self.needs)
        images = sorted((root / "ALLSTIMULI").glob("*.jpeg"))
        if not images:
            raise ValueError(f"{root} has no ALLSTIMULI/*.jpeg; the images are wanted")
        subjects = subjects_of(root)
        if not subjects:
            raise ValueError(f"{root} has no DATA/<subject>; at least one folder of gaze is wanted")
        entries = [(path, *gaze_files(path, subjects)) for path in images]
        yield from chunks(self.name, Labelled(entries, [0] * len(entries), ["image"], read_image), 100)

    def options(self) -> Any:
        root = self.subject.folder(self.needs)
        return [super().options(), asdict(self.how.gaze), [subject.name for subject in subjects_of(root)]]

    def tally(self, part: SuitePart) -> Tally:
        sums = dict.fromkeys(METRICS, 0.0)
        counts = dict.fromkeys(("images", "fixations", "images_without_fixations", "missing_files"), 0)
        subjects = len(subjects_of(self.subject.folder(self.needs)))
        for (_, *files), (_, found) in zip(part.images.entries, self.maps(part), strict=True):
            fixations = fixations_of(files, (found.shape[0], found.shape[1]), self.how.gaze)
            counts["missing_files"] += subjects - len(files)
            if not len(fixations):
                counts["images_without_fixations"] += 1
                continue
            counts["images"] += 1
            counts["fixations"] += len(fixations)
            values = found.numpy()
            sums["nss"] += saliency.nss(values, fixations)
            sums["auc_judd"] += saliency.auc_judd(values, fixations)
            sums["cc"] += saliency.cc(values, fixations, self.how.gaze.pixels_per_degree)
        return {**sums, **counts}

    def records(self, tallies: Mapping[str, Tally]) -> Iterator[dict[str, Any]]:
        names = ("images", "fixations", "images_without_fixations", "missing_files")
        counts = {name: sum(tally[name] for tally in tallies.values()) for name in names}
        if not counts["images"]:
            raise ValueError("no image of mit1003 has a fixation; at least one is wanted")
        for name in METRICS:
            value = sum(tally[name] for tally in tallies.values()) / counts["images"]
            yield {"metric": name, "value": value, **counts}


def subjects_of(root: Path) -> list[Path]:
    """The folders of gaze, one per subject, of MIT1003 at `root`."""
    return sorted(path for path in (root / "DATA").glob("*") if path.is_dir())


def gaze_files(image: Path, subjects: Sequence[Path]) -> list[Path]:
    """The files of the subjects that have one for an image."""
    return [file for file in (subject / f"{image.stem}.mat" for subject in subjects) if file.is_file()]


def fixations_of(files: Sequence[Path], size: tuple[int, int], gaze: Gaze) -> Int[np.ndarray, "n 2"]:
    """The fixations (row, column) in subjects' files, on an image of `size` (rows, columns)."""
    found = [np.empty((0, 2), dtype=np.int64)]
    for file in files:
        path = saliency.gaze_fixations(read_gaze(file), **asdict(gaze))[1:]
        pixels = np.floor(path[:, ::-1]).astype(np.int64) - 1
        found.append(pixels[((pixels >= 0) & (pixels < np.array(size))).all(1)])
    return np.concatenate(found)


def read_gaze(file: Path) -> Float[np.ndarray, "samples 2"]:
    """The gaze, x and y, of a subject's file for an image. Raises a ValueError that names the file if it has none."""
    try:
        content = loadmat(file, simplify_cells=True)
    except (OSError, ValueError, TypeError, NotImplementedError, MatReadError) as error:
        raise ValueError(f"{file} cannot be read ({' '.join(str(error).split())})") from None
    for name, value in content.items():
        data = value.get("DATA") if not name.startswith("__") and isinstance(value, dict) else None
        data = data[0] if isinstance(data, list | np.ndarray) and len(data) else data
        gaze = data.get("eyeData") if isinstance(data, dict) else None
        if gaze is not None and np.ndim(gaze) == 2:
            return np.asarray(gaze, dtype=np.float64)[:, :2]
    raise ValueError(f"{file} has no DATA.eyeData of shape (samples, 2 or more); MIT1003's layout is wanted")
