"""VARS-D on a GPU: `python -m experiments.benchmark.gpu [--tokens N ...] [--dtypes NAME ...] [--out FOLDER]`.

This times the forward and backward pass of the layer by its kernels, projections included. Its peers are PyTorch's
fused softmax attention with its own projections, and the layer's plain form, compiled and in eager mode. Every
contender runs in every round, in turn, and repeats its work until some time has passed. The figures are the median of
the rounds by CUDA events, the distance of output and gradient from float64, and the peak of the memory. `--out` writes
gpu.md and gpu.json.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from tqdm import tqdm

from experiments.benchmark import report
from experiments.benchmark.alternating import Measured
from experiments.benchmark.attention import DIM, DYNAMIC, HEADS, SOFTMAX, layer_of
from experiments.benchmark.contract import Contender, Findings, Goal, Row
from vars_dyn.attention.reconstruct import triton as kernels

__all__ = ["Case", "main", "row", "series"]

KERNELS, COMPILED, PLAIN = "VARS-D, kernels", "VARS-D, plain, torch.compile", "VARS-D, plain"
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
#: The number of tokens of a batch, and, for each number of tokens per image, the goal for our time divided by that of
#: softmax attention.
ALL_TOKENS, GOALS = 50176, {196: 1.0, 784: math.nan, 3136: 0.25, 12544: math.nan}
#: The largest allowed distances from float64. They allow one rounding of bfloat16, and a few roundings of float32.
WANTED = {torch.bfloat16: 2e-2, torch.float32: 1e-4}
#: A contender's runs in one round take about ROUND seconds together, and there are at most MOST of them.
ROUND, MOST = 0.05, 200


class Case(NamedTuple):
    """The sizes and the dtype that a row is measured at."""

    tokens: int
    images: int
    dtype: torch.dtype
    device: torch.device


class _Work:
    """One contender's forward and backward pass of the layer on random tokens."""

    def __init__(self, name: str, case: Case) -> None:
        self.name, self.case = name, case
        # Typed as Any, because contenders use attributes that only a VARS layer has.
        layer = layer_of(SOFTMAX if name == SOFTMAX else DYNAMIC, case.tokens)
        self.layer = cast(Any, layer.to(case.device, case.dtype))
        generator = torch.Generator().manual_seed(0)
        draw = lambda: torch.randn(case.images, case.tokens, DIM, generator=generator)  # noqa: E731
        self.x, self.grad = (draw().to(case.device, case.dtype) for _ in range(2))
        self.x.requires_grad_()
        if name == KERNELS and not _kernels_taken(self.layer, self.x):
            raise RuntimeError("the kernels do not run here")
        if name in (COMPILED, PLAIN):
            self.layer.form = "plain"
        self.called = torch.compile(self.layer) if name == COMPILED else self.layer

    def __call__(self) -> tuple[Tensor, Tensor]:
        self.clear()
        y = self.called(self.x)
        y.backward(self.grad)
        assert self.x.grad is not None
        return y.detach(), self.x.grad

    def clear(self) -> None:
        """Free the gradients."""
        self.layer.zero_grad()
        self.x.grad = None

    def exact(self) -> tuple[Tensor, Tensor]:
        """Output and gradient of the first image in float64, from the same weights and tokens."""
        name = SOFTMAX if self.name == SOFTMAX else PLAIN
        one = _Work(name, self.case._replace(images=1, dtype=torch.float64))
        one.layer.load_state_dict(self.layer.state_dict())
        one.x = self.x.detach()[:1].double().requires_grad_()
        one.grad = self.grad[:1].double()
        return one()


def _kernels_taken(layer: Any, x: Tensor) -> bool:
    q, v = layer.split_heads(layer.qkv(x[:1].detach()))
    return kernels.suit(q, layer.rand_matrix, v)


def _findings(work: _Work) -> Findings:
    """How accurate the work is and how much memory it takes."""
    found = [t[:1].double() for t in work()]
    try:
        distances = [float((a - b).norm() / b.norm()) for a, b in zip(found, work.exact(), strict=True)]
    except torch.OutOfMemoryError:
        distances = [math.nan, math.nan]
    findings = {"accuracy": distances[0], "gradient's distance": distances[1]}
    if work.case.device.type == "cuda":
        findings["peak MiB"] = _peak(work)
    return findings


def _peak(work: _Work) -> float:
    """The MiB that a run needs at its peak, not counting weights and tokens."""
    work.clear()
    torch.cuda.synchronize(work.case.device)
    torch.cuda.reset_peak_memory_stats(work.case.device)
    before = torch.cuda.memory_allocated(work.case.device)
    work()
    torch.cuda.synchronize(work.case.device)
    return (torch.cuda.max_memory_allocated(work.case.device) - before) / 2**20


def row(case: Case) -> Row:
    """The contenders and the goals of a case. The judge gets a contender's work and runs it once more."""
    names = (KERNELS, SOFTMAX, COMPILED, PLAIN)
    kind = str(case.dtype).removeprefix("torch.")
    return Row(
        f"gpu-{case.tokens}-{kind}",
        f"an attention layer forward and backward, {case.images} images of {case.tokens} tokens, width {DIM}, {HEADS} "
        f"heads, {kind}, k = 3",
        "the output's relative distance from float64",
        WANTED[case.dtype],
        tuple(Contender(name, partial(_Work, name, case), ours=name == KERNELS) for name in names),
        _findings,
        tuple(
            Goal(KERNELS, name, GOALS.get(case.tokens, math.nan) if name == SOFTMAX else math.nan) for name in names[1:]
        ),
    )


def seconds_of(work: Callable[[], Any], repeats: int, device: torch.device) -> float:
    """Mean seconds of `repeats` runs, by CUDA events on a GPU."""
    if device.type != "cuda":
        began = time.perf_counter()
        for _ in range(repeats):
            work()
        return (time.perf_counter() - began) / repeats
    with torch.cuda.device(device):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        for _ in range(repeats):
            work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / repeats


def series(one: Row, rounds: int, device: torch.device) -> list[Measured]:
    """Time every contender in `rounds` rounds. In each round all run in turn. Untimed runs come first.

    If a contender cannot run, or lacks memory, its `failure` says so.
    """
    found: dict[str, Measured] = {}
    ready: dict[str, tuple[Callable[[], Any], int]] = {}
    for contender in one.contenders:
        try:
            work = contender.prepare()
            findings = one.judge(work)
            repeats = math.ceil(ROUND / seconds_of(work, 3, device))
            ready[contender.name] = work, min(max(repeats, 1), MOST)
            found[contender.name] = Measured(contender.name, contender.ours, [], findings)
        except (RuntimeError, ImportError) as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            found[contender.name] = Measured(contender.name, contender.ours, [], {}, reason)
    gc.collect()
    gc.disable()
    try:
        for _ in tqdm(range(rounds), desc=one.name, disable=None, leave=False):
            for name, (work, repeats) in ready.items():
                found[name].times.append(seconds_of(work, repeats, device))
    finally:
        gc.enable()
    return list(found.values())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmark.gpu", description="VARS-D on a GPU.")
    parser.add_argument("--tokens", type=int, nargs="+", default=list(GOALS), help="numbers of tokens per image")
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=list(DTYPES), help="dtypes to measure")
    parser.add_argument("--images", type=int, help=f"images in a batch (default: as many as have {ALL_TOKENS} tokens)")
    parser.add_argument("--rounds", type=int, default=7, help="timed runs of each contender, at least 5")
    parser.add_argument("--out", type=Path, help="folder for gpu.md and gpu.json")
    try:
        options = parser.parse_args(given)
    except SystemExit as stop:
        return int(stop.code or 0)
    least = min(*options.tokens, options.images or 1, 10**9)
    if least < 1 or options.rounds < 5:
        return _refused("an option is too small; at least one token, one image and five rounds are wanted")
    if not torch.cuda.is_available():
        return _refused("this machine has no CUDA device; the benchmark needs one")
    try:
        if options.out:
            options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return _refused(f"--out {options.out} cannot be made: {error.strerror}")
    device = torch.device("cuda")
    cases = [
        Case(tokens, options.images or max(1, ALL_TOKENS // tokens), DTYPES[name], device)
        for name in options.dtypes
        for tokens in options.tokens
    ]
    measure_all(cases, options.rounds, " ".join(["python -m experiments.benchmark.gpu", *given]), options.out)
    return 0


def measure_all(cases: Sequence[Case], rounds: int, command: str, out: Path | None) -> None:
    """Measure and print every row, and write what there is so far after each."""
    head = report.header(command, rounds, str(cases[0].device))
    head["measured"] = f"seconds by CUDA events, median of {rounds} alternating rounds"
    head["machine"] |= {"triton": report.version_of("triton"), "cuda": str(torch.version.cuda)}
    done: list[tuple[Row, list[Measured]]] = []
    for case in cases:
        one = row(case)
        done.append((one, series(one, rounds, case.device)))
        print(report.section(*done[-1]), flush=True)
        if case.device.type == "cuda":
            torch.compiler.reset()
            torch.cuda.empty_cache()
        if out:
            record = {**head, "rows": [report.as_json(*pair) for pair in done]}
            report.write(out / "gpu.json", json.dumps(record, indent=2) + "\n")
            report.write(out / "gpu.md", report.page(head, done))


def _refused(sentence: str) -> int:
    print(f"error: {sentence}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
