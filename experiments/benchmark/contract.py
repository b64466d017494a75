"""What a row of the benchmark is: contenders at the same work, how accurate each must be, and the goals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Contender", "Findings", "Goal", "Row"]

#: What was found of a contender's work, by the names that a row's goals use. "accuracy" is among them; less is better.
Findings = Mapping[str, float]


@dataclass(frozen=True)
class Contender:
    """One way to do a row's work.

    Attributes:
        name: as the table names it.
        prepare: imports what is needed and lays out what is given, untimed; returns the work, which is timed. A
            ModuleNotFoundError or ImportError means that the peer is not installed, and the table says so.
        ours: whether the goals are ours to reach with it.
        every_round: whether it is timed in every round of the series; False for one that is far slower than the rest
            and without a goal, which is timed in one round alone.
    """

    name: str
    prepare: Callable[[], Callable[[], Any]]
    ours: bool = False
    every_round: bool = True


@dataclass(frozen=True)
class Goal:
    """`quantity` of `ours` over that of `peer` is to be at most `at_most`."""

    ours: str
    peer: str
    at_most: float
    quantity: str = "seconds"


@dataclass(frozen=True)
class Row:
    """The same work by several contenders.

    Attributes:
        name: what the command line calls it.
        work: the work in a sentence.
        measure: what "accuracy" is, in words.
        wanted: the accuracy asked for; a ratio counts only where ours is within it, or within the peer's.
        contenders: ours and the peers.
        judge: from what a contender's work returned, its findings.
        goals: the ratios to reach.
    """

    name: str
    work: str
    measure: str
    wanted: float
    contenders: tuple[Contender, ...]
    judge: Callable[[Any], Findings]
    goals: tuple[Goal, ...] = ()
