"""Evaluate and resume damaged checkpoints. Each must give a sentence or a number, never a traceback or a hang."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file

from experiments import evaluate, train
from experiments.data.drawn import write_images
from experiments.options.plain_data import as_plain
from experiments.settings import Attention, Augmentation, Data, Model, Optimization, Settings
from tests.experiments.digests import without_digests
from tests.fuzz.sandbox import Foreign, called

_SIZES: dict[str, Any] = {"stem": "patch", "embed_dim": 8, "num_heads": 2, "depth": 1}

VALUES = [None, True, -1, 0, 7, 10**40, 0.5, 1e308, "x", "", [], {}, [[]], {"a": 1}, [None], "os.system", "../../x"]


QUICK = 12


def run(count: int, seed: int, folder: Path) -> list[str]:
    """Evaluate and resume `count` damaged checkpoints in turn, and return the faults."""
    draw, foreign = random.Random(seed), Foreign(folder)
    whole, arguments = _trained(folder)
    before = {path.name for path in folder.iterdir()} | {"copy"}
    faults = []
    for number in range(count):
        copy = folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(whole, copy)
        what = _damage(draw, copy / "checkpoints" / "epoch-0001")
        if number % 2:
            words = [*arguments, "--out", str(copy), "--resume"]
            found = called(train.main, words, folder, 30.0)
        else:
            words = [str(copy), "--on", "clean", "--progress", "false"]
            found = called(evaluate.main, words, folder, 30.0)
        wrong = [each for each in found.faults((0, 1, 2)) if not each.startswith("standard output")]
        wrong += [f"touched {each}" for each in foreign.touched()]
        wrong += [f"made {each}" for each in sorted({path.name for path in folder.iterdir()} - before)]
        if number % 2 and found.status == 2 and not (copy / "checkpoints" / "epoch-0001").is_dir():
            wrong.append("removed the checkpoint")
        faults += [f"{number}: {'resume' if number % 2 else 'evaluate'} after {what}: {each}" for each in wrong]
    return faults


def _trained(folder: Path) -> tuple[Path, list[str]]:
    """Train one epoch of two. Returns the run's folder and the arguments that resume it."""
    write_images(folder / "images", 2, 1, 16)
    settings = Settings(
        out=str(folder / "run"),
        model=Model("vars_deit_micro", Attention("vars_d"), _SIZES),
        data=Data(root=str(folder / "images"), image_size=16, crop=1),
        augmentation=Augmentation(crop="none"),
        optimization=Optimization(batch_size=6, ema=0.5),
        epochs=2,
        stop_after=1,
        accelerator="cpu",
        probe_images=0,
        progress=False,
    )
    config = folder / "settings.yaml"
    config.write_text(yaml.safe_dump({**as_plain(settings), "stop_after": None}))
    done = called(train.main, ["--config", str(config), "--stop_after", "1"], folder, 120.0)
    if done.status != 0:
        raise RuntimeError(f"the run to damage could not be made: {done}")
    return folder / "run", ["--config", str(config)]


def _damage(draw: random.Random, path: Path) -> str:
    """Damage one file of a checkpoint, and say how."""
    names = ["model", "ema", "optimizer"]
    kinds: list[Callable[[random.Random, Path], str]] = [_flip, _cut, _json, _json, _json, _tensors, _odd]
    if draw.random() < 0.5:  # the digests would hide what reads a damaged file
        without_digests(path)
    kind = draw.choice(kinds)
    files = ["state.json"] if kind is _json else [*(f"{name}.safetensors" for name in names), "state.json"]
    file = path / draw.choice(files)
    return f"{kind.__name__[1:]} {kind(draw, file)} of {file.name}"


def _flip(draw: random.Random, file: Path) -> str:
    data = bytearray(file.read_bytes())
    places = [draw.randrange(min(len(data), draw.choice([16, 400, len(data)]))) for _ in range(draw.randint(1, 8))]
    for place in places:
        data[place] ^= 1 << draw.randrange(8)
    file.write_bytes(data)
    return f"{places}"


def _cut(draw: random.Random, file: Path) -> str:
    data = file.read_bytes()
    length = draw.choice([0, 1, 7, 8, 9, draw.randrange(len(data)), len(data) - 1])
    file.write_bytes(data[:length] if draw.random() < 0.7 else data + draw.randbytes(length or 1))
    return f"{length}"


def _odd(draw: random.Random, file: Path) -> str:
    """Put something odd in the file's place: nothing, a folder, a huge header, or JSON that is not an object."""
    kind = draw.choice(["gone", "folder", "header", "list", "deep", "nan", "pipe"])
    file.unlink()
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind != "gone":
        content = {"header": b"\xff" * 7 + b"\x00{}", "list": b"[]", "deep": b"[" * 100_000, "nan": b'{"epoch": NaN}'}
        file.write_bytes(content[kind])
    return kind


def _json(draw: random.Random, file: Path) -> str:
    """Change a value at some place, remove a key, or add one."""
    state = json.loads(file.read_text())
    at: Any = state
    path: list[Any] = []
    for _ in range(draw.randint(0, 4)):
        keys = list(at) if isinstance(at, dict) else list(range(len(at))) if isinstance(at, list) else []
        keys = [key for key in keys if isinstance(at[key], dict | list) and at[key]]
        if not keys:
            break
        path.append(draw.choice(keys))
        at = at[path[-1]]
    keys = list(at) if isinstance(at, dict) else list(range(len(at)))
    key = draw.choice(keys)
    kind = draw.choice(["value", "less", "more"])
    if kind == "less":
        del at[key]
    elif kind == "more" and isinstance(at, dict):
        at["more"] = draw.choice(VALUES)
    elif kind == "more":
        at.append(draw.choice(VALUES))
    else:
        at[key] = draw.choice(VALUES)
    file.write_text(json.dumps(state))
    return f"{kind} at {[*path, key]}"


def _tensors(draw: random.Random, file: Path) -> str:
    """Remove or add a tensor, change its shape or type, or put NaN or infinity into it."""
    if file.suffix != ".safetensors":
        return _flip(draw, file)
    tensors = load_file(file)
    name = draw.choice(list(tensors))
    kind = draw.choice(["less", "more", "shape", "type", "nan"])
    if kind == "less":
        del tensors[name]
    elif kind == "more":
        tensors["more"] = tensors[name].clone()
    elif kind == "shape":
        tensors[name] = tensors[name].flatten().repeat(2)
    elif kind == "type":
        tensors[name] = tensors[name].to(dtype=torch.int32)
    else:
        tensors[name] = tensors[name] * float("nan")
    save_file(tensors, file)
    return f"{kind} at {name}"
