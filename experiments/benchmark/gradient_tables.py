"""The table of the benchmark of gradients, and the ratios that have limits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.report import tables

__all__ = ["TITLES", "ratios", "shown", "table"]

TITLES = ["T", "mode", "error", "forward, s", "backward, s", "peak memory, MiB"]


def shown(row: Mapping[str, Any]) -> list[str]:
    """The cells of a measurement, in the columns of `TITLES`."""
    horizon = "rest" if row["horizon"] is None else f"{row['horizon']:g}"
    error = f"{row['error']:.1e}" if math.isfinite(row["error"]) else row["failure"] or "not finite"
    numbers = [f"{row[name]:.3g}" if math.isfinite(row[name]) else "-" for name in ("forward", "backward", "peak_mib")]
    return [horizon, f"`{row['mode']}`", error, *numbers]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The measurements in Markdown."""
    return tables.markdown(TITLES, map(shown, rows))


def ratios(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The ratios that have limits.

    They compare the time and memory of checkpointing with backpropagation's at the last horizon, the adjoint's error
    with backpropagation's at the worst horizon, and the implicit mode's backward pass with its forward pass.
    """
    at = {(row["mode"], row["horizon"]): row for row in rows}
    horizons = sorted({row["horizon"] for row in rows} - {None})
    last, rest = horizons[-1], at["implicit", None]
    checkpoint, backprop = at["checkpoint", last], at["backprop", last]
    seconds = [row["forward"] + row["backward"] for row in (checkpoint, backprop)]
    return {
        "checkpoint_seconds_over_backprop": seconds[0] / seconds[1],
        "checkpoint_memory_over_backprop": checkpoint["peak_mib"] / backprop["peak_mib"],
        "adjoint_error_over_backprop": max(at["adjoint", t]["error"] / at["backprop", t]["error"] for t in horizons),
        "implicit_backward_over_forward": rest["backward"] / rest["forward"],
    }
