"""PACS: fine-tune on three domains, test on the fourth, for every domain and both ways of splitting.

Li et al., "Deeper, Broader and Artier Domain Generalization", ICCV 2017. The folder PACS has a folder per domain, and
each of these has a folder of images per class. The official splits are <domain>_{train,crossval,test}_kfold.txt, in
PACS or in a folder below, with lines "<domain>/<class>/<file> <label from 1>". DomainBed (Gulrajani & Lopez-Paz, ICLR
2021) holds out a random share of the images instead.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from experiments.data.images import Labelled, folder_classes, image_files, read_image
from experiments.evaluation.suites.classification import Classification, accuracy
from experiments.evaluation.suites.suite import Options, Subject, SuitePart, Tally
from experiments.options.plain_data import as_plain
from experiments.report import tables
from experiments.report.published import PACS_DOMAINS, published_of
from experiments.settings import Settings
from experiments.training import checkpoints
from experiments.training.checkpoints import Checkpoint
from experiments.training.loop import train
from experiments.training.networks import Normalized, build_model
from experiments.training.parsing import read_settings

__all__ = ["DOMAINS", "SPLITS", "Pacs", "PacsTransfer"]

DOMAINS = ("art_painting", "cartoon", "photo", "sketch")

#: Ways of splitting: the official lists, or a random share held out.
SPLITS = ("kfold", "domainbed")


@dataclass
class Pacs:
    """Fine-tuning on PACS.

    Attributes:
        splits: how the images are split: kfold (by the official lists; the epoch that is best on the crossval images
            of the three domains is tested), domainbed (a random share of each of the three domains is held out to
            choose the epoch by), or both.
        targets: domains to test on.
        held_out: the share that domainbed holds out.
        config: YAML file that says how to train, as `experiments.train` takes it; its model and data are not used.
    """

    splits: list[str] = field(default_factory=lambda: list(SPLITS))
    targets: list[str] = field(default_factory=lambda: list(DOMAINS))
    held_out: float = 0.2
    config: str = str(Path(__file__).parents[2] / "configs" / "pacs.yaml")

    def check(self) -> None:
        """Raise ValueError for an unknown split or domain, or a share that is not between 0 and 1."""
        for name, values, known in (("splits", self.splits, SPLITS), ("targets", self.targets, DOMAINS)):
            if not values:
                raise ValueError(f"pacs.{name} is empty; one of {', '.join(known)} is wanted")
            for value in values:
                if value not in known:
                    raise ValueError(f"pacs.{name} has {value!r}; one of {', '.join(known)} is wanted")
        if not 0 < self.held_out < 1:
            raise ValueError(f"pacs.held_out is {self.held_out}; a share between 0 and 1 is wanted")


class _Options(Options, Protocol):
    """The options of fine-tuning."""

    pacs: Pacs


class PacsTransfer(Classification):
    """Fine-tunes on three domains and tests on the fourth. A part is one target domain of one split.

    A model is fine-tuned in `out`/pacs, and an interrupted run is resumed there. It is tested on the whole domain.
    """

    how: _Options
    name = "pacs"
    needs = "PACS"
    groups = ("pacs",)

    def options(self) -> Any:
        chosen = {name: value for name, value in asdict(self.how.pacs).items() if name not in ("splits", "targets")}
        return [chosen, self.how.seed, as_plain(_training(self.how.pacs.config))]

    def selection(self) -> Any:
        return [super().selection(), sorted(self.how.pacs.splits), sorted(self.how.pacs.targets)]

    def parts(self) -> Iterator[SuitePart]:
        root = self.subject.folder(self.needs)
        for split in self.how.pacs.splits:
            for target in self.how.pacs.targets:
                yield SuitePart(
                    f"{split}/{target}", _images(root, split, "test", [target], self.how.pacs, self.how.seed)
                )

    def tally(self, part: SuitePart) -> Tally:
        split, target = part.name.split("/")
        sources = [domain for domain in DOMAINS if domain != target]
        root, options, seed = self.subject.folder(self.needs), self.how.pacs, self.how.seed
        images = [_images(root, split, stage, sources, options, seed) for stage in ("train", "crossval")]
        settings = self._settings(split, target, sources, root)
        train(settings, (images[0], images[1]))
        tested = PacsTransfer(self._tuned(settings, part.images.classes), self.how)
        tested.kept = self.kept
        return tested.count(part, tested.batches(part))

    def _settings(self, split: str, target: str, sources: list[str], root: Path) -> Settings:
        base, out = self.subject.settings, self.subject.out
        if base is None or out is None:
            raise ValueError("pacs trains a model; its settings and a folder for the runs are wanted")
        folder = out / "pacs" / self.subject.digest()[:12]
        settings = _training(self.how.pacs.config)
        settings.model = copy.deepcopy(base.model)
        settings.data = replace(
            base.data,
            source="folder",
            root=str(root),
            train=sources,
            val=sources,
            train_images=None,
            val_images=None,
            in_memory=False,
        )
        settings.seed, settings.probe_images, settings.progress = self.how.seed, 0, self.how.progress
        settings.out, settings.resume = str(folder / split / target), True
        settings.accelerator = "cpu" if self.subject.device.type == "cpu" else "auto"
        settings.finetune = str(self._start(folder / "start", base))
        return settings

    def _start(self, folder: Path, base: Settings) -> Path:
        """Write the model that is evaluated as the checkpoint that fine-tuning starts from."""
        if not (folder / "epoch-0000" / "state.json").is_file():
            network = getattr(self.subject.model, "network", self.subject.model)
            state = {"config": as_plain(base), "classes": list(self.subject.classes), "epoch": 0, "best": {"epoch": 0}}
            checkpoints.write(folder, Checkpoint(network.state_dict(), state))
        return folder / "epoch-0000"

    def _tuned(self, settings: Settings, classes: Sequence[str]) -> Subject:
        """The best checkpoint of a fine-tuning run, as the subject to test."""
        path = checkpoints.find(settings.out)
        network = build_model(settings.model, len(classes), settings.data.image_size)
        checkpoints.load_weights(network, checkpoints.read(path, weights_only=True).weights, str(path))
        model = Normalized(network, settings.data.mean, settings.data.std).to(self.subject.device).eval()
        return Subject(model, settings.data, classes)

    def records(self, tallies: Mapping[str, Tally]) -> Iterator[dict[str, Any]]:
        by_split: dict[str, list[dict[str, Any]]] = {}
        for part, tally in tallies.items():
            split, target = part.split("/")
            record = accuracy([tally])
            by_split.setdefault(split, []).append(record)
            yield {**record, "split": split, "target": target, **self.interval([part])}
        for split, own in by_split.items():
            if len(own) == len(DOMAINS):
                value, images = (sum(record[name] for record in own) for name in ("value", "images"))
                yield {"metric": "mean_accuracy", "split": split, "value": value / len(own), "images": images}

    @classmethod
    def report(cls, found: Sequence[Mapping[str, Any]], out: Path) -> None:
        rows = []
        for split in dict.fromkeys(record["split"] for record in found):
            own = {record.get("target", "mean"): record["value"] for record in found if record["split"] == split}
            rows.append([split, *(f"{100 * own[name]:.1f}" if name in own else None for name in (*DOMAINS, "mean"))])
        paper = published_of(found[0])
        if paper is not None and paper.pacs is not None:
            values = dict(zip(PACS_DOMAINS, paper.pacs, strict=True))
            mean = sum(values.values()) / len(values)
            shown = [f"{values[name]:.1f}" for name in DOMAINS]
            rows.append([f"paper: {paper.label}, split not said", *shown, f"{mean:.1f}"])
        (out / "pacs.md").write_text(tables.markdown(["split", *DOMAINS, "mean"], rows, left=1))


def _training(config: str) -> Settings:
    return read_settings(["--config", config])


def _images(root: Path, split: str, stage: str, domains: Sequence[str], options: Pacs, seed: int) -> Labelled:
    """The images of a stage (train, crossval, test) of some domains."""
    classes = folder_classes(root / domains[0])
    entries: list[Path] = []
    labels: list[int] = []
    for domain in domains:
        if folder_classes(root / domain) != classes:
            raise ValueError(f"{root / domain} has other classes than {root / domains[0]}; the same are wanted")
        found = _listed(root, domain, stage, classes) if split == "kfold" else _shared(root, domain, classes)
        if split == "domainbed" and stage != "test":
            found = _share(found, stage, options.held_out, [seed, DOMAINS.index(domain)])
        entries += [path for path, _ in found]
        labels += [label for _, label in found]
    return Labelled(entries, labels, classes, read_image)


def _listed(root: Path, domain: str, stage: str, classes: Sequence[str]) -> list[tuple[Path, int]]:
    """The images of an official list. Raises ValueError if it is missing, or disagrees with the folders."""
    name = f"{domain}_{stage}_kfold.txt"
    files = sorted([*root.glob(name), *root.glob(f"*/{name}")])
    if not files:
        raise ValueError(f"{root} has no {name}, in itself or in a folder below; the official list is wanted")
    found = []
    for number, line in enumerate(files[0].read_text().splitlines(), 1):
        if not line.strip():
            continue
        path, _, label = line.strip().rpartition(" ")
        known = label.isdigit() and 1 <= int(label) <= len(classes)
        if not known or Path(path).parent.name != classes[int(label) - 1]:
            raise ValueError(
                f"{files[0]}, line {number}, is {line!r}; <domain>/<class>/<file> <class from 1> is wanted"
            )
        found.append((root / path, int(label) - 1))
    return found


def _shared(root: Path, domain: str, classes: Sequence[str]) -> list[tuple[Path, int]]:
    return [(path, label) for label, name in enumerate(classes) for path in image_files(root / domain / name)]


def _share(found: list[tuple[Path, int]], stage: str, held_out: float, seed: list[int]) -> list[tuple[Path, int]]:
    """The random share that is held out (stage crossval), or the rest."""
    order = np.random.default_rng(seed).permutation(len(found))
    cut = round(held_out * len(found))
    chosen = order[:cut] if stage == "crossval" else order[cut:]
    return [found[i] for i in sorted(chosen)]
