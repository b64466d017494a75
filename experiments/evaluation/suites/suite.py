"""A suite is a data set and a measurement, split into parts that can be done one by one.

A suite names its parts, tallies each, and makes records from all tallies. A tally has sums that JSON can hold, such as
how many images are right. `run_suite` does the parts, and skips those that the ledger of an interrupted run has. A part
is a fixed range of images, so the tallies depend neither on the batch size nor on where a run was interrupted.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import nn
from tqdm import tqdm

from experiments.data.images import Labelled
from experiments.evaluation.parts import IMAGES_OF_A_PART, SuitePart, chunks
from experiments.evaluation.per_image import Described, PerImage
from experiments.options.plain_data import as_plain
from experiments.settings import Data, Settings
from vars_dyn.attention import VarsAttention
from vars_dyn.recording.provenance import digest

__all__ = ["IMAGES_OF_A_PART", "Ledger", "Options", "Subject", "Suite", "SuitePart", "Tally", "chunks", "run_suite"]

#: What was measured on a part, as sums that JSON can hold.
Tally = Mapping[str, Any]


class Options(Protocol):
    """What every suite reads from `experiments.evaluation.run.Evaluation`, which explains these attributes.

    A suite with a group of options of its own (see `Suite.groups`) adds the group in its own protocol.
    """

    seed: int
    batch_size: int
    workers: int
    predictions: Literal["scores", "logits"]
    progress: bool


@dataclass
class Subject:
    """What is evaluated, and where its data lie.

    Attributes:
        model: maps images in [0, 1] to logits (see `experiments.training.networks.Normalized`), in eval mode.
        data: the size and crop of its images.
        classes: the names of its logits.
        images: the images that it was validated on; None: there are none.
        settings: the settings of its training, for suites that train it further; None: unknown.
        root: the folder that the data sets of suites lie in, each under its own name; None: there is no such folder.
        out: where suites that train put their runs; None: nowhere.
        other: another model of the same images and classes, whose adversarial images are tried on this one.
    """

    model: nn.Module
    data: Data
    classes: Sequence[str]
    images: Labelled | None = None
    settings: Settings | None = None
    root: Path | None = None
    out: Path | None = None
    other: Subject | None = None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        tensor = next((each for each in (*self.model.parameters(), *self.model.buffers())), None)
        return torch.device("cpu") if tensor is None else tensor.device

    def folder(self, name: str) -> Path:
        """The folder of a data set. Raises ValueError if it is not there."""
        if self.root is None:
            raise ValueError(f"the folder that has {name} is not given; give --data ROOT")
        if not (self.root / name).is_dir():
            raise ValueError(f"{self.root} has no folder {name}; one laid out as docs/howto/paper.md says is wanted")
        return self.root / name

    def digest(self) -> str:
        """SHA-256 of the weights, the architecture and how images are made. Equal digests mean equal results."""
        data = [self.data.image_size, self.data.crop, list(self.data.mean), list(self.data.std)]
        variants = [layer.variant for layer in self.model.modules() if isinstance(layer, VarsAttention)]
        words = f"{self.model} {variants} {data} {digest(self.model.state_dict().values())}"
        return hashlib.sha256(words.encode()).hexdigest()


class Suite(ABC):
    """A measurement on a data set. A new one is a class in a file of this folder, named in `_ALL` of its `__init__`.

    Attributes:
        name: its name in `--on` and in the records' field "on".
        needs: the folder below `Subject.root` that the suite reads; None: it measures on `Subject.images`.
        default: whether it is measured when no suites are named, if it needs no folder.
        groups: the groups of `Evaluation`'s options that the suite takes; a group's `check`, if it has one, raises
            ValueError for bad options.
    """

    name: ClassVar[str]
    needs: ClassVar[str | None] = None
    default: ClassVar[bool] = True
    groups: ClassVar[tuple[str, ...]] = ()

    def __init__(self, subject: Subject, how: Options) -> None:
        self.subject, self.how = subject, how
        self.kept = PerImage(None, self.stored)

    @property
    def stored(self) -> Mapping[str, Described]:
        """The arrays that `tally` adds to `kept` for the images of a part. By default there are none."""
        return {}

    def axes(self, part: SuitePart) -> Mapping[str, Sequence[Any]]:
        """The labels along dimensions of `stored` other than the image; they are the same for every part."""
        return {}

    def options(self) -> Any:
        """What tallies depend on besides the model and the images, as plain data."""
        return {}

    def selection(self) -> Any:
        """Which parts there are, as plain data. Records depend on this besides `options`."""
        return [str(self.subject.root.absolute()) if self.needs and self.subject.root is not None else None]

    def measurement(self) -> list[Any]:
        """What this measures, as plain data. Two measurements with the same value give the same records."""
        settings = self.subject.settings
        images = None if self.needs or settings is None else as_plain(settings.data)
        return [self.name, self.subject.digest(), self.options(), self.selection(), images]

    @property
    def place(self) -> str:
        """The store of what is found for each image, below the folder of the results."""
        words = json.dumps(self.measurement(), sort_keys=True)
        return f"predictions/{self.name}-{hashlib.sha256(words.encode()).hexdigest()[:16]}.zarr"

    @abstractmethod
    def parts(self) -> Iterator[SuitePart]:
        """Yield the parts. Raises ValueError for missing data."""

    @abstractmethod
    def tally(self, part: SuitePart) -> Tally:
        """Measure one part, and return sums that JSON can hold."""

    @abstractmethod
    def records(self, tallies: Mapping[str, Tally]) -> Iterator[dict[str, Any]]:
        """Yield records {metric, value, ...} of all tallies. `tallies` has them by the names of the parts, in order."""

    @classmethod  # noqa: B027  # most suites have nothing to add
    def report(cls, found: Sequence[Mapping[str, Any]], out: Path) -> None:
        """Write figures or tables of this suite's records into `out`. By default there are none."""

    @property
    def images(self) -> Labelled:
        """The validation images of the model. Raises ValueError if there are none, or if their classes are others."""
        images = self.subject.images
        if images is None:
            raise ValueError(f"{self.name} measures on validation images; give --validation '{{root: FOLDER}}'")
        if list(images.classes) != list(self.subject.classes):
            raise ValueError(
                f"the validation images have {len(images.classes)} classes that are not the "
                f"{len(self.subject.classes)} of the model; the same are wanted"
            )
        if not len(images):
            raise ValueError("there are no validation images; at least one is wanted")
        return images


class Ledger:
    """The tallies of the finished parts of one suite for one model and one set of options. Each is a line of JSON.

    Attributes:
        key: a name that suites of another kind, of another model or with other options do not have.
    """

    def __init__(self, folder: Path | None, suite: Suite) -> None:
        self.path: Path | None = None
        self.known: dict[str, dict[str, Any]] = {}
        words = json.dumps([suite.name, suite.subject.digest(), suite.options()], sort_keys=True)
        self.key = f"{suite.name}-{hashlib.sha256(words.encode()).hexdigest()[:16]}"
        if folder is not None:
            self.path = folder / f"{self.key}.jsonl"
            self._read(self.path)

    def _read(self, path: Path) -> None:
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        whole = [line for line in lines if line.endswith("\n")]  # an interruption leaves a line without its end
        if len(whole) < len(lines):
            path.write_text("".join(whole))
        for line in map(json.loads, whole):
            self.known[line["part"]] = line

    def find(self, part: SuitePart) -> Tally | None:
        """The tally of a finished part. None if the part is not finished, or its tally was of other images."""
        line = self.known.get(part.name)
        return line["tally"] if line is not None and line["images"] == part.digest else None

    def add(self, part: SuitePart, tally: Tally) -> None:
        """Note that a part is finished."""
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(json.dumps({"part": part.name, "images": part.digest, "tally": tally}) + "\n")


def run_suite(suite: Suite, folder: Path | None = None) -> Iterator[dict[str, Any]]:
    """Yield the records of a suite. Parts that the ledger in `folder` has as finished are not measured again.

    What the suite finds for each image goes to a zarr store beside `folder`, at `suite.place`.
    """
    ledger = Ledger(folder, suite)
    suite.kept = PerImage(None if folder is None else folder / ledger.key, suite.stored)
    tallies: dict[str, Tally] = {}
    axes: Mapping[str, Sequence[Any]] = {}
    shown = None if suite.how.progress else True
    for part in tqdm(suite.parts(), desc=suite.name, unit=" parts", disable=shown, leave=False):
        tally = ledger.find(part)
        if tally is None or (suite.stored and not suite.kept.holds(part)):
            tally = suite.tally(part)
            ledger.add(part, tally)
        tallies[part.name], axes = tally, suite.axes(part)
    if folder is not None and suite.stored:
        about = {"suite": suite.name, "weights": suite.subject.digest()[:16], "evaluation_seed": suite.how.seed}
        suite.kept.publish(folder.parent / suite.place, list(tallies), axes, about)
    for record in suite.records(tallies):
        yield {"on": suite.name, **record}
