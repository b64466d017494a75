"""The problem and the Lyapunov function of the units that interventions leave free (docs/howto/interventions.md).

With w = gamma - 1/alpha and t = (x + I_z) / alpha on the rows of free neurons, and w = gamma and t = z on those of
neurons whose output is held, the code of the free atoms at rest is a stationary point of
F(a) = sum_j (w_j/2 (P a)_j^2 - t_j (P a)_j) + (beta - gamma)/2 |a|^2 + lam |a|_1 - I_u.a,
where a has the outputs that are held in their places.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vars_dyn import _checks
from vars_dyn.dictionaries.base import Dictionary
from vars_dyn.dictionaries.reweighted import Reweighted
from vars_dyn.dynamics.base import Field, State, sum_event
from vars_dyn.dynamics.gated import Gated
from vars_dyn.dynamics.linear import FeedForward, Recurrent
from vars_dyn.interventions.effect import Effect
from vars_dyn.problems import SparseProblem
from vars_dyn.quadratic import identity_problem, matrix_problem

__all__ = ["Free"]

#: Up to this many atoms a quadratic form is written out.
_MATRIX_LIMIT = 8192


@dataclass(frozen=True)
class Free:
    """The units that are free, given the others.

    Attributes:
        field: the field without interventions, but with its scaled dictionary.
        effect: what is done to it.
        code: the outputs of the atoms that are held or frozen, zero for the others; (*signal_batch, *code_shape).
        neurons: the same of the neurons; (*signal_batch, *signal_shape).
    """

    field: Field
    effect: Effect
    code: Tensor
    neurons: Tensor

    @property
    def _curvature(self) -> float | Tensor:
        """gamma - 1/alpha; zero where it is zero to rounding."""
        return _snapped(self.field.constants["gamma"], 1 / self.field.constants["alpha"])

    @property
    def _ridge(self) -> float | Tensor:
        """beta - gamma; zero where it is zero to rounding."""
        return _snapped(self.field.constants["beta"], self.field.constants["gamma"])

    @property
    def _convex(self) -> bool:
        """Whether F is convex whatever P is."""
        return _checks.plain(self._curvature) > 0 and _checks.plain(self._ridge) >= 0

    @property
    def _flat(self) -> bool:
        """Whether F has no quadratic term."""
        return _checks.plain(self._curvature) == 0 and _checks.plain(self._ridge) == 0

    @property
    def _driven(self) -> Tensor:
        """x + I_z."""
        current = self.effect.neurons.current
        return self.field.x if current is None else self.field.x + current.value

    @property
    def _bias(self) -> Tensor | None:
        """I_u of the free atoms; None where it is zero."""
        current = self.effect.atoms.current
        return None if current is None else _outside(self.effect.atoms.fixed, current.value)

    @property
    def _dictionary(self) -> Dictionary:
        """P without the columns of the atoms that are not free."""
        fixed, own = self.effect.atoms.fixed, self.field.dictionary
        if fixed is None:
            return own
        columns = (~fixed).to(self.field.x.dtype)
        return Reweighted(own, columns.new_ones(own.signal_shape), columns)

    @property
    def _as_field(self) -> Field:
        """A field with the same problem where no neuron is held: the free atoms, and x less what is sent."""
        twin = copy.copy(self.field)
        twin.dictionary, twin.x = self._dictionary, self._driven
        if self.effect.atoms.fixed is not None:
            sent = self.field.dictionary.decode(self.code)
            twin.x = twin.x - self.field.constants["alpha"] * self._curvature * sent
        return twin

    def problem(self) -> SparseProblem:
        """The problem; ValueError with the reason where there is none."""
        reason = self.instability()
        if reason:
            raise ValueError(reason)
        if not isinstance(self.field, Gated):
            return self._of_neurons()
        held = self.effect.neurons.fixed is not None
        if self._bias is None and not held and self._as_it_is:
            return self._as_field.problem()
        if self._bias is None and self._convex:
            return self._with_rows(self.field)
        return self._written_out(self.field)

    @property
    def _as_it_is(self) -> bool:
        return self._convex or self._flat or self.effect.atoms.fixed is None

    def _with_rows(self, field: Gated) -> SparseProblem:
        """The problem of a convex F with neurons held: their rows weigh gamma, the others gamma - 1/alpha."""
        alpha, gamma, c = field.constants["alpha"], field.constants["gamma"], self._curvature
        ones, target = field.x.new_ones(field.dictionary.signal_shape), self._driven / (alpha * c)
        rows, fixed = ones, self.effect.neurons.fixed
        if fixed is not None:
            rows = torch.where(fixed, (gamma / c) ** 0.5 * ones, ones)
            target = torch.where(fixed, self.neurons / (gamma * c) ** 0.5, target)
        target = target - rows * field.dictionary.decode(self.code)
        free = self.effect.atoms.fixed
        columns = ones.new_ones(field.dictionary.code_shape) if free is None else (~free).to(ones.dtype)
        scaled = Reweighted(field.dictionary, rows, columns)
        return SparseProblem(scaled, target, field.lam / c, self._ridge / c, penalty=field.penalty)

    def _written_out(self, field: Gated) -> SparseProblem:
        """The problem of any F whose quadratic form is positive definite."""
        form, weight = self._form()
        if not _is_definite(form):
            raise ValueError(
                "a current into encoding neurons adds the term -I.a to the objective, and its quadratic form is "
                "singular: there is no certificate"
            )
        fixed = self.effect.neurons.fixed
        target = self._driven / field.constants["alpha"]
        target = target if fixed is None else torch.where(fixed, self.neurons, target)
        drive = field.dictionary.encode(target - weight * field.dictionary.decode(self.code))
        drive = drive if self._bias is None else drive + self._bias
        b = _outside(self.effect.atoms.fixed, drive)
        return matrix_problem(form, b, field.dictionary.code_shape, field.lam, field.penalty)

    def _form(self) -> tuple[Tensor, Tensor]:
        """The quadratic form of F written out, with ones on the diagonal for atoms that are not free; and w."""
        field, fixed = self.field, self.effect.neurons.fixed
        weight = self._curvature * field.x.new_ones(field.dictionary.signal_shape)
        if fixed is not None:
            weight = torch.where(fixed, field.constants["gamma"] * torch.ones_like(weight), weight)
        matrix = self._dictionary.matrix()
        gram = matrix.mT @ (weight.flatten()[:, None] * matrix)
        idle = self.effect.atoms.fixed
        ridge = self._ridge * gram.new_ones(gram.shape[-1])
        ridge = ridge if idle is None else torch.where(idle.flatten(), 1.0, ridge)
        return gram + torch.diag(ridge), weight

    def _of_neurons(self) -> SparseProblem:
        """The problem of a linear field: least squares over z, in which held outputs have their values."""
        field, fixed, alpha = self.field, self.effect.neurons.fixed, self.field.constants["alpha"]
        shape, drive = field.dictionary.signal_shape, self._driven
        if isinstance(field, FeedForward):
            drive = drive if fixed is None else torch.where(fixed, alpha * self.neurons, drive)
            return identity_problem(alpha, drive, shape, 0.0)
        if not isinstance(field, Recurrent):
            raise ValueError(f"for {type(field).__name__} with interventions no problem is known")
        weight = field.dictionary.matrix()
        matrix = weight if field.is_matrix else weight @ weight.mT
        form = alpha * torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device) - matrix
        if fixed is not None:
            sent = (self.neurons.flatten(-len(shape)) @ matrix.mT).reshape(self.neurons.shape)
            drive = torch.where(fixed, alpha * self.neurons, drive + sent)
            free = (~fixed).flatten().to(form.dtype)
            form = free[:, None] * form * free + torch.diag(alpha * (1 - free))
        return matrix_problem(form, drive, shape, 0.0)

    def instability(self) -> str | None:
        """Why there is no stable equilibrium of the free units, or why none is proved; None where one is proved."""
        name = type(self.field).__name__
        if self.effect.asymmetric:
            return (
                f"for {name} no stable equilibrium is proved: synapses are scaled on one of their two ways only, which "
                "breaks the symmetry that the Lyapunov function and the problem need"
            )
        if not isinstance(self.field, Gated):
            return self.field.instability()
        if self.field.moves:
            # Whether F is bounded below depends on x only where F has no quadratic term.
            if self._flat:
                return f"for {name} with these interventions no stable equilibrium is proved, because x moves"
            return replace(self, field=self.field.at(self.effect.time)).instability()
        held = self.effect.neurons.fixed is not None
        if self._bias is None:
            if self._convex:
                return None
            if not held and self._as_it_is:
                return self._as_field.instability()
        if self.field.dictionary.code_size <= _MATRIX_LIMIT:
            with torch.no_grad():
                if _is_definite(self._form()[0]):
                    return None
        if self._bias is not None and self._convex and self._bounded(self.field, self._bias):
            return None
        return (
            f"for {name} with these interventions no stable equilibrium is proved: the quadratic form of the free "
            "atoms is not known to be positive definite, and nothing else bounds them"
        )

    def _bounded(self, field: Gated, bias: Tensor) -> bool:
        """Whether the penalty alone outweighs the currents into atoms."""
        with torch.no_grad():
            return bool((field.penalty.excess(bias.expand_as(self.code).clone(), field.per_code(field.lam)) < 0).all())

    def lyapunov(self, state: State) -> Tensor:
        """V of a state in which everything that is held has its place; NaN where it is not known."""
        if self.effect.asymmetric:
            return self.field.lam.new_full(self.field.signal_batch, float("nan"))
        potentials = dict(zip(self.field.state_names, state, strict=True))
        dictionary, current = self.field.dictionary, self.effect.neurons.current
        signal, event = dictionary.signal_shape, dictionary.code_shape
        if "z" in potentials and self.effect.neurons.fixed is not None:
            potentials["z"] = torch.where(self.effect.neurons.fixed, self.neurons, potentials["z"])
        if "u" in potentials:
            potentials["u"] = _outside(self.effect.atoms.fixed, potentials["u"])
        inner = tuple(potentials.values())
        value = self.field.lyapunov(inner)
        if "u" not in potentials:
            return value if current is None else value - sum_event(current.value * inner[0], signal)
        code = self.field.code(inner)
        rebuilt = dictionary.decode(code)
        if self.effect.atoms.fixed is not None:
            sent = dictionary.decode(self.code)
            factor = self.field.constants["gamma"] if "z" in potentials else self._curvature
            value = value + factor * sum_event(sent * rebuilt, signal)
            value = value - (sum_event(sent * potentials["z"], signal) if "z" in potentials else 0.0)
        if current is not None:
            seen = potentials["z"] if "z" in potentials else rebuilt / self.field.constants["alpha"]
            value = value - sum_event(current.value * seen, signal)
        return value if self._bias is None else value - sum_event(self._bias * code, event)


def _outside(mask: Tensor | None, value: Tensor) -> Tensor:
    """`value`, zero where the mask is true."""
    return value if mask is None else torch.where(mask, 0.0, value)


def _snapped(one: float | Tensor, other: float | Tensor) -> float | Tensor:
    """one - other; zero where it is zero to rounding."""
    size = max(abs(_checks.plain(one)), abs(_checks.plain(other)))
    value = one - other
    return value if abs(_checks.plain(value)) > 8 * torch.finfo(torch.float64).eps * size else 0.0 * value


def _is_definite(form: Tensor) -> bool:
    """Whether symmetric matrices are positive definite by more than rounding."""
    values = torch.linalg.eigvalsh(form.detach())
    rounding = 64 * values.shape[-1] * torch.finfo(values.dtype).eps * values.abs().amax(-1)
    return bool((values[..., 0] > rounding).all())
