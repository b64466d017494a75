"""Simulation from event to event: between two spikes the potentials have a closed form, and so has the next spike."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vars_dyn.spiking.neurons import SpikingLCA

__all__ = ["Spikes", "State", "advance", "initial_state"]


class State(NamedTuple):
    """All that the future depends on.

    Attributes:
        time: in tau.
        potential: v, (signals, units).
        counts: the numbers of spikes so far, int64, (signals, units).
    """

    time: float
    potential: Tensor
    counts: Tensor


class Spikes(NamedTuple):
    """Spikes in the order of their times; those of one signal at one time are in the order of cause and effect.

    Attributes:
        time: in tau, (spikes,).
        signal, unit: indices, int64, (spikes,).
    """

    time: Tensor
    signal: Tensor
    unit: Tensor


def initial_state(neurons: SpikingLCA) -> State:
    """Potentials of zero, and no spikes."""
    return State(0.0, torch.zeros_like(neurons.drive), torch.zeros_like(neurons.drive, dtype=torch.int64))


@torch.no_grad()
def advance(neurons: SpikingLCA, state: State, end: float) -> tuple[State, Spikes]:
    """Simulate until `end`, exactly up to rounding.

    Each signal goes from spike to spike by itself. If several units of a signal are to fire at once, the one with the
    lowest index fires first, and its spike may stop or start the others. This ends: at a given time, each spike lowers
    |T x - P m|^2 / 2 + lam T |m|_1 by at least q theta_i / 2, where m = q n.
    """
    device, counts = neurons.drive.device, state.counts.clone()
    # Without a leak the counts alone give it, so that rounding errors do not add up over a long run.
    potential = state.potential.clone() if neurons.leak else neurons.potential(state.time, counts)
    live = torch.arange(neurons.signals, device=device)
    now = torch.full((neurons.signals,), state.time, dtype=torch.float64, device=device)
    v, drive, threshold, quantum = potential.clone(), neurons.drive, neurons.threshold, neurons.quantum
    times, signals, units = [], [], []
    while len(live):
        wait, unit = _wait(v, drive, threshold, neurons.leak).min(-1)
        fires = wait <= end - now
        if not bool(fires.all()):
            done = ~fires
            rest = (end - now[done])[:, None]
            potential[live[done]] = _drifted(v[done], drive[done], rest, neurons.leak)
            live, now, v, drive = live[fires], now[fires], v[fires], drive[fires]
            threshold, quantum, wait, unit = threshold[fires], quantum[fires], wait[fires], unit[fires]
            if not len(live):
                break
        now = now + wait
        v = _drifted(v, drive, wait[:, None], neurons.leak)
        v = v - quantum[:, None] * neurons.lateral(unit)
        counts[live, unit] += 1
        times.append(now)
        signals.append(live)
        units.append(unit)
    return State(end, potential, counts), _sorted(times, signals, units, device)


def _wait(v: Tensor, drive: Tensor, threshold: Tensor, leak: float) -> Tensor:
    """The time until each unit reaches its threshold if no other fires; infinite where it never does."""
    short = threshold - v
    if leak == 0:
        wait = torch.where(drive > 0, short / drive, math.inf)
    else:
        level = drive / leak  # the potential to which v decays
        wait = torch.where(level > threshold, torch.log1p(short / (level - threshold)) / leak, math.inf)
    return torch.where(short <= 0, 0.0, wait)


def _drifted(v: Tensor, drive: Tensor, wait: Tensor, leak: float) -> Tensor:
    """v after `wait` without a spike."""
    if leak == 0:
        return v + drive * wait
    return v + (drive / leak - v) * -torch.expm1(-leak * wait)


def _sorted(times: list[Tensor], signals: list[Tensor], units: list[Tensor], device: torch.device) -> Spikes:
    if not times:
        none = torch.zeros(0, dtype=torch.int64, device=device)
        return Spikes(none.to(torch.float64), none, none)
    order = torch.sort(torch.cat(times), stable=True)
    return Spikes(order.values, torch.cat(signals)[order.indices], torch.cat(units)[order.indices])
