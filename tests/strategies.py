"""Hypothesis strategies shared by the tests: seeded tensors, dictionaries of every kind, problems and fields.

Hypothesis draws shapes, parameters and a seed, and torch draws the entries. So entries stay normal when shapes shrink.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from hypothesis import strategies as st
from torch import Tensor

import vars_dyn as vd

seeds = st.integers(0, 2**20)
ridge_weights = st.sampled_from([0.0, 0.0, 0.1, 1.0])
#: lam as a share of each signal's critical value, from nearly none to above it.
lam_shares = st.sampled_from([1e-3, 0.03, 0.2, 0.5, 0.9, 1.2])
leads = st.sampled_from([(), (1,), (3,), (2, 2)])


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Standard normal numbers. The same seed and shape give the same numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def signals_for(dictionary: vd.Dictionary, seed: int, lead: tuple[int, ...] = (3,)) -> Tensor:
    """Signals that fit the dictionary. For a batched one, `lead` is cut to its last dimension (at least one signal)."""
    return normal(seed, *lead_for(dictionary, lead), *dictionary.signal_shape, dtype=dictionary.dtype)


def codes_for(dictionary: vd.Dictionary, seed: int, lead: tuple[int, ...] = (3,)) -> Tensor:
    return normal(seed, *lead_for(dictionary, lead), *dictionary.code_shape, dtype=dictionary.dtype)


def lead_for(dictionary: vd.Dictionary, lead: tuple[int, ...]) -> tuple[int, ...]:
    return (*dictionary.batch_shape, *(lead[-1:] or (1,))) if dictionary.batch_shape else lead


@st.composite
def dense(draw: st.DrawFn, max_d: int = 9, max_atoms: int = 12) -> vd.DenseDictionary:
    d, atoms = draw(st.integers(1, max_d)), draw(st.integers(1, max_atoms))
    return vd.DenseDictionary(normal(draw(seeds), d, atoms) / d**0.5)


@st.composite
def batched_dense(draw: st.DrawFn) -> vd.DenseDictionary:
    batch = draw(st.sampled_from([(1,), (3,), (2, 2)]))
    d, atoms = draw(st.integers(1, 6)), draw(st.integers(1, 7))
    return vd.DenseDictionary(normal(draw(seeds), *batch, d, atoms) / d**0.5)


@st.composite
def conv(draw: st.DrawFn, max_side: int = 7) -> vd.ConvDictionary:
    """Over one to three dimensions; stride, padding and dilation as one number or one for each dimension."""
    groups, per_group, channels = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    dimensions = draw(st.sampled_from([2, 2, 1, 3]))
    most = {1: 2 * max_side, 2: max_side, 3: min(max_side, 4)}[dimensions]

    def numbers(least: int, last: int) -> int | tuple[int, ...]:
        one = st.integers(least, last)
        return draw(one) if draw(st.booleans()) else tuple(draw(one) for _ in range(dimensions))

    padding, stride, dilation = numbers(0, 2), numbers(1, 3), draw(st.sampled_from([1, 1, 2]))
    kernel, sides = [], []
    for axis in range(dimensions):
        around = 2 * (padding if isinstance(padding, int) else padding[axis])
        kernel.append(draw(st.integers(1, min(4, (most + around - 1) // dilation + 1))))
        sides.append(draw(st.integers(max(dilation * (kernel[-1] - 1) + 1 - around, 1), most)))
    weight = normal(draw(seeds), groups * per_group, channels, *kernel) / (channels * math.prod(kernel)) ** 0.5
    return vd.ConvDictionary(
        weight, (groups * channels, *sides), stride=stride, padding=padding, dilation=dilation, groups=groups
    )


@st.composite
def fourier(draw: st.DrawFn) -> vd.FourierDictionary:
    """Over one to three dimensions."""
    groups, per_group, channels = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(1, 2))
    most = draw(st.sampled_from([(5, 5), (5, 5), (12,), (3, 3, 4)]))
    sides = [draw(st.integers(1, n)) for n in most]
    weight = normal(draw(seeds), groups * per_group, channels, *sides) / (channels * math.prod(sides)) ** 0.5
    return vd.FourierDictionary(weight, groups=groups)


@st.composite
def random_features(draw: st.DrawFn) -> vd.RandomFeatureDictionary:
    batch = draw(st.sampled_from([(), (2,), (2, 3)]))
    n, c, m = draw(st.integers(2, 6)), draw(st.integers(1, 4)), draw(st.integers(1, 6))
    heads = batch[-1:] if draw(st.booleans()) else ()
    seed = draw(seeds)
    return vd.RandomFeatureDictionary(
        normal(seed, *batch, n, c),
        normal(seed + 1, *heads, m, c),
        normalize_tokens=draw(st.booleans()),
        normalize_atoms=draw(st.booleans()),
    )


@st.composite
def unions(draw: st.DrawFn) -> vd.UnionDictionary:
    """A union of two or three parts. The parts are shared or batched, and take signals as a grid or as a row."""
    first = draw(st.one_of(conv(max_side=4), fourier(), dense()))
    d, seed = first.signal_size, draw(seeds)
    batch = draw(st.sampled_from([(), (2,), (2, 2)]))
    parts = [first, vd.DenseDictionary(normal(seed, *batch, d, draw(st.integers(1, 4))) / d**0.5)]
    if draw(st.booleans()):
        parts.append(vd.DenseDictionary(normal(seed + 1, d, 2) / d**0.5))
    return vd.UnionDictionary(*parts)


@st.composite
def hierarchies(draw: st.DrawFn) -> vd.HierarchyDictionary:
    """One to three layers, the first a grid or a row."""
    layers: list[vd.Dictionary] = [draw(st.one_of(conv(max_side=4), dense(max_atoms=6)))]
    for _ in range(draw(st.integers(0, 2))):
        below = layers[-1].code_size
        layers.append(vd.DenseDictionary(normal(draw(seeds), below, draw(st.integers(1, 5))) / below**0.5))
    coupling = [draw(st.sampled_from([1e-2, 0.3, 1.0, 4.0])) for _ in layers[1:]]
    return vd.HierarchyDictionary(*layers, coupling=coupling)


KINDS: dict[str, Callable[[], st.SearchStrategy[vd.Dictionary]]] = {
    "dense": dense,
    "batched dense": batched_dense,
    "conv": conv,
    "fourier": fourier,
    "random features": random_features,
    "union": unions,
    "hierarchy": hierarchies,
}


def dictionaries() -> st.SearchStrategy[vd.Dictionary]:
    """A dictionary of any kind."""
    return st.one_of(*(kind() for kind in KINDS.values()))


@st.composite
def problems(
    draw: st.DrawFn,
    kinds: st.SearchStrategy[vd.Dictionary] | None = None,
    shares: st.SearchStrategy[float] = lam_shares,
    ridges: st.SearchStrategy[float] = ridge_weights,
) -> vd.SparseProblem:
    """A problem whose lam is one number or a share of each signal's critical value. Some have a signal of zeros."""
    dictionary = draw(dictionaries() if kinds is None else kinds)
    x = signals_for(dictionary, draw(seeds), draw(leads))
    if draw(st.integers(0, 4)) == 0:
        x.reshape(-1, dictionary.signal_size)[0] = 0
    nonnegative, ridge, share = draw(st.booleans()), draw(ridges), draw(shares)
    critical = vd.SparseProblem(dictionary, x, 1.0, nonnegative=nonnegative).critical_lam()
    lam = share * critical.clamp(min=1e-3) if draw(st.booleans()) else share * float(critical.max().clamp(min=1e-3))
    return vd.SparseProblem(dictionary, x, lam, ridge, nonnegative)


def weighted(
    problem: vd.SparseProblem, seed: int, *, silenced: bool = False, free: bool = False, bias: float = 0.0
) -> vd.SparseProblem:
    """The problem with random weights, one atom silenced or free of penalty, and a bias of a size relative to lam.

    Shared and per signal by turns. The first atom is silenced and the last one is free.
    """
    shape = problem.dictionary.code_shape
    generator = torch.Generator().manual_seed(seed)
    lead = problem.batch_shape if seed % 2 else ()
    weights = 0.3 + 2 * torch.rand((*lead, problem.dictionary.code_size), generator=generator, dtype=torch.float64)
    if silenced:
        weights[..., 0] = torch.inf
    if free:
        weights[..., -1] = 0.0
    lam = problem.lam.max() if not lead else problem.lam[..., None]
    q = bias * lam * torch.where(weights.isinf(), 1.0, weights)
    q = q * (2 * torch.rand(q.shape, generator=generator, dtype=torch.float64) - 1)
    return vd.SparseProblem(
        problem.dictionary,
        problem.x,
        problem.lam,
        problem.ridge,
        problem.nonnegative,
        weights=weights.reshape(*lead, *shape),
        bias=q.reshape(*lead, *shape) if bias else None,
    )


@st.composite
def constants(draw: st.DrawFn) -> dict[str, float]:
    """alpha, beta, gamma and the time constants of the sparse fields, in no particular range."""
    alpha = draw(st.sampled_from([0.5, 1.0, 1.7]))
    gamma = draw(st.sampled_from([-0.5, 0.0, 1 / alpha, 1.0, 2.0, 3.3]))
    beta = draw(st.sampled_from([max(gamma, 0.1), 0.4, 2.0, 3.0, 7.0]))
    tau_z, tau_u = draw(st.sampled_from([(1.0, 1.0), (0.3, 1.0), (1.0, 2.5)]))
    return {"alpha": alpha, "beta": beta, "gamma": gamma, "tau_z": tau_z, "tau_u": tau_u}


@st.composite
def sparse_fields(
    draw: st.DrawFn,
    kinds: st.SearchStrategy[vd.Dictionary] | None = None,
    parameters: st.SearchStrategy[dict[str, float]] | None = None,
) -> vd.SparseRecurrent | vd.Reduced:
    """A sparse recurrent or reduced field with any constants, stable or not."""
    dictionary = draw(dictionaries() if kinds is None else kinds)
    x = signals_for(dictionary, draw(seeds), draw(leads))
    lam = draw(lam_shares) * vd.SparseProblem(dictionary, x, 1.0).critical_lam().clamp(min=1e-3)
    chosen = draw(constants() if parameters is None else parameters)
    threshold = draw(st.sampled_from(["soft", "nonnegative"]))
    if draw(st.booleans()):
        return vd.SparseRecurrent(dictionary, x, lam, threshold=threshold, **chosen)
    chosen = {name: value for name, value in chosen.items() if name != "tau_z"}
    return vd.Reduced(dictionary, x, lam, threshold=threshold, **chosen)


def states_for(field: vd.Field, seed: int) -> tuple[Tensor, ...]:
    """A random state, large enough for some of the encoding neurons to be active."""
    return tuple(2 * normal(seed + i, *field.signal_batch, *event) for i, event in enumerate(field.event_shapes))
