"""How well an attention map predicts where people look, on MIT1003 (the paper's fixation experiment).

Judd et al., "Learning to predict where humans look", ICCV 2009. The suite reads MIT1003/ALLSTIMULI/<image>.jpeg and
MIT1003/DATA/<subject>/<image>.mat. The latter holds a struct with the image's name, whose DATA.eyeData has the gaze at
240 Hz, x and y in pixels of the image, counted from 1.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, Int
from PIL import Image
from scipy.io import loadmat
from scipy.io.matlab import MatReadError
from tqdm import tqdm

from experiments.data.images import Labelled, read_image
from experiments.evaluation.measures import saliency
from experiments.evaluation.per_image import Described
from experiments.evaluation.suites.classification import interval_of
from experiments.evaluation.suites.mapped import MapOptions, MapSuite
from experiments.evaluation.suites.suite import SuitePart, Tally, chunks

__all__ = ["Gaze", "Mit1003", "fixations_of", "gaze_files", "read_gaze", "subjects_of"]

#: Metrics of a map, by the name of the record, with their meanings.
_OF_MAPS = {
    "nss": "normalised scanpath saliency",
    "auc_judd": "AUC against all other pixels",
    "cc": "correlation with the density of fixations",
    "sim": "similarity to the density of fixations",
    "kl": "divergence from the density of fixations, in nats",
}
METRICS = {
    **_OF_MAPS,
    "auc_shuffled": "AUC against the fixations on other images",
    "information_gain": "bits for each fixation beyond the density of fixations on other images",
    **{f"centre_{name}": f"{meaning}, of that on other images" for name, meaning in _OF_MAPS.items()},
}


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
    """How well maps tell the fixations of all subjects together: `METRICS`, each a mean over images.

    The centre bias is the density of the fixations on all other images, at the same share of height and width. The
    metrics that begin with `centre_` are those of this density in place of the map. If there is one image alone, they
    are left out, and so are the metrics that compare the map with other images.

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
        images = _stimuli(root)
        if not images:
            raise ValueError(f"{root} has no ALLSTIMULI/*.jpeg; the images are wanted")
        subjects = subjects_of(root)
        if not subjects:
            raise ValueError(f"{root} has no DATA/<subject>; at least one folder of gaze is wanted")
        entries = [(path, *gaze_files(path, subjects)) for path in images]
        yield from chunks(self.name, Labelled(entries, [0] * len(entries), ["image"], read_image), 100)

    def options(self) -> Any:
        root = self.subject.folder(self.needs)
        # What is compared with other images' fixations depends on which there are.
        stimuli = [path.name for path in _stimuli(root)]
        words = json.dumps([stimuli, sorted(f"{file.parent.name}/{file.name}" for file in root.glob("DATA/*/*.mat"))])
        digest = hashlib.sha256(words.encode()).hexdigest()
        return [super().options(), asdict(self.how.gaze), [subject.name for subject in subjects_of(root)], digest]

    @property
    def stored(self) -> Mapping[str, Described]:
        return {name: Described(meaning) for name, meaning in METRICS.items()}

    @cached_property
    def everywhere(self) -> dict[str, Float[np.ndarray, "n 2"]]:
        """The fixations on every image, by its name, as shares of its height and width."""
        root = self.subject.folder(self.needs)
        subjects, found = subjects_of(root), {}
        shown = None if self.how.progress else True
        for path in tqdm(_stimuli(root), desc="fixations", unit=" images", disable=shown, leave=False):
            size = _size(path)
            found[path.name] = (fixations_of(gaze_files(path, subjects), size, self.how.gaze) + 0.5) / size
        return found

    def tally(self, part: SuitePart) -> Tally:
        counts = dict.fromkeys(("images", "fixations", "images_without_fixations", "missing_files"), 0)
        subjects = len(subjects_of(self.subject.folder(self.needs)))
        values = {name: np.full(len(part.images), np.nan) for name in METRICS}
        for i, ((_, *files), (path, found)) in enumerate(zip(part.images.entries, self.maps(part), strict=True)):
            size = found.shape[0], found.shape[1]
            fixations = fixations_of(files, size, self.how.gaze)
            counts["missing_files"] += subjects - len(files)
            if not len(fixations):
                counts["images_without_fixations"] += 1
                continue
            counts["images"] += 1
            counts["fixations"] += len(fixations)
            for name, value in self._measured(found.numpy(), fixations, self._others(path, size)).items():
                values[name][i] = value
        self.kept.add(part, values)
        return counts

    def _others(self, path: Path, size: tuple[int, int]) -> Int[np.ndarray, "n 2"]:
        """The fixations on all other images, at the same share of the height and width of this one."""
        shares = [each for name, each in self.everywhere.items() if name != path.name]
        return np.floor(np.concatenate([np.empty((0, 2)), *shares]) * size).astype(np.int64)

    def _measured(self, values: np.ndarray, fixations: np.ndarray, others: np.ndarray) -> dict[str, float]:
        """All metrics that can be had. Those that compare with other images want some."""
        sigma = self.how.gaze.pixels_per_degree
        fixated = saliency.density(fixations, (values.shape[0], values.shape[1]), sigma)

        def compared(shown: np.ndarray) -> dict[str, float]:
            return {
                "nss": saliency.nss(shown, fixations),
                "auc_judd": saliency.auc_judd(shown, fixations),
                "cc": saliency.cc(shown, fixated),
                "sim": saliency.sim(shown, fixated),
                "kl": saliency.kl(shown, fixated),
            }

        found = compared(values)
        if len(others):
            centre = saliency.density(others, (values.shape[0], values.shape[1]), sigma)
            found["auc_shuffled"] = saliency.auc_shuffled(values, fixations, others)
            found["information_gain"] = saliency.information_gain(values, fixations, centre)
            found |= {f"centre_{name}": value for name, value in compared(centre).items()}
        return found

    def records(self, tallies: Mapping[str, Tally]) -> Iterator[dict[str, Any]]:
        names = ("images", "fixations", "images_without_fixations", "missing_files")
        counts = {name: sum(tally[name] for tally in tallies.values()) for name in names}
        if not counts["images"]:
            raise ValueError("no image of mit1003 has a fixation; at least one is wanted")
        for name, values in self.kept.together(list(tallies), list(METRICS)).items():
            known = values[~np.isnan(values)]
            if len(known):
                yield {"metric": name, "value": float(known.mean()), **counts, **interval_of(known, self.how.seed)}


def _size(path: Path) -> tuple[int, int]:
    """The height and width of an image. Raises ValueError for a file that is none."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except OSError:
        raise ValueError(f"{path} is no image; one of MIT1003 is wanted") from None


def _stimuli(root: Path) -> list[Path]:
    return sorted((root / "ALLSTIMULI").glob("*.jpeg"))


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
