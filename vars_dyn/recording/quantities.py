"""The variables that can be recorded of a field's trajectory, and the arrays that explain them in a dataset."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vars_dyn import _checks
from vars_dyn._names import VARIABLES
from vars_dyn.dictionaries import ConvDictionary, DenseDictionary, FourierDictionary
from vars_dyn.dynamics.base import Field, State
from vars_dyn.dynamics.constants import of_signals
from vars_dyn.interventions import Intervened
from vars_dyn.problems import SparseProblem
from vars_dyn.recording.layout import Layout, Population, as_numpy, meaning
from vars_dyn.recording.provenance import atoms_of
from vars_dyn.recording.store import Array

__all__ = [
    "VARIABLES",
    "Quantity",
    "certified_problem",
    "chosen_quantities",
    "end_arrays",
    "static_arrays",
    "time_array",
]

#: How many moments are kept: as many as a chunk has by default.
_MOMENTS = 64


class Moment(NamedTuple):
    """The field as it is at one time, and the problem of that time; None if there is none to certify."""

    field: Field
    problem: SparseProblem | None


def moments_of(field: Field, problem: SparseProblem | None) -> Callable[[float], Moment]:
    """Gives the moment of each time. `problem` is that of a field that does not change with time.

    Several variables ask for the same times, so the last moments are kept; so is the problem for as long as the field
    stays the same.
    """
    if not field.moves and not field.boundaries and not isinstance(field, Intervened):
        return lambda time: Moment(field.at(time), problem)
    kept: list[Moment] = []

    @functools.lru_cache(maxsize=_MOMENTS)
    def moment(time: float) -> Moment:
        now = field.at(time)
        if not kept or kept[0].field is not now:
            kept[:] = [Moment(now, certified_problem(now))]
        return kept[0]

    return moment


@dataclass(frozen=True)
class Quantity:
    """One recorded variable: its name, dimensions after time, shape per time point, and its value at a moment."""

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    attributes: Mapping[str, str]
    value: Callable[[Moment, State], Tensor]
    moments: Callable[[float], Moment]

    def values_at(self, times: Sequence[float], states: Sequence[State]) -> NDArray[np.generic]:
        """The variable at several times and the states there, time first."""
        values = [
            as_numpy(self.value(self.moments(time), state)).reshape(self.shape)
            for time, state in zip(times, states, strict=True)
        ]
        return np.stack(values).astype(self.dtype, copy=False) if values else np.empty((0, *self.shape), self.dtype)

    def array(self) -> Array:
        """The array of a store that this variable is written to. It is empty at first."""
        return Array(
            self.name, ("time", *self.dims), np.empty((0, *self.shape), self.dtype), self.attributes, growing=True
        )


def certified_problem(field: Field) -> SparseProblem | None:
    """The problem that the equilibrium solves, detached from the autograd graph; None if there is none to certify.

    For a field with interventions it is the problem without them, and where x moves it is that of time zero; every
    moment has its own.
    """
    field = field.field if isinstance(field, Intervened) else field
    try:
        return field.at(0.0).problem().detach()
    except ValueError:
        return None


def chosen_quantities(
    layout: Layout, problem: SparseProblem | None, variables: Sequence[str] | None = None
) -> list[Quantity]:
    """The variables to record: `variables`, or all that the field has. ValueError for one that it does not have."""
    available = {quantity.name: quantity for quantity in _available(layout, problem)}
    wanted = list(available) if variables is None else list(variables)
    if not wanted or len(set(wanted)) < len(wanted):
        raise ValueError(f"variables is {wanted}; distinct names of {', '.join(VARIABLES)} are wanted")
    for name in wanted:
        _checks.choice("variable", name, VARIABLES)
        if name not in available:
            raise ValueError(f"{name} cannot be recorded: {_why_not(name, layout.field)}")
    return [quantity for name, quantity in available.items() if name in wanted]


def _why_not(name: str, field: Field) -> str:
    if name == "x":
        return "x does not move; the variable signals holds it"
    if name in ("u", "code", "active"):
        return f"{type(field).__name__} has no encoding neurons"
    try:
        field.at(0.0).problem()
    except ValueError as error:
        return f"there is no equilibrium to certify: {error}"
    return "there is no equilibrium to certify"


def _available(layout: Layout, problem: SparseProblem | None) -> Iterator[Quantity]:
    """The variables that the field has, in the order of `VARIABLES`."""
    field, neurons, atoms = layout.field, layout.neurons, layout.atoms
    real = as_numpy(torch.empty(0, dtype=field.dtype)).dtype
    moments, moving = moments_of(field, problem), field.moves

    def entries(name: str, part: Population, long_name: str, of: Callable[[Moment, State], Tensor]) -> Quantity:
        shape, about = (layout.signals, *part.recorded_shape), meaning(long_name)
        return Quantity(
            name, ("signal", *part.dims), shape, real, about, lambda now, state: part.take(of(now, state)), moments
        )

    def per_signal(
        name: str, long_name: str, of: Callable[[Moment, State], Tensor], dtype: np.dtype[Any] = real
    ) -> Quantity:
        return Quantity(name, ("signal",), (layout.signals,), dtype, meaning(long_name), of, moments)

    if moving:
        yield entries("x", neurons, "input signals, x, as they are at the time", lambda now, state: now.field.x)
    yield entries("z", neurons, "potential of the layer's neurons, z", lambda now, state: now.field.neurons(state))
    if "u" in field.state_names:
        part = field.state_names.index("u")
        yield entries("u", atoms, "potential of the encoding neurons, u", lambda now, state: state[part])
        yield entries("code", atoms, "output of the encoding neurons, the code a = g(u)", lambda m, s: m.field.code(s))
    held = " with x as it is at the time" if moving else ""
    falls = ", which may rise as x moves" if moving else ""
    yield per_signal("lyapunov", f"Lyapunov function V{held}{falls}", lambda now, state: now.field.lyapunov(state))
    if problem is not None:
        tracking = "tracking gap, the " if moving else ""
        bound = f"{tracking}duality gap of the code: an upper bound on E(a) - min E{held}"
        yield per_signal("gap", bound, lambda now, state: _certificate(now, state, SparseProblem.gap))
        relative = f"{tracking}duality gap of the code{held}, relative to |x|^2 / 2"
        yield per_signal("relative_gap", relative, lambda now, s: _certificate(now, s, SparseProblem.relative_gap))
    if "u" in field.state_names:
        trailing = len(field.dictionary.code_shape)
        count = "active atoms: entries of the code that are not zero"
        yield per_signal(
            "active", count, lambda now, s: (now.field.code(s) != 0).flatten(-trailing).sum(-1), np.dtype(np.int64)
        )


def _certificate(now: Moment, state: State, of: Callable[[SparseProblem, Tensor], Tensor]) -> Tensor:
    """A certificate of the code at a moment; NaN where there is no problem to certify."""
    if now.problem is None:
        return torch.full(now.field.signal_batch, math.nan, dtype=now.field.x.dtype)
    return of(now.problem, now.field.unknowns(state))


def time_array(name: str = "time") -> Array:
    """The empty time axis."""
    attributes = {"units": "tau", "long_name": "time, in membrane time constants"}
    return Array(name, ("time",), np.empty(0, np.float64), attributes, growing=True)


def static_arrays(layout: Layout) -> list[Array]:
    """The arrays that do not change with time: signals, lam, the dictionary's tensors, the chosen neurons and atoms.

    Where x moves, the signals are those of time zero, and the stimulus's own arrays are there too.
    """
    field = layout.field
    x = as_numpy(field.at(0.0).x).reshape(layout.signals, *layout.neurons.shape)
    when = " at time zero" if field.moves else ""
    lam = as_numpy(field.lam).reshape(layout.signals)
    return [
        Array("signals", ("signal", *layout.neurons.all_dims), x, meaning(f"input signals, x{when}")),
        Array("lam", ("signal",), lam, meaning("weight of |a|_1 in the objective, lambda")),
        *_atom_arrays(layout),
        *_stimulus_arrays(layout),
        *_dictionary_arrays(layout),
        *layout.coordinates(),
    ]


def _atom_arrays(layout: Layout) -> list[Array]:
    """The weights, the bias and the constants that vary: one per unit, per signal, or per signal and unit."""
    meanings = {
        "weights": meaning("weight of an atom's penalty, as a multiple of lambda"),
        "bias": meaning("bias current of an atom"),
        "alpha": meaning("alpha, the leak of each of the layer's neurons z"),
        "beta": meaning("beta, the leak of each of the encoding neurons u"),
        "gamma": meaning("gamma, the strength of the inhibition between encoding neurons of each signal"),
        "tau_z": {"units": "tau", "long_name": "time constant of each of the layer's neurons z"},
        "tau_u": {"units": "tau", "long_name": "time constant of each of the encoding neurons u"},
    }
    found = []
    for name, value in atoms_of(layout.field).items():
        part = layout.neurons if name in ("tau_z", "alpha") else layout.atoms
        values, dims = as_numpy(value), part.all_dims
        if value.ndim > len(part.shape):
            alike = value.shape[-len(part.shape) :].numel() < math.prod(part.shape)
            dims = ("signal",) if alike else ("signal", *dims)
            values = values.reshape(layout.signals, *(() if alike else part.shape))
        found.append(Array(name, dims, values, meanings[name]))
    return found


def _stimulus_arrays(layout: Layout) -> list[Array]:
    stimulus = layout.field.stimulus
    values = [as_numpy(tensor) for tensor in stimulus.stored()] if stimulus is not None else []
    return [
        Array(
            f"stimulus_{k}",
            tuple(f"stimulus_{k}_{axis}" for axis in range(v.ndim)),
            v,
            meaning(f"stimulus: tensor {k}"),
        )
        for k, v in enumerate(values)
    ]


def _dictionary_arrays(layout: Layout) -> list[Array]:
    dictionary = layout.field.dictionary
    values = [as_numpy(tensor) for tensor in dictionary.tensors()]
    name = f"the dictionary P, a {type(dictionary).__name__}"
    if type(dictionary) is DenseDictionary and not dictionary.batch_shape:
        dims = (*layout.neurons.all_dims, *layout.atoms.all_dims)
        return [Array("dictionary", dims, values[0], meaning(f"{name}: an atom a column"))]
    if isinstance(dictionary, (ConvDictionary, FourierDictionary)):
        dims = ("channel", *(f"kernel_{axis}" for axis in layout.neurons.axes))
        return [Array("dictionary", dims, values[0], meaning(f"{name}: its templates"))]
    return [
        Array(
            f"dictionary_{k}",
            tuple(f"dictionary_{k}_{axis}" for axis in range(v.ndim)),
            v,
            meaning(f"{name}: tensor {k}"),
        )
        for k, v in enumerate(values)
    ]


def end_arrays(layout: Layout, problem: SparseProblem | None, state: State, time: float) -> list[Array]:
    """The state of all neurons and atoms at the last time, even if only some are recorded, and its certificate.

    Where x moves, x is there too, and the certificate is that of the problem of the last time.
    """
    now = moments_of(layout.field, problem)(time)
    field = now.field
    z = as_numpy(field.neurons(state)).reshape(layout.signals, *layout.neurons.shape)
    arrays = [Array("z_end", ("signal", *layout.neurons.all_dims), z, meaning("z at the end"))]
    if layout.field.moves:
        x = as_numpy(field.x).reshape(z.shape)
        arrays.append(Array("x_end", ("signal", *layout.neurons.all_dims), x, meaning("input signals, x, at the end")))
    code = field.code(state)
    if "u" in field.state_names:
        a = as_numpy(code).reshape(layout.signals, *layout.atoms.shape)
        rebuilt = as_numpy(_gain(field) * field.dictionary.decode(code)).reshape(z.shape)
        arrays += [
            Array("code_end", ("signal", *layout.atoms.all_dims), a, meaning("the code a at the end")),
            Array(
                "reconstruction_end",
                ("signal", *layout.neurons.all_dims),
                rebuilt,
                meaning("reconstruction of x at the end"),
            ),
        ]
    if problem is not None:
        both = (torch.full(field.signal_batch, math.nan, dtype=field.x.dtype),) * 2
        both = both if now.problem is None else now.problem.certificate(field.unknowns(state))
        gap, kkt = (as_numpy(v).reshape(layout.signals) for v in both)
        arrays += [
            Array("relative_gap_end", ("signal",), gap, meaning("duality gap at the end, relative to |x|^2 / 2")),
            Array("kkt_residual_end", ("signal",), kkt, meaning("KKT residual at the end: violation of optimality")),
        ]
    return arrays


def _gain(field: Field) -> float | Tensor:
    """The factor to multiply P a by before it is compared with x: alpha c if c = gamma - 1/alpha > 0, else 1.

    It broadcasts against signals. See docs/mathematics.md, "What an equilibrium solves".
    """
    if not {"alpha", "gamma"} <= field.constants.keys() | field.varied.keys():
        return 1.0
    dictionary = field.dictionary
    gamma = of_signals(field.gamma, len(dictionary.code_shape), len(dictionary.signal_shape))
    gain = field.alpha * gamma - 1.0
    if isinstance(gain, Tensor):
        return torch.where(gain > 1e-12, gain, 1.0).detach()
    return gain if gain > 1e-12 else 1.0
