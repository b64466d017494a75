"""Random command lines and configuration files of `python -m vars_dyn.simulate`, and what the experiments parse."""

from __future__ import annotations

import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml
import zarr
from PIL import Image

import vars_dyn
from tests.fuzz.sandbox import WALL, Foreign, called
from vars_dyn.simulate import main
from vars_dyn.simulate.options import groups, options_of

QUICK = 20

NUMBERS = [
    *("0", "-0", "1", "2", "3", "0.5", "1e-3", "1e-5", "-1", "7", "16", "64"),
    *("1e-9", "1e-300", "5e-324", "1e300", "1e308", "1e309", "-1e300", "999999999999", str(2**63), "9" * 5000),
    *("nan", "inf", "-inf", "NaN", "0x10", "1_0", "٣", "1,5", "", " ", "none", "auto", "yes", "x", "0.1x", "-0.1x"),
]
WORDS = ["", "a\nb", "é", "\udc80", "%s", "--", "-", "../up", "~", "{}", "[]", "&a", "*a", "!!python/object:os.system"]
LISTS = ["0", "0,1", "1-2", "0-999999999999", "5-1", "-1", "0,0", "a-b", "0,0,8,8", "1,1,1", "99,99,9,9", "0,0,-1,-1"]
NAMES = ["z", "u,code", "all", "none", "gap", "z,z", "z,energy", "active,lyapunov"]
INPUTS = [
    "rows.npy",
    "counts.npy",
    "stack.npy",
    "nan.npy",
    "empty.npy",
    "cut.npy",
    "pickle.npy",
    "huge.npy",
    "ints.npy",
]
INPUTS += [
    "grey.png",
    "deep.png",
    "clear.png",
    "cut.png",
    "text.png",
    "float.tif",
    "images",
    "none",
    "pipe",
    "pipe.npy",
]
INPUTS += ["rows.zarr", "group.zarr", "bad.zarr", "chunks.zarr", "/dev/null", "/dev/zero", "thesis.txt", "other.zarr"]
DICTIONARIES = ["gabor", "random:3", "random:9", "random:0", "random:", "random:999999999999", "random:1e3", "w.npy"]
DICTIONARIES += ["zero.npy", "w.safetensors", "bad.safetensors", "w.safetensors:none", "kernels.npy", *INPUTS]
METHODS = ["dopri5", "bosh3", "rk4", "euler", "rkc", "auto", "implicit_adams", "dopri8", "none"]
FIELDS = ["sparse", "reduced", "encoder-decoder", "recurrent", "feed-forward", "dense"]
DEVICES = ["cpu", "cuda", "cuda:99", "mps", "meta", "xla", "gpu", "cpu:3", "", "vulkan"]
PLACES = ["run.zarr", "new/run.zarr", "rows.npy/run.zarr", "thesis.txt", ".", "/", "..", "images", "other.zarr", "none"]
PLACES += ["", "a" * 300, "new.png", "run.zarr/z", "run-0001.zarr", "holiday.png", "figure.doc", "pipe", "rows.zarr"]

#: Values that pass the first check more often than not, for lines that may be wrong in any way.
USUAL = {
    "input": ["rows.npy"] * 8 + ["stack.npy", "grey.png", "images", *INPUTS],
    "dictionary": ["random:9"] * 6 + DICTIONARIES,
    "method": METHODS,
    "field": FIELDS,
    "device": DEVICES,
    "out": PLACES,
    "figure": PLACES,
    "config": [f"{k}.yaml" for k in range(6)] + PLACES,
    "record": NAMES,
    "neurons": LISTS,
    "atoms": LISTS,
    "crop": LISTS,
    "mean": ["auto", "subtract", "keep", "x"],
    "norm": ["keep", "unit", "x"],
    "times": ["even", "octaves", "x"],
    "threshold": ["soft", "nonnegative", "hard"],
    "dtype": ["float64", "float32", "int8"],
}

#: Valid values of the options that any run takes. An option with the value * is given without a value.
RIGHT = {
    "mean": ["auto", "subtract", "keep"],
    "norm": ["keep", "unit"],
    "full_scale": ["auto", "dtype", "none", "3"],
    "lam": ["0", "0.3", "1e-3", "0.1x", "2x", "1_0"],
    "alpha": ["1", "0.5", "3"],
    "beta": ["2", "2.5", "7"],
    "gamma": ["2", "1", "0.5"],
    "tau_z": ["1", "0.1", "3"],
    "tau_u": ["1", "0.5", "2"],
    "threshold": ["soft", "nonnegative"],
    "method": ["dopri5", "bosh3", "rk4", "euler", "rkc", "auto", "dopri8"],
    "t_max": ["2", "0.01", "1e-9", "5"],
    "dt": ["0.1", "1", "0.5", "7"],
    "times": ["octaves", "even"],
    "gap": ["1e-6", "none", "0.5", "1e300", "1e-3"],
    "step": ["none", "0.01", "0.5"],
    "max_steps": ["2000", "3", "100000"],
    "record": ["all", "z", "u,code", "gap", "z,u,code,lyapunov,gap,relative_gap,active", "active"],
    "every": ["1", "2", "7", "999999999999"],
    "chunk": ["1", "2", "16", "64"],
    "seed": ["0", "1", str(2**63 - 1)],
    "device": ["cpu", "cpu:0"],
    "dtype": ["float64", "float32"],
    "threads": ["auto", "1", "2"],
    "out": ["run.zarr", "new/run.zarr", "run", "é.zarr", "a b.zarr"],
    "figure": ["none"] * 9 + ["new.png"],
    "overwrite": ["*"],
    "json": ["*"],
    "config": ["right.yaml"],
}
_BANK = {"orientations": ["1", "3"], "scales": ["1", "2"], "phases": ["1", "2"], "wavelength": ["2", "4.5"]}
_CUT = {"crop": ["0,0,16,16", "1,2,9,9"], "scale": ["1.5", "2"], "patch": ["4", "8"], "stride": ["3", "8"]}
_PHOTO = {"background": ["0", "0.5"], "colour": ["*"]}
_WHOLE = {"kernel": ["3", "5"], "conv_stride": ["2", "4"], "crop": ["0,0,8,8", "1,2,5,6"]}
#: Command lines that begin a run, each with the valid values of the options that only such a run takes.
SCENES: list[tuple[list[str], dict[str, list[str]]]] = [
    (["rows.npy", "--dictionary", "random:9"], {"neurons": ["0", "1-4,0"], "atoms": ["8", "0,1"], "lam": RIGHT["lam"]}),
    (["counts.npy", "--dictionary", "w.npy"], {"neurons": ["5"], "atoms": ["0-3"]}),
    (["rows.zarr", "--dictionary", "w.safetensors"], {"neurons": ["5"]}),
    (["rows.npy", "--dictionary", "random:3", "--field", "reduced"], {"atoms": ["0"]}),
    (["grey.png", "--patch", "8"], _CUT | _PHOTO | _BANK | {"places": ["1", "2"], "patches": ["1", "2"]}),
    (["images", "clear.png", "--patch", "8", "--dictionary", "random:5"], _PHOTO | {"patches": ["1", "2"]}),
    (["stack.npy", "--patch", "4"], _BANK),
    (["stack.npy", "--whole", "--dictionary", "kernels.npy"], {"conv_stride": ["2", "4"], "crop": _WHOLE["crop"]}),
    (["grey.png", "--whole", "--dictionary", "random:3"], _WHOLE),
]


def make_inputs(folder: Path) -> None:
    """Write files of every kind, whole and broken, that a command may get."""
    draw = np.random.default_rng(0)
    rows = draw.normal(size=(3, 6))
    for name, values in {
        "rows": rows,
        "counts": draw.integers(0, 9, (3, 6)).astype(np.uint8),
        "stack": draw.random((2, 9, 8)),
        "nan": np.full((2, 6), np.nan),
        "empty": np.ones((0, 6)),
        "ints": np.full((2, 6), 2**62),
        "w": draw.normal(size=(6, 4)),
        "zero": np.zeros((6, 4)),
        "kernels": draw.normal(size=(2, 1, 3, 3)),
    }.items():
        np.save(folder / f"{name}.npy", values)
    np.save(folder / "pickle.npy", np.array([{}], dtype=object), allow_pickle=True)
    data = (folder / "rows.npy").read_bytes()
    (folder / "cut.npy").write_bytes(data[:-9])
    (folder / "huge.npy").write_bytes(data.replace(b"(3, 6), ", b"(3000000000, 6), ").replace(b" " * 9, b"", 1))
    pixels = draw.integers(0, 256, (20, 24, 4)).astype(np.uint8)
    Image.fromarray(pixels[..., 0]).save(folder / "grey.png")
    Image.fromarray(pixels).save(folder / "clear.png")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(folder / "deep.png")
    Image.fromarray(pixels[..., 0].astype(np.float32)).save(folder / "float.tif")
    (folder / "cut.png").write_bytes((folder / "clear.png").read_bytes()[:-300])
    (folder / "text.png").write_text("hello")
    (folder / "images").mkdir()
    shutil.copy(folder / "grey.png", folder / "images" / "a.png")
    zarr.create_array(str(folder / "rows.zarr"), data=rows)
    zarr.create_group(str(folder / "group.zarr")).create_array("w", data=rows.T)
    zarr.create_array(str(folder / "chunks.zarr"), shape=(10**7, 6), chunks=(1, 1), dtype="f8")
    (folder / "bad.zarr").mkdir()
    (folder / "bad.zarr" / "zarr.json").write_text('{"zarr_format": 3, "node_type": "array", "shape": -1}')
    (folder / "bad.safetensors").write_bytes(b"\xff" * 40)
    from safetensors.numpy import save_file

    save_file({"w": rows.T.copy()}, str(folder / "w.safetensors"))
    for name in ("pipe", "pipe.npy"):
        os.mkfifo(folder / name)
    (folder / "right.yaml").write_text("rtol: 1e-4\nrecord: [z, gap]\nt-max: 1\njson: true\n")


def command(draw: random.Random) -> list[str]:
    """A command line. Most are valid except for a few slips. The others may be wrong in any way."""
    return _likely(draw) if draw.random() < 0.75 else _wild(draw)


def _likely(draw: random.Random) -> list[str]:
    """A line with valid options for its input. In one line of five, one option has an arbitrary value."""
    flags = {option.name for kind in groups().values() for option in options_of(kind) if option.flag}
    scene, more = draw.choice(SCENES)
    pool = RIGHT | more
    chosen = draw.sample(sorted(pool), draw.randint(0, 5))
    slip = draw.choice([*chosen, None]) if draw.random() < 0.2 else None
    line = [*scene, "--t-max", "2", "--gap", draw.choice(["none", "0.9", "1e-6"]), "--max-steps", "2000"]
    line += ["--figure", "none"]
    for name in chosen:
        if name in flags:
            line.append(_flag(name))
        else:
            value = draw.choice(USUAL.get(name, NUMBERS) + WORDS if name == slip else pool[name])
            line += [f"{_flag(name)}={value}"] if draw.random() < 0.5 else [_flag(name), value]
    return line


def _wild(draw: random.Random) -> list[str]:
    """A line with any options and any values. If it starts a run, the run is short."""
    options = [option for kind in groups().values() for option in options_of(kind)]
    chosen = draw.sample(options, draw.randint(0, 5))
    line = [draw.choice(USUAL["input"]) for _ in range(draw.choice([1, 1, 1, 1, 2, 0]))]
    # These options keep the run short and small, unless an option that is drawn later overrides them.
    line += ["--dictionary", "random:9", "--t-max", "2", "--max-steps", "2000", "--figure", "none"][
        : draw.choice([8, 6])
    ]
    for option in chosen:
        if option.name == "input":
            line.append(draw.choice(INPUTS + WORDS))
        elif option.flag:
            line.append(_flag(option.name))
        else:
            value = draw.choice(USUAL.get(option.name, NUMBERS) if draw.random() < 0.8 else NUMBERS + WORDS + LISTS)
            line += [f"{_flag(option.name)}={value}"] if draw.random() < 0.5 else [_flag(option.name), value]
    if draw.random() < 0.1:
        line.insert(draw.randint(0, len(line)), draw.choice(["--rec", "--t", "--lam=1=2", "-x", "--speed", *WORDS]))
    return line


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def configuration(draw: random.Random) -> str:
    """A YAML text: options, values of wrong types, texts that make a careless loader hang or run code, or noise."""
    names = [option.name for kind in groups().values() for option in options_of(kind)]
    pool: list[Any] = [*NUMBERS, *NAMES, None, True, 3, -1, 1e-9, float("nan"), [], [1, 2], {"a": 1}, [[1]], "\0"]
    keys = [draw.choice(names).replace("_", draw.choice("_-")) for _ in range(draw.randint(0, 4))]
    document = {key: draw.choice(pool) for key in keys}
    text = str(yaml.safe_dump(document, allow_unicode=True))
    spoilt = [
        text,
        text,
        text + text,
        "a: &a [1]\n" + "".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}' if k else '*a'] * 9)}]\n" for k in range(9)),
        "lam: " + "[" * 10**5,
        "- " * 10**4,
        "lam: !!python/object/apply:os.system ['touch ran']",
        "".join(chr(draw.randint(1, 0x250)) for _ in range(50)),
        json.dumps(document),
        text[: draw.randint(0, len(text))],
        "<<: {lam: 1}",
        "lam: 1\n" * 200_000,
    ]
    return draw.choice(spoilt)


def run(count: int, seed: int, folder: Path) -> list[str]:
    """Run `count` random command lines, with new configuration files for every ten, and return the faults."""
    draw, faults = random.Random(seed), []
    make_inputs(folder)
    foreign = Foreign(folder, seed)
    kept = {path.name for path in folder.iterdir()}
    for number in range(count):
        if number % 10 == 0:
            for k in range(6):
                (folder / f"{k}.yaml").write_text(configuration(draw), encoding="utf-8", errors="surrogateescape")
                kept.add(f"{k}.yaml")
        line = command(draw)
        found = _subprocess(line, folder) if number % 100 == 50 else called(main, line, folder).faults()
        found += [f"touched {name}" for name in foreign.touched()]
        if (folder / "ran").exists():
            found.append("a configuration file ran a command")
        faults += [f"{number}: {line!r}: {fault}" for fault in found]
        for path in folder.iterdir():  # too many old runs would make later lines fail early
            if path.name not in kept and draw.random() < 0.5:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return faults + _experiments(draw, max(4, count // 25), folder)


#: Seconds of processor time for a command in a process of its own, whose start takes some of them.
_OWN_SECONDS = 60


def _subprocess(line: list[str], folder: Path) -> list[str]:
    """Run one line in a process of its own, with a limit of its processor time, and return the faults."""
    environment = os.environ | {"PYTHONPATH": str(Path(vars_dyn.__file__).parents[1])}
    limited = ["sh", "-c", f'ulimit -S -t {_OWN_SECONDS} && exec "$@"', "sh"]
    whole = [*limited, sys.executable, "-m", "vars_dyn.simulate", *line]
    clock = _OWN_SECONDS * WALL
    try:
        done = subprocess.run(whole, cwd=folder, env=environment, capture_output=True, timeout=clock, check=False)
    except subprocess.TimeoutExpired:
        return [f"no end after {clock:g} s on the clock in a process of its own"]
    except ValueError:  # no command line can hold a zero byte
        return []
    if done.returncode == -signal.SIGXCPU:
        return [f"no end after {_OWN_SECONDS} s of processor time in a process of its own"]
    bad = b"Traceback" in done.stderr or done.returncode not in (0, 1, 2)
    return [f"exit status {done.returncode}, {done.stderr[-300:]!r}"] if bad else []


_COMMANDS = (
    "train",
    "evaluate",
    "series",
    "ablate",
    "figures",
    "table2",
    "overfit",
    "learn_dictionary",
    "quickstart",
    "sweep",
    "cue",
)


def _experiments(draw: random.Random, count: int, folder: Path) -> list[str]:
    """The faults of the experiments' commands with `--help`, with unknown options, and with abbreviated ones."""
    faults = []
    for _ in range(count):
        name = draw.choice(_COMMANDS)
        module = importlib.import_module(f"experiments.{name}")
        line = draw.choice([["--help"], ["--speed", "1"], [f"--{draw.choice(WORDS)}x"], ["--config", "none.yaml"]])
        wanted = (0,) if line == ["--help"] else (2,)
        found = called(module.main, line, folder, 60).faults(wanted)
        faults += [f"experiments.{name} {line!r}: {fault}" for fault in found]
    return faults
