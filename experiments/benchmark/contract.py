"""A row of the benchmark has contenders that do the same work, the accuracy that is asked for, and goals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Contender", "Findings", "Goal", "Row"]

#: The figures of a contender's work, by the names that a row's goals use. One is "accuracy", and less of it is better.
Findings = Mapping[str, float]


@dataclass(frozen=True)
class Contender:
    """One way to do a row's work.

    Attributes:
        name: its name in the table.
        prepare: imports what is needed and makes the input, untimed; returns the work, which is timed. An ImportError
            means that the peer is not installed, and the table says so.
        ours: whether it is this package's.
        every_round: whether it is timed in every round; False for a contender without a goal that is far slower than
            the rest, which is timed in one round only.
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
        name: its name on the command line.
        work: the work in a sentence.
        measure: what "accuracy" is, in words.
        wanted: the accuracy asked for; a ratio counts only if ours is within it, or within the peer's.
        contenders: ours and the peers.
        judge: computes the findings from what a contender's work returned.
        goals: the ratios to reach.
    """

    name: str
    work: str
    measure: str
    wanted: float
    contenders: tuple[Contender, ...]
    judge: Callable[[Any], Findings]
    goals: tuple[Goal, ...] = ()
