"""Time a row's contenders in one process, in turn."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from tqdm import tqdm

from experiments.benchmark.contract import Contender, Findings, Goal, Row

__all__ = ["Measured", "Ratio", "ratios", "run_row"]


class Measured(NamedTuple):
    """The measurements of one contender. One that could not run has no times, and `failure` says why.

    Attributes:
        name: the contender's name.
        ours: whether it is ours.
        times: processor seconds of every round (on a GPU, seconds of the clock).
        findings: what the row's judge says of its last round.
        failure: why there are no measurements, or None.
    """

    name: str
    ours: bool
    times: list[float]
    findings: Findings
    failure: str | None = None

    @property
    def seconds(self) -> float:
        """The median of its rounds."""
        return statistics.median(self.times)


class _Runner:
    """A contender that is ready to run. It has had its untimed first run, which was judged."""

    def __init__(self, row: Row, contender: Contender, clock: Callable[[], float]) -> None:
        self.row, self.contender, self.clock = row, contender, clock
        self.times: list[float] = []
        self.work = contender.prepare()
        self.findings = row.judge(self.work())

    def round(self) -> None:
        # Collect what other contenders left behind, so that this one is not charged for it.
        gc.collect()
        gc.disable()
        try:
            began = self.clock()
            result = self.work()
            self.times.append(self.clock() - began)
        finally:
            gc.enable()
        self.findings = self.row.judge(result)

    def measured(self) -> Measured:
        return Measured(self.contender.name, self.contender.ours, self.times, self.findings)


def run_row(row: Row, rounds: int, device: str = "cpu") -> list[Measured]:
    """Every contender's times and findings, by one untimed run of each and then `rounds` rounds of all in turn."""
    # Once glibc has seen a large block freed, it keeps freed memory, as in any process that has run for a while. No
    # contender is then charged for page faults on memory that it frees and allocates again.
    torch.empty((32 << 20) - 8192, dtype=torch.uint8)
    clock = _gpu_clock if device.startswith("cuda") else time.process_time
    ready: list[_Runner | Measured] = []
    for contender in row.contenders:
        try:
            ready.append(_Runner(row, contender, clock))
        except ImportError as error:
            ready.append(Measured(contender.name, contender.ours, [], {}, f"not installed ({error.name or error})"))
    # No round is charged for collecting what exists by now.
    gc.collect()
    gc.freeze()
    try:
        for number in tqdm(range(rounds), desc=row.name, disable=None, leave=False):
            for runner in ready:
                if isinstance(runner, _Runner) and (runner.contender.every_round or number == 0):
                    runner.round()
    finally:
        gc.unfreeze()
    return [runner.measured() if isinstance(runner, _Runner) else runner for runner in ready]


def _gpu_clock() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


class Ratio(NamedTuple):
    """A goal with the measured ratio.

    Attributes:
        goal: the goal.
        value: ours over the peer's; None if one of them has none.
        counts: whether our result is as accurate as was asked, or as the peer's.
    """

    goal: Goal
    value: float | None
    counts: bool

    @property
    def met(self) -> bool:
        """Whether the goal is reached by a ratio that counts."""
        return self.counts and self.value is not None and self.value <= self.goal.at_most


def ratios(row: Row, measured: list[Measured]) -> list[Ratio]:
    """The ratios of the row's goals, and those of ours to every peer that no goal names."""
    goals = list(row.goals)
    named = {(goal.ours, goal.peer) for goal in goals}
    ours = next(one.name for one in measured if one.ours)
    goals += [Goal(ours, one.name, math.nan) for one in measured if not one.ours and (ours, one.name) not in named]
    return [_ratio(row, by_name(measured), goal) for goal in goals]


def _ratio(row: Row, measured: dict[str, Measured], goal: Goal) -> Ratio:
    ours, peer = measured[goal.ours], measured[goal.peer]
    values = [_quantity(one, goal.quantity) for one in (ours, peer)]
    value = None if values[0] is None or values[1] is None else values[0] / values[1]
    wanted = max(row.wanted, peer.findings.get("accuracy", 0.0))
    return Ratio(goal, value, ours.findings.get("accuracy", math.inf) <= wanted)


def by_name(measured: list[Measured]) -> dict[str, Measured]:
    """The measurements by their contenders' names."""
    return {one.name: one for one in measured}


def _quantity(one: Measured, quantity: str) -> float | None:
    if quantity == "seconds":
        return one.seconds if one.times else None
    return one.findings.get(quantity)
