"""What all fields with encoding neurons share: the gate, and the problem that an equilibrium solves."""

from __future__ import annotations

import copy
import math
from typing import Self

import torch
from torch import Tensor

from vars_dyn import _checks
from vars_dyn._scaling import scaled
from vars_dyn.dictionaries.reweighted import Reweighted
from vars_dyn.dynamics.base import Field, State, half_square, sum_event
from vars_dyn.dynamics.constants import has_own, largest, of_elements, of_signals, smallest, snapped
from vars_dyn.dynamics.forms import Form, form_of
from vars_dyn.penalties import L1, Penalty
from vars_dyn.problems import SparseProblem, checked_weights
from vars_dyn.quadratic import identity_problem, matrix_problem
from vars_dyn.raw_problems import weight_of
from vars_dyn.shapes import flat_per_atom, per_atom
from vars_dyn.thresholds import ProximalThreshold

__all__ = ["Gated"]

#: Up to this many atoms the quadratic form of a problem that is neither LASSO nor elastic net is written out.
_MATRIX_LIMIT = 8192


class Gated(Field):
    """What the fields with encoding neurons share: the gate, and the problem that an equilibrium solves.

    With c = gamma - 1/alpha the code at rest is a stationary point of
    F(a) = c/2 |P a|^2 - (1/alpha) x.P a - q.a + (beta - gamma)/2 |a|^2 + lam sum_i w_i |a_i|, theta_i = lam w_i / beta.
    Where units have their own alpha or beta, the squares are sums with these weights (docs/mathematics.md, "Constants
    of single units").

    Attributes:
        weights: w, shaped like a code, or like the signals' codes; an infinite one silences its unit. None: ones.
        bias: q, the bias currents of the encoding neurons, shaped as `weights` is. None: zeros.
    """

    #: r, whose proximal operator is the gate.
    penalty: Penalty = L1()
    weights: Tensor | None = None
    bias: Tensor | None = None
    #: The gate's threshold, where `prepared` has computed it.
    _theta: float | Tensor | None = None

    @property
    def nonnegative(self) -> bool:
        """Whether codes are never negative."""
        return self.penalty.nonnegative

    @property
    def gate(self) -> ProximalThreshold:
        """g, with theta_i = lam w_i / beta."""
        return ProximalThreshold(self.penalty, self.weight / self.beta)

    @property
    def weight(self) -> Tensor:
        """lam w_i, the weight of |a_i| in the objective, shaped to broadcast against codes."""
        return weight_of(self.per_code(self.lam), self.weights)

    def _with_atoms(self, weights: Tensor | _checks.Numbers | None, bias: Tensor | _checks.Numbers | None) -> None:
        """Take the weights and the bias; ValueError as in `SparseProblem`."""
        shapes = self.dictionary.code_shape, self.signal_batch
        if weights is not None:
            self.weights = checked_weights(weights, *shapes, self.x)
        if bias is not None:
            self.bias = per_atom("bias", bias, *shapes, self.x)

    def _biased(self, current: Tensor) -> Tensor:
        return current if self.bias is None else current + self.bias

    def tensors(self) -> tuple[Tensor, ...]:
        return (*super().tensors(), *(t for t in (self.weights, self.bias) if t is not None))

    def with_tensors(self, tensors: tuple[Tensor, ...]) -> Self:
        own = [name for name in ("weights", "bias") if getattr(self, name) is not None]
        twin = super().with_tensors(tensors[: len(tensors) - len(own)])
        for name, value in zip(own, tensors[len(tensors) - len(own) :], strict=True):
            setattr(twin, name, value)
        return twin

    def flat(self) -> Self:
        twin = super().flat()
        lead = twin.signal_batch
        twin.weights, twin.bias = (
            flat_per_atom(t, self.dictionary.code_shape, lead) for t in (self.weights, self.bias)
        )
        return twin

    def select(self, index: Tensor) -> Self:
        twin, dims = super().select(index), len(self.dictionary.code_shape)
        twin.weights, twin.bias = (t if t is None or t.ndim == dims else t[index] for t in (self.weights, self.bias))
        return twin

    def times_two_to(self, power: int) -> Self:
        twin = super().times_two_to(power)
        if twin.bias is not None:
            twin.bias = scaled(twin.bias, torch.tensor(power, dtype=torch.int32, device=twin.bias.device))
        return twin

    def prepared(self) -> Self:
        twin = copy.copy(self)
        theta = (self.weight / self.beta).detach()
        alike = theta.numel() > 0 and bool(theta.min() == theta.max())
        # One number, or one for every entry, because elementwise operations that broadcast take four times as long.
        codes = (*self.signal_batch, *self.dictionary.code_shape)
        twin._theta = float(theta.min()) if alike else theta.expand(codes).contiguous()
        return twin

    def _gated(self, u: Tensor) -> Tensor:
        """g(u), without the checks that building a gate makes, because this runs at every evaluation of f."""
        theta = self.weight / self.beta if self._theta is None else self._theta
        return self.penalty.prox(u, theta)

    @property
    def curvature(self) -> float | Tensor:
        """c = gamma - 1/alpha, shaped to broadcast against signals; exactly zero where it is zero to rounding."""
        return snapped(self.on_signals(self.gamma), 1 / self.alpha)

    @property
    def excess_leak(self) -> float | Tensor:
        """beta - gamma, shaped to broadcast against codes; exactly zero where it is zero to rounding."""
        return snapped(self.beta, self.gamma)

    def on_signals(self, value: float | Tensor) -> float | Tensor:
        """A number, or a constant that broadcasts against codes and has one value per signal, for signals."""
        return of_signals(value, len(self.dictionary.code_shape), len(self.dictionary.signal_shape))

    def _bounds(self) -> tuple[Tensor, int, int]:
        """L, shaped to broadcast against one value per signal, and the dimensions of a signal and of a code."""
        bound = of_elements(self.dictionary.lipschitz())
        return bound, len(self.dictionary.signal_shape), len(self.dictionary.code_shape)

    def _divisor(self) -> tuple[float | Tensor, float | Tensor]:
        """|c| where it is one for all neurons, shaped like lam and like codes; ones where every neuron has its own."""
        c, dims = self.curvature, len(self.dictionary.signal_shape)
        if isinstance(c, Tensor) and c.ndim == dims:
            return 1.0, 1.0
        size = c.abs() if isinstance(c, Tensor) else abs(c)
        return of_signals(size, dims), of_signals(size, dims, len(self.dictionary.code_shape))

    def _rest_neurons(self, code: Tensor) -> Tensor:
        return (self.dictionary.decode(code) + self.x) / self.alpha

    def _rest_encoders(self, code: Tensor) -> Tensor:
        """u with u' = 0 at rest: beta u = gamma a + P^T (x / alpha - c P a) + q."""
        drive = self.x / self.alpha - self.curvature * self.dictionary.decode(code)
        return (self.gamma * code + self._biased(self.dictionary.encode(drive))) / self.beta

    def _potential(self, a: Tensor) -> Tensor:
        """F(a) plus a constant.

        Where c > 0 for all neurons the constant is sum_j x_j^2 / (2 c_j alpha_j^2), so that the sum is c E(a);
        elsewhere it is sum_j x_j^2 / (2 alpha_j).
        """
        event, c = self.dictionary.signal_shape, self.curvature
        reconstruction = self.dictionary.decode(a)
        if smallest(c) > 0:
            smooth = half_square(reconstruction - self.x / (self.alpha * c), event, c)
        else:
            smooth = half_square(reconstruction, event, c) - sum_event(self.x * reconstruction / self.alpha, event)
            smooth = smooth + half_square(self.x, event, 1 / self.alpha)
        shape = self.dictionary.code_shape
        if self.weights is None:
            penalty = self.lam * sum_event(self.penalty.cost(a.abs()), shape)
        else:
            penalty = sum_event(self.weight * self.penalty.cost(a.abs()), shape)
        if self.bias is not None:
            penalty = penalty - sum_event(self.bias * a, shape)
        return smooth + half_square(a, shape, self.excess_leak) + penalty

    def problem(self) -> SparseProblem:
        """The convex problem F(a) as a `SparseProblem` (docs/mathematics.md, "What an equilibrium solves").

        For c > 0 and beta >= gamma it has P, x / (alpha c), lam / c and the ridge (beta - gamma) / c; where alpha is
        one per neuron, diag(c)^1/2 P, x / (alpha c^1/2), lam and beta - gamma. Elsewhere, where
        Q = P^T diag(c) P + diag(beta - gamma) is positive definite, it is factored as R^T R, and R takes the place of
        P; the argmin, the KKT residual and the gap are then those of F, divided by |c| where signals have their own.
        Differentiable in everything. Raises ValueError with the reason where there is no stable equilibrium, and where
        no dictionary serves all signals.
        """
        reason = self.instability()
        if reason:
            raise ValueError(reason)
        c, ridge = self.curvature, self.excess_leak
        if smallest(c) > 0 and smallest(ridge) >= 0:
            return self._elastic_net()
        if self.is_linear:
            x, w, q = self.x / self.alpha, self.weights, self.bias
            return SparseProblem(self.dictionary, x, self.lam, penalty=self.penalty, weights=w, bias=q)
        b = self._biased(self.dictionary.encode(self.x / self.alpha))
        shape = self.dictionary.code_shape
        both = has_own(ridge, shape) and isinstance(ridge, Tensor) and math.prod(ridge.shape[-len(shape) :]) > 1
        if smallest(c) == largest(c) == 0 and not both:
            return identity_problem(ridge, b, shape, self.lam, self.penalty, self.weights)
        form = self._quadratic_form()
        by = self.per_code(form.divisor) if isinstance(form.divisor, Tensor) else form.divisor
        lam = self.lam / form.divisor
        return matrix_problem(form.shared, b / by, shape, lam, self.penalty, self.weights, form.rest)

    def _elastic_net(self) -> SparseProblem:
        """The problem for c > 0 and beta >= gamma."""
        c, dictionary = self.curvature, self.dictionary
        by, by_code = self._divisor()
        x = self.x / (self.alpha * c)
        if isinstance(c, Tensor) and c.ndim == len(dictionary.signal_shape):
            rows = c.sqrt()
            dictionary, x = (
                Reweighted(dictionary, rows, rows.new_ones(dictionary.code_shape)),
                self.x / (self.alpha * rows),
            )
        bias = None if self.bias is None else self.bias / by_code
        own = SparseProblem(dictionary, x, self.lam / by, penalty=self.penalty, weights=self.weights, bias=bias)
        return own.with_ridge(self.excess_leak / by_code)

    def _quadratic_form(self) -> Form:
        """Q = P^T diag(c) P + diag(beta - gamma), written out."""
        if self.dictionary.code_size > _MATRIX_LIMIT:
            raise ValueError(
                f"{self._named()} and {self.dictionary.code_size} atoms: for gamma < 1/alpha or beta < gamma the "
                f"quadratic form is written out, which is done for at most {_MATRIX_LIMIT} atoms"
            )
        return form_of(self.dictionary, self.curvature, self.excess_leak)

    @property
    def is_linear(self) -> bool:
        """Whether F has no quadratic term."""
        return all(smallest(v) == largest(v) == 0 for v in (self.curvature, self.excess_leak))

    def instability(self) -> str | None:
        """Why F has no stable minimum for every signal, or why none is proved; None where one is proved.

        A stable minimum is proved where F is convex and bounded below (docs/mathematics.md, "What an equilibrium
        solves"). Where F is linear, an equilibrium exists if and only if the drive is weak (`rests_without_code`).
        Where F is not convex, a signal without a threshold grows for certain, and any other may rest at one of several
        codes.
        """
        c, ridge = smallest(self.curvature), smallest(self.excess_leak)
        if c >= 0 and ridge >= 0 and (c > 0 or ridge > 0):
            return self._drifting() if self.bias is not None and ridge == 0 else None
        linear = self.is_linear
        if not linear and ridge > 0 and ridge + min(c, 0.0) * float(self.dictionary.lipschitz().max()) > 0:
            return None
        if self.moves:
            return f"for {self._named()} no stable equilibrium is proved, because x moves"
        resting = self.rests_without_code()
        count, at_rest = resting.numel(), int(resting.sum())
        if linear:
            growing = f"|P^T x| exceeds alpha lam for {count - at_rest} signals, which grow without bound"
            why = f"gamma = 1/alpha and beta = gamma, and {growing}"
            return self._none(why) if at_rest < count else None
        certain = False
        if self.dictionary.code_size > _MATRIX_LIMIT:
            form = f"is too large to be written out, for {self.dictionary.code_size} atoms"
        else:
            try:
                with torch.no_grad():
                    found = self._quadratic_form()
                    values = torch.linalg.eigvalsh(found.shared)
            except ValueError as why_not:
                return f"for {self._named()} no stable equilibrium is proved: {why_not}"
            least = values[..., 0]
            if bool((least > 0).all()):
                return None
            form = f"has the eigenvalue {float(least.min()):.6g}, not above zero"
            certain = not isinstance(found.rest, Tensor) and self._grows(values)
        what = f"(gamma - 1/alpha) P^T P + (beta - gamma) I {form}"
        if certain:
            return self._none(what)
        return (
            f"for {self._named()} no stable equilibrium is proved: {what}, so there may be none, or more than one; "
            f"without a code {at_rest} of {count} signals rest"
        )

    def rests_without_code(self) -> Tensor:
        """Whether the code zero is an equilibrium, one value per signal: |P^T x / alpha + q| <= lam w for every atom,
        or P^T x / alpha + q <= lam w where codes are non-negative. Where the inequality is strict it is stable.
        """
        with torch.no_grad():
            shape = self.dictionary.code_shape
            drive = self._biased(self.dictionary.encode(self.x / self.alpha))
            return (self.penalty.excess(drive, self.weight.expand(drive.shape)) <= 0).flatten(-len(shape)).all(-1)

    def _drifting(self) -> str | None:
        """Why the bias currents may leave no equilibrium; None where F is bounded below for every signal."""
        bounded = self._elastic_net().detach().bounded()
        if bool(bounded.all()):
            return None
        return (
            f"for {self._named()} no stable equilibrium is proved: bias currents exceed the penalties of their units, "
            f"and for {int((~bounded).sum())} of {bounded.numel()} signals no lower bound of the objective was found"
        )

    def _grows(self, values: Tensor) -> bool:
        """Whether a signal grows for certain.

        It does where its gate is the identity, which makes the field linear, and where the quadratic form, whose
        eigenvalues are `values`, is negative in some direction by more than rounding.
        """
        if self.nonnegative:
            return False
        rounding = 8 * values.shape[-1] * torch.finfo(values.dtype).eps * values.abs().amax(-1)
        negative = values[..., 0] < -rounding
        per_signal = negative.reshape((*negative.shape, *(1,) * (self.lam.ndim - negative.ndim)))
        free = (self.weight.detach() == 0).flatten(-len(self.dictionary.code_shape)).all(-1)
        return bool((free & per_signal).any())

    def _none(self, why: str) -> str:
        return f"{self._named()} has no stable equilibrium: {why}"

    def _named(self) -> str:
        shown = ", ".join(f"{name} = {_range(getattr(self, name))}" for name in ("alpha", "beta", "gamma"))
        return f"{type(self).__name__} with {shown}"

    def code(self, state: State) -> Tensor:
        return self._gated(state[-1])

    def parameters(self) -> dict[str, float | str]:
        return {**super().parameters(), "threshold": self.penalty.name}


def _range(value: float | Tensor) -> str:
    low, high = smallest(value), largest(value)
    return f"{low:.6g}" if low == high else f"{low:.6g} to {high:.6g}"
