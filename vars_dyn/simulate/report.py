"""The report of a run, read from its dataset: a table and a JSON object."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import xarray as xr

from vars_dyn.recording import facts

__all__ = ["Report", "as_table", "is_done", "report_of"]


def is_done(dataset: xr.Dataset) -> bool:
    """Whether the run reached the gap on every signal or, if no gap was asked for, t_max."""
    of = facts(dataset)
    return bool(of["status"] == ("reached t_max" if of["stop_gap"] == "none" else "settled"))


@dataclass(frozen=True)
class Report:
    """The result of a run, in the order of the JSON object. None stands for what the run does not have."""

    store: str
    figure: str | None
    status: str
    equilibrium: bool
    input_scaling: str | None
    full_scale: list[float] | None
    field: str
    problem: str
    signals: int
    signal_dim: int
    code_dim: int
    active_fraction: float | None
    t_end: float
    t_max: float
    points: int
    evaluations: int
    accepted: int
    rejected: int
    wall_seconds: float
    relative_gap_max: float | None
    kkt_max: float | None
    settled: int

    def as_json(self) -> dict[str, Any]:
        """The report as one JSON object."""
        return asdict(self)


def report_of(dataset: xr.Dataset, figure: str | None) -> Report:
    """The report of the run in a dataset. `figure` is the path of its picture."""
    of = facts(dataset)
    return Report(
        store=str(dataset.encoding["source"]),
        figure=figure,
        status=of["status"],
        equilibrium=bool(of["equilibrium"]),
        input_scaling=of.get("scaling"),
        full_scale=of.get("full_scale"),
        field=of["field"],
        problem=of["problem"],
        signals=dataset.sizes["signal"],
        signal_dim=math.prod(of["signal_shape"]),
        code_dim=math.prod(of["code_shape"]),
        active_fraction=_active(dataset),
        t_end=float(of["t_end"]),
        t_max=float(of["t_max"]),
        points=dataset.sizes["time"],
        evaluations=int(of["evaluations"]),
        accepted=int(of["accepted"]),
        rejected=int(of["rejected"]),
        wall_seconds=float(of["wall_seconds"]),
        relative_gap_max=_largest(dataset, "relative_gap_end"),
        kkt_max=_largest(dataset, "kkt_residual_end"),
        settled=int(dataset["settled_at"].notnull().sum()),
    )


def as_table(found: Report, asked: float | str) -> str:
    """The report as a short table. `asked` is the relative gap that was asked for, or "none"."""
    active, kkt = found.active_fraction, found.kkt_max
    gap = (
        "there is none"
        if found.relative_gap_max is None
        else f"{found.relative_gap_max:.2e}, the largest of all signals"
    )
    rows = {
        "input": found.input_scaling or "scale not stated",
        "field": found.field,
        "solves": found.problem,
        "neurons": f"{found.signals} signal{'s' * (found.signals != 1)} of {found.signal_dim} neurons, "
        f"{found.code_dim} encoding neurons",
        "active": "no encoding neurons"
        if active is None
        else f"{100 * active:.2f} % of the encoding neurons at the end",
        "work": f"{found.evaluations} evaluations, {found.accepted} steps, {found.rejected} rejected, "
        f"{found.wall_seconds:.1f} s",
        "time": f"{found.t_end:.6g} of {found.t_max:.6g} time constants, {found.points} points recorded",
        "relative gap": gap + ("" if asked == "none" else f" (asked for: {asked:g})"),
        "KKT residual": "there is none" if kkt is None else f"{kkt:.2e}, the largest of all signals",
        "ended": _ending(found),
        "store": found.store,
        "figure": found.figure or "none",
    }
    return "\n".join(f"{name:<14}{value}" for name, value in rows.items())


def _ending(found: Report) -> str:
    if found.equilibrium:
        return "at equilibrium: every signal has settled"
    return f"{found.status}; {found.settled} of {found.signals} signals settled"


def _active(dataset: xr.Dataset) -> float | None:
    return float((dataset["code_end"] != 0).mean()) if "code_end" in dataset else None


def _largest(dataset: xr.Dataset, name: str) -> float | None:
    if name not in dataset:
        return None
    value = float(dataset[name].max(skipna=False))
    return value if math.isfinite(value) else None
