"""Random configuration files and command lines of the experiments' commands, all of which must be refused."""

from __future__ import annotations

import json
import os
import random
import string
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from experiments import ablate, evaluate, figures, learn_dictionary, overfit, quickstart, records, series, table2, train
from experiments.benchmark import __main__ as benchmark
from experiments.options.plain_data import as_plain
from experiments.settings import Settings
from tests.fuzz.sandbox import Foreign, called

#: Every command, with arguments that leave it nothing to work on. So no command line computes for long.
COMMANDS: dict[str, tuple[Callable[..., int], list[str]]] = {
    "train": (train.main, ["--data.root", "nothing"]),
    "evaluate": (evaluate.main, ["nothing"]),
    "ablate": (ablate.main, ["nothing"]),
    "series": (series.main, ["--page", "nothing"]),
    "table2": (table2.main, ["--models", "[nothing]"]),
    "figures": (figures.main, ["atoms", "--models", "[nothing]", "--images", "[x.png]", "--out", "holiday.png"]),
    "overfit": (overfit.main, ["--data.root", "nothing"]),
    "learn_dictionary": (learn_dictionary.main, ["--neurons", "0"]),
    "quickstart": (quickstart.main, ["--out", "thesis.txt"]),
    "records": (records.main, ["nothing"]),
    "benchmark": (benchmark.main, ["nothing"]),
}

NAMES = [
    "model", "model.name", "model.sizes", "model.attention", "model.attention.ode", "model.attention.lam", "data",
    "data.root", "data.mean", "data.train", "data.image_size", "augmentation.crop", "augmentation.auto_augment",
    "optimization.lr", "optimization.batch_size", "optimization.batch", "epochs", "seed", "out", "finetune", "resume",
    "devices", "accelerator", "precision", "validation", "attention.kind", "attention.lam", "on", "label", "weights",
    "corruptions.names", "corruptions.severities", "corruptions.folder", "attacks.radius", "attacks.steps",
    "pacs.config",
    "maps.layer", "gaze.speed", "batch_size", "workers", "device", "num_steps", "lam", "solver", "threshold", "ode",
    "runs", "ablations", "seeds", "train.model.sizes", "train", "evaluation", "report", "page", "models", "images",
    "layer", "animation", "count", "modes", "horizon", "gradient", "small", "steps", "rounds", "list", "print_config",
    "colour", "", "config", "help.me", "model..name", ".", "model.sizes.class_path", "runs.a.kind", "data.train+",
]  # fmt: skip

WORDS = [
    "nan", ".nan", "inf", "-.inf", "-1", "0", "1e400", "1e-400", "9" * 30, "9" * 5000, "true", "null", "~", "", " ",
    "x", "[]", "{}", "[[", "{a: ", "&a [*a]", "*a", "<<: x", "!!python/name:os.system", "'", '"', "\0", "\n", "\t",
    "é", "💥",
    "[" * 3000, "{a: " * 500, "a: &a [x]\nb: *a", "a: 1\na: 2", "os.system", "trap.Trap", "/dev/zero", "/proc/self/mem",
    "/dev/tty", "pipe", "folder", "thesis.txt", "holiday.png", "../..", "-", "--", "2024-01-01", "1:30", "0x10",
    "{class_path: os.system, init_args: {command: touch trapped}}", "[{class_path: trap.Trap}]", "{pretrained: true}",
    "{checkpoint_path: thesis.txt}", "{embed_dim: 99999999999}", "{depth: [1, 2]}", "{a: {kind: vars_d}}", "hf-hub:x/y",
    "{a: {of: b, setting: lam, values: [.nan], meaning: x}}", "timm:resnet18=thesis.txt", "timm:x", "cuda", "cuda:9",
]  # fmt: skip


QUICK = 30


def run(count: int, seed: int, folder: Path) -> list[str]:
    """Run `count` random command lines, half of them with a random file of options, and return the faults."""
    draw, faults = random.Random(seed), []
    foreign = Foreign(folder)
    (folder / "trap.py").write_text("open('trapped', 'w')\nclass Trap: pass\n")
    if not (folder / "pipe").exists():
        os.mkfifo(folder / "pipe")
    before = {path.name for path in folder.iterdir()}
    sys.path.insert(0, str(folder))
    try:
        for number in range(count):
            name = draw.choice(list(COMMANDS))
            main, words = COMMANDS[name]
            arguments = [*words]
            if number % 2 and name != "benchmark":
                file = folder / f"config-{number}.yaml"
                file.write_text(_file(draw), encoding="utf-8", errors="surrogatepass")
                arguments += ["--config", draw.choice([file.name, f"{file.name}", str(file), "pipe", "folder"])]
            for _ in range(draw.randint(0 if number % 2 else 1, 3)):
                option, value = f"--{draw.choice(NAMES)}", draw.choice([draw.choice(WORDS), _text(draw)])
                arguments += draw.choice([[option, value], [f"{option}={value}"], [option], [value]])
            found = called(main, arguments, folder, 20.0)
            wrong = found.faults((0, 2) if name == "benchmark" or _asks_for_help(arguments) else (2,))
            wrong += [f"touched {each}" for each in foreign.touched()]
            made = {path.name for path in folder.iterdir() if not path.name.startswith("config-")} - before
            wrong += [f"made {each}" for each in sorted(made)]
            before |= made
            faults += [f"{number}: {name} {' '.join(map(repr, arguments))[:300]}: {each}" for each in wrong]
            for file in folder.glob("config-*.yaml"):
                file.unlink()
    finally:
        sys.path.remove(str(folder))
    return faults


def _asks_for_help(arguments: Sequence[str]) -> bool:
    return any(word.startswith(("--help", "--print_config", "-h")) for word in arguments)


def _text(draw: random.Random) -> str:
    return "".join(draw.choices(string.printable + "{}[]:&*!,'\"-" * 3, k=draw.randint(0, 30)))


def _file(draw: random.Random) -> str:
    """A file of options: known names with other values, a damaged file, or noise."""
    kind = draw.random()
    if kind < 0.1:
        return _text(draw)
    tree: dict[str, Any] = {}
    for _ in range(draw.randint(1, 4)):
        inner = tree
        *path, last = (draw.choice(NAMES) or "x").split(".")
        for part in path:
            found = inner.setdefault(part, {})
            if not isinstance(found, dict):
                break
            inner = found
        inner[last] = _value(draw)
    if kind < 0.3:
        tree = {**as_plain(Settings()), **tree}
    text = yaml.safe_dump(tree) if kind < 0.8 else json.dumps(tree, default=str)
    if draw.random() < 0.3:
        at = draw.randrange(len(text))
        text = text[:at] + draw.choice([draw.choice(WORDS), _text(draw)]) + text[at + draw.randint(0, 3) :]
    return text


def _value(draw: random.Random, depth: int = 0) -> Any:
    if depth < 3 and draw.random() < 0.3:
        items = [_value(draw, depth + 1) for _ in range(draw.randint(0, 3))]
        return (
            items if draw.random() < 0.5 else {draw.choice(["a", "class_path", "init_args", "kind"]): v for v in items}
        )
    if draw.random() < 0.4:
        return draw.choice([None, True, -1, 0, 3, 10**40, 0.5, -1e300, float("nan"), float("inf")])
    word = draw.choice(WORDS)
    try:
        return yaml.safe_load(word) if len(word) < 100 and "&" not in word else word
    except (yaml.YAMLError, ValueError):
        return word
