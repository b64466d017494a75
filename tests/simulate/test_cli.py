"""The command's options as text: what stores keep of them, where they come from, and what `--help` says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import vars_dyn as vd
from vars_dyn.simulate.banks import sides_of
from vars_dyn.simulate.cli import FREE, parse, stored
from vars_dyn.simulate.options import Option, groups, options_of

OPTIONS: list[Option] = [option for kind in groups().values() for option in options_of(kind)]

#: What the first version stored of `LINE`. Later versions must resume such stores.
LINE = ["--lam", "0.3x", "--rtol=1e-5", "--whole", "--crop", "0,1,8,9", "--record", "z,gap", "--t-max", "7", "--json"]
STORED = (
    '{"input": null, "whole": "yes", "movie": "no", "clip": "none", "channels": "separate", "colour": "no", '
    '"crop": "0,1,8,9", "scale": "none", "full_scale": "auto", '
    '"background": "1", "patch": "16", "stride": "none", "patches": "none", "mean": "auto", "norm": "keep", '
    '"dictionary": "gabor", "orientations": "4", "scales": "none", "phases": "2", "places": "4", "wavelength": "4", '
    '"speeds": "0,1", "bands": "24", "kernel": "auto", "conv_stride": "auto", '
    '"field": "sparse", "lam": "0.3x", "alpha": "none", "beta": "none", '
    '"gamma": "none", "tau_z": "none", "tau_u": "none", "threshold": "none", "method": "dopri5", "rtol": "1e-5", '
    '"atol": "1e-8", "t_max": "7", "dt": "0.1", "times": "octaves", "gap": "1e-6", "step": "none", '
    '"check_every": "none", "max_steps": "1000000", "record": "z,gap", "every": "1", "neurons": "all", "atoms": "all", '
    '"chunk": "16", "seed": "0", "device": "cpu", "dtype": "float64", "threads": "auto"}'
)
#: What newer stores hold too: options that came later, at their defaults.
NEWER = dict.fromkeys(("silence", "lesion", "clamp", "inject", "scale_synapses"), "none") | {
    "noise_z": "0",
    "noise_u": "0",
}


def test_stores_keep_the_same_text() -> None:
    assert json.loads(stored(parse(LINE))) == json.loads(STORED) | NEWER


def test_sides_of_older_stores_mean_the_same() -> None:
    old = {"whole": "yes", "kernel": "11", "conv_stride": "4"}
    chosen = parse(["--resume", "--out", "run.zarr"], lambda _: old).dictionary
    kernel, stride = (sides_of(n, getattr(chosen, n), 2) for n in ("kernel", "conv_stride"))
    assert (kernel, stride) == ((11, 11), (4, 4)) == (sides_of("kernel", None, 2), sides_of("conv_stride", None, 2))


def test_a_store_gives_back_what_it_was_made_with() -> None:
    old = json.loads(STORED) | {"input": ["/a.npy", "/b.npy"], "an_option_of_another_version": "1"}
    again = parse(["--resume", "--out", "run.zarr", "--t-max", "9"], lambda _: old)
    assert again.signals.input == ["/a.npy", "/b.npy"]
    assert (again.signals.crop, again.field.lam, again.integrator.t_max) == ((0, 1, 8, 9), (0.3, True), 9.0)
    assert again.given == {"resume", "out", "t_max"}
    assert json.loads(stored(again)) == json.loads(STORED) | NEWER | {"input": ["/a.npy", "/b.npy"], "t_max": "9"}


TEXTS = {"lam": "0.2x", "seed": "3", "gap": "none", "record": "z,code", "crop": "1,2,3,4", "dtype": "float32"}


@given(st.sets(st.sampled_from(sorted(TEXTS))), st.sets(st.sampled_from(sorted(TEXTS))), st.booleans())
def test_the_line_wins_over_the_file_over_the_store(line: set[str], file: set[str], first: bool) -> None:
    """Each source gives other texts, so the values show which source won."""
    sources = (dict.fromkeys(TEXTS, "store"), dict.fromkeys(file, "file"), dict.fromkeys(line, "line"))
    other = {"lam": "4", "seed": "5", "gap": "0.1", "record": "u", "crop": "5,6,7,8", "dtype": "float64"}
    third = {"lam": "7", "seed": "8", "gap": "0.2", "record": "gap", "crop": "9,9,9,9", "dtype": "float64"}
    texts = {"store": TEXTS, "file": other, "line": third}
    config = Path("config-of-this-test.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vars_dyn._yaml.load", lambda _: yaml.safe_load(yaml.safe_dump({n: other[n] for n in file})))
        words = [word for name in line for word in (f"--{name}", third[name])]
        where = ["--config", str(config)]
        words = [*where, *words] if first else [*words, *where]
        found = parse(["--resume", "--out", "run.zarr", *words], lambda _: TEXTS)
    won = sources[0] | sources[1] | sources[2]
    assert {name: found.text[name] for name in TEXTS} == {name: texts[won[name]][name] for name in TEXTS}
    assert found.given == {"resume", "out", "config"} | line | file
    assert found.run.seed == int(str(found.text["seed"]))


def test_the_help_names_every_option_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(["--help"])
    assert stop.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    for option in OPTIONS:
        assert (option.written if option.name == "input" else f"{option.written} {option.metavar}".strip()) in said
        if option.default not in (None, "none") and not option.flag:
            assert f"(default: {option.default})" in said or "default:" in option.help
    for group in ("signals:", "dictionary:", "field:", "integrator:", "recording:", "run:"):
        assert group in said
    assert set(FREE) <= {option.name for option in OPTIONS}


def test_interventions_are_read_from_their_texts() -> None:
    line = [
        "--silence",
        "u3,5-6@2:10; zall",
        "--clamp",
        "z0=0.5@4:; a7=-1e-3",
        "--scale-synapses",
        "feedback:u4=2;z1=3",
    ]
    found = parse(line).interventions
    assert found.silence == [vd.Silence(atoms=[3, 5, 6], start=2.0, stop=10.0), vd.Silence(neurons="all")]
    assert found.clamp == [vd.Clamp(0.5, neurons=[0], start=4.0), vd.Clamp(-1e-3, atoms=[7], of="output")]
    assert found.scale_synapses == [vd.Scale(2.0, atoms=[4], synapses="feedback"), vd.Scale(3.0, neurons=[1])]


@pytest.mark.parametrize("text", ["3@0:1", "u", "u3=1", "u3@", "u3@5:2", "x3"])
def test_a_wrong_intervention_is_one_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"^--silence is .* wanted$"):
        parse(["--silence", text])
