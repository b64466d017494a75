"""The problem and the Lyapunov function of the units that interventions leave free (docs/howto/interventions.md).

With w = gamma - 1/alpha and t = (x + I_z) / alpha on the rows of free neurons, and w = gamma and t = z on those of
neurons whose output is held, the code of the free atoms at rest is a stationary point of
F(a) = sum_j (w_j/2 (P a)_j^2 - t_j (P a)_j) + (beta - gamma)/2 |a|^2 + lam sum_i v_i |a_i| - (q + I_u).a,
where a has the outputs that are held in their places, and v and q are the field's weights and bias.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vars_dyn.dictionaries.base import Dictionary
from vars_dyn.dictionaries.reweighted import Reweighted
from vars_dyn.dynamics.base import Field, State, sum_event
from vars_dyn.dynamics.constants import has_own, of_signals, smallest
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
    def _convex(self) -> bool:
        """Whether F is convex whatever P is."""
        return isinstance(self.field, Gated) and smallest(self.field.curvature) > 0 <= smallest(self.field.excess_leak)

    @property
    def _flat(self) -> bool:
        """Whether F has no quadratic term."""
        return isinstance(self.field, Gated) and self.field.is_linear

    @property
    def _differs(self) -> bool:
        """Whether signals have constants of their own where the problem needs one dictionary for all of them."""
        if not isinstance(self.field, Gated):
            return has_own(self.field.alpha, self.field.dictionary.signal_shape) and not self._free_neurons
        ridges = has_own(self.field.excess_leak, self.field.dictionary.code_shape) and not self._convex
        return ridges or has_own(self.field.curvature, self.field.dictionary.signal_shape)

    @property
    def _free_neurons(self) -> bool:
        return self.effect.neurons.fixed is None

    @property
    def _driven(self) -> Tensor:
        """x + I_z."""
        current = self.effect.neurons.current
        return self.field.x if current is None else self.field.x + current.value

    @property
    def _injected(self) -> Tensor | None:
        """I_u of the free atoms; None where there is none."""
        current = self.effect.atoms.current
        return None if current is None else _outside(self.effect.atoms.fixed, current.value)

    def _atoms(self, field: Gated) -> tuple[Tensor | None, Tensor | None]:
        """The weights and the bias of the free atoms, I_u included; those that are held have weight one and no bias."""
        fixed, weights, bias, current = self.effect.atoms.fixed, field.weights, field.bias, self._injected
        if weights is not None and fixed is not None:
            weights = torch.where(fixed, 1.0, weights)
        bias = None if bias is None else _outside(fixed, bias)
        return weights, current if bias is None else bias if current is None else bias + current

    @property
    def _dictionary(self) -> Dictionary:
        """P without the columns of the atoms that are not free."""
        fixed, own = self.effect.atoms.fixed, self.field.dictionary
        if fixed is None:
            return own
        columns = (~fixed).to(self.field.x.dtype)
        return Reweighted(own, columns.new_ones(own.signal_shape), columns)

    def _as_field(self, field: Gated) -> Gated:
        """A field with the same problem where no neuron is held: the free atoms, and x less what is sent."""
        twin = copy.copy(field)
        twin.dictionary, twin.x = self._dictionary, self._driven
        twin.weights, twin.bias = self._atoms(field)
        if self.effect.atoms.fixed is not None:
            sent = field.dictionary.decode(self.code)
            twin.x = twin.x - field.alpha * field.curvature * sent
        return twin

    def problem(self) -> SparseProblem:
        """The problem; ValueError with the reason where there is none."""
        reason = self.instability()
        if reason:
            raise ValueError(reason)
        if not isinstance(self.field, Gated):
            return self._of_neurons()
        if self._as_it_is:
            return self._as_field(self.field).problem()
        return self._with_rows(self.field) if self._convex else self._written_out(self.field)

    @property
    def _as_it_is(self) -> bool:
        """Whether a field without interventions has the same problem."""
        if self.effect.neurons.fixed is not None:
            return False
        return self._convex or self._flat or self.effect.atoms.fixed is None

    def _with_rows(self, field: Gated) -> SparseProblem:
        """The problem of a convex F with neurons held: their rows weigh gamma, the others gamma - 1/alpha."""
        ones, gamma, c = field.x.new_ones(field.dictionary.signal_shape), field.gamma, field.curvature * 1.0
        rows, target, fixed = c * ones, self._driven / field.alpha, self.effect.neurons.fixed
        if fixed is not None:
            rows, target = torch.where(fixed, gamma * ones, rows), torch.where(fixed, self.neurons, target)
        # Where all neurons have the same c, the problem is divided by it.
        c = torch.ones_like(ones[(0,) * ones.ndim]) if isinstance(c, Tensor) and c.ndim else c
        target, rows = target / (rows * c) ** 0.5, (rows / c) ** 0.5
        target = target - rows * field.dictionary.decode(self.code)
        free = self.effect.atoms.fixed
        columns = ones.new_ones(field.dictionary.code_shape) if free is None else (~free).to(ones.dtype)
        scaled = Reweighted(field.dictionary, rows, columns)
        weights, bias = self._atoms(field)
        bias = None if bias is None else bias / c
        found = SparseProblem(scaled, target, field.lam / c, penalty=field.penalty, weights=weights, bias=bias)
        return found.with_ridge(field.excess_leak / c)

    def _written_out(self, field: Gated) -> SparseProblem:
        """The problem of any F whose quadratic form is positive definite."""
        form, weight = self._form(field)
        fixed = self.effect.neurons.fixed
        target = self._driven / field.alpha
        target = target if fixed is None else torch.where(fixed, self.neurons, target)
        weights, bias = self._atoms(field)
        drive = field.dictionary.encode(target - weight * field.dictionary.decode(self.code))
        b = _outside(self.effect.atoms.fixed, drive if bias is None else drive + bias)
        return matrix_problem(form, b, field.dictionary.code_shape, field.lam, field.penalty, weights)

    def _form(self, field: Gated) -> tuple[Tensor, Tensor]:
        """The quadratic form of F written out, with ones on the diagonal for atoms that are not free; and w."""
        fixed = self.effect.neurons.fixed
        weight = field.curvature * field.x.new_ones(field.dictionary.signal_shape)
        if fixed is not None:
            weight = torch.where(fixed, field.gamma * torch.ones_like(weight), weight)
        matrix = self._dictionary.matrix()
        gram = matrix.mT @ (weight.flatten()[:, None] * matrix)
        idle = self.effect.atoms.fixed
        ridge = (field.excess_leak * gram.new_ones(field.dictionary.code_shape)).flatten()
        ridge = ridge if idle is None else torch.where(idle.flatten(), 1.0, ridge)
        return gram + torch.diag(ridge), weight

    def _of_neurons(self) -> SparseProblem:
        """The problem of a linear field: least squares over z, in which held outputs have their values."""
        field, fixed, alpha = self.field, self.effect.neurons.fixed, self.field.alpha
        shape, drive = field.dictionary.signal_shape, self._driven
        if isinstance(field, FeedForward):
            drive = drive if fixed is None else torch.where(fixed, alpha * self.neurons, drive)
            return identity_problem(alpha, drive, shape, 0.0)
        if not isinstance(field, Recurrent):
            raise ValueError(f"for {type(field).__name__} with interventions no problem is known")
        form, rest = field.form()
        if fixed is not None:
            leak = (alpha * drive.new_ones(shape)).flatten()
            matrix = torch.diag(leak) - form
            sent = (self.neurons.flatten(-len(shape)) @ matrix.mT).reshape(self.neurons.shape)
            drive = torch.where(fixed, alpha * self.neurons, drive + sent)
            free = (~fixed).flatten().to(form.dtype)
            form = free[:, None] * form * free + torch.diag(leak * (1 - free))
        return matrix_problem(form, drive, shape, 0.0, ridge=rest)

    def instability(self) -> str | None:
        """Why there is no stable equilibrium of the free units, or why none is proved; None where one is proved."""
        name = type(self.field).__name__
        if self.effect.asymmetric:
            return (
                f"for {name} no stable equilibrium is proved: synapses are scaled on one of their two ways only, which "
                "breaks the symmetry that the Lyapunov function and the problem need"
            )
        if not isinstance(self.field, Gated):
            return self._apart() if self._differs else self.field.instability()
        if self.field.moves:
            # Whether F is bounded below depends on x only where F has no quadratic term.
            if self._flat:
                return f"for {name} with these interventions no stable equilibrium is proved, because x moves"
            return replace(self, field=self.field.at(self.effect.time)).instability()
        if self._as_it_is:
            return self._as_field(self.field).instability()
        if self._differs:
            return self._apart()
        if self._convex:
            return self._drifting(self.field)
        if self.field.dictionary.code_size <= _MATRIX_LIMIT:
            with torch.no_grad():
                if _is_definite(self._form(self.field)[0]):
                    return None
        return (
            f"for {name} with these interventions no stable equilibrium is proved: the quadratic form of the free "
            "atoms is not known to be positive definite, and nothing else bounds them"
        )

    def _apart(self) -> str:
        return (
            f"for {type(self.field).__name__} with these interventions no stable equilibrium is proved: signals have "
            "constants of their own, so that no dictionary serves all of them; run them apart"
        )

    def _drifting(self, field: Gated) -> str | None:
        """Why currents into atoms may leave no equilibrium of a convex F; None where it is bounded below."""
        if self._atoms(field)[1] is None or smallest(field.excess_leak) > 0:
            return None
        bounded = self._with_rows(field).detach().bounded()
        if bool(bounded.all()):
            return None
        return (
            f"for {type(field).__name__} with these interventions no stable equilibrium is proved: currents exceed the "
            f"penalties of their atoms, and for {int((~bounded).sum())} of {bounded.numel()} signals no lower bound of "
            "the objective was found"
        )

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
            factor = (
                of_signals(self.field.gamma, len(event), len(signal)) if "z" in potentials else self.field.curvature
            )
            value = value + sum_event(factor * sent * rebuilt, signal)
            value = value - (sum_event(sent * potentials["z"], signal) if "z" in potentials else 0.0)
        if current is not None:
            seen = potentials["z"] if "z" in potentials else rebuilt / self.field.alpha
            value = value - sum_event(current.value * seen, signal)
        return value if self._injected is None else value - sum_event(self._injected * code, event)


def _outside(mask: Tensor | None, value: Tensor) -> Tensor:
    """`value`, zero where the mask is true."""
    return value if mask is None else torch.where(mask, 0.0, value)


def _is_definite(form: Tensor) -> bool:
    """Whether symmetric matrices are positive definite by more than rounding."""
    values = torch.linalg.eigvalsh(form.detach())
    rounding = 64 * values.shape[-1] * torch.finfo(values.dtype).eps * values.abs().amax(-1)
    return bool((values[..., 0] > rounding).all())
