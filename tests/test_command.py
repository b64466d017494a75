"""The parser takes options in full only, lets the command line win over files, and runs no code of a value."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from argparse import ArgumentError
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vars_dyn._command import CommandParser


def parser() -> CommandParser:
    made = CommandParser(prog="x")
    made.add_argument("--config", action="config")
    made.add_argument("--lam", type=float, default=0.0)
    made.add_argument("--name", type=str, default="")
    made.add_argument("rest", nargs="*")
    return made


@given(st.sampled_from([(), ("--lam", "-2.5")]), st.sampled_from([(), ("--name=b",)]), st.permutations(range(3)))
def test_the_command_line_wins_wherever_the_file_stands(
    lam: tuple[str, ...], name: tuple[str, ...], order: list[int]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "c.yaml"
        file.write_text("lam: 3.0\nname: a\n")
        parts = [lam, name, ("--config", str(file))]
        found = parser().parse_args([word for k in order for word in parts[k]])
    assert (found.lam, found.name) == (-2.5 if lam else 3.0, "b" if name else "a")


def test_words_after_two_dashes_are_left_alone() -> None:
    assert parser().parse_args(["--lam", "-1", "--", "-1", "--config", "-.5"]).rest == ["-1", "--config", "-.5"]


@pytest.mark.parametrize("words", [["--la", "1"], ["--speed", "1"], ["--lam"], ["--lam", "!!python/name:os.system"]])
def test_bad_arguments_do_not_end_the_process(words: list[str]) -> None:
    with pytest.raises(ArgumentError):
        parser().parse_args(words)


def test_help_needs_no_library_of_a_run() -> None:
    """`--help` of both commands prints their options, and imports neither torch nor what reads and writes stores."""
    program = """
import runpy, sys
from vars_dyn.simulate.command import main
def ended(command, *arguments):
    try:
        command(*arguments)
    except SystemExit as stop:
        return stop.code or 0
assert ended(main, ["--lam", "0.2", "--help"]) == 0
sys.argv = ["learn", "--batch", "3", "-h"]
assert ended(runpy.run_module, "vars_dyn.learn", None, "__main__") == 0
print([name for name in ("torch", "numpy", "zarr", "xarray", "matplotlib") if name in sys.modules])
assert main(["--lam", "many", "--help"]) == 2
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "--silence" in done.stdout
    assert "--forgetting" in done.stdout
    assert done.stderr.startswith("error: --lam is 'many'")
    assert len(done.stderr.splitlines()) == 1


def test_an_option_that_is_nearly_right_is_suggested() -> None:
    with pytest.raises(ArgumentError, match=r"did you mean --name\?"):
        parser().parse_args(["--nmae", "b"])
    with pytest.raises(ArgumentError, match=r"--zzzzzz") as error:
        parser().parse_args(["--zzzzzz"])
    assert "did you mean" not in str(error.value)
