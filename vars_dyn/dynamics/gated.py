"""What all fields with encoding neurons share: the gate, and the problem that an equilibrium solves."""

from __future__ import annotations

import copy
from typing import Self

import torch
from torch import Tensor

from vars_dyn import _checks
from vars_dyn.dynamics.base import Field, State, half_square, sum_event
from vars_dyn.penalties import L1, Penalty
from vars_dyn.problems import SparseProblem
from vars_dyn.quadratic import identity_problem, matrix_problem
from vars_dyn.thresholds import ProximalThreshold

__all__ = ["Gated"]

#: Up to this many atoms the quadratic form of a problem that is neither LASSO nor elastic net is written out.
_MATRIX_LIMIT = 8192


class Gated(Field):
    """What the fields with encoding neurons share: the gate, and the problem that an equilibrium solves.

    With c = gamma - 1/alpha the code at rest is a stationary point of
    F(a) = c/2 |P a|^2 - (1/alpha) x.P a + (beta - gamma)/2 |a|^2 + lam |a|_1, theta = lam / beta.
    """

    #: r, whose proximal operator is the gate.
    penalty: Penalty = L1()
    #: The gate's threshold, where `prepared` has computed it.
    _theta: float | Tensor | None = None

    @property
    def nonnegative(self) -> bool:
        """Whether codes are never negative."""
        return self.penalty.nonnegative

    @property
    def gate(self) -> ProximalThreshold:
        """g, with theta = lam / beta."""
        return ProximalThreshold(self.penalty, self.per_code(self.lam) / self.beta)

    def prepared(self) -> Self:
        twin = copy.copy(self)
        theta = (self.lam / self.beta).detach()
        alike = theta.numel() > 0 and bool(theta.min() == theta.max())
        # One number, or one for every entry, because elementwise operations that broadcast take four times as long.
        codes = (*self.signal_batch, *self.dictionary.code_shape)
        twin._theta = float(theta.min()) if alike else self.per_code(theta).expand(codes).contiguous()
        return twin

    def _gated(self, u: Tensor) -> Tensor:
        """g(u), without the checks that building a gate makes, because this runs at every evaluation of f."""
        theta = self.per_code(self.lam / self.beta) if self._theta is None else self._theta
        return self.penalty.prox(u, theta)

    @property
    def _curvature(self) -> float | Tensor:
        """c = gamma - 1/alpha; exactly zero where it is zero to rounding."""
        return _snap(self.gamma - 1 / self.alpha, max(abs(_checks.plain(self.gamma)), 1 / _checks.plain(self.alpha)))

    @property
    def _ridge(self) -> float | Tensor:
        """beta - gamma; exactly zero where it is zero to rounding."""
        return _snap(self.beta - self.gamma, max(_checks.plain(self.beta), abs(_checks.plain(self.gamma))))

    def _rest_neurons(self, code: Tensor) -> Tensor:
        return (self.dictionary.decode(code) + self.x) / self.alpha

    def _rest_encoders(self, code: Tensor) -> Tensor:
        """u with u' = 0 at rest: beta u = gamma a + P^T (x / alpha - c P a)."""
        drive = self.x / self.alpha - self._curvature * self.dictionary.decode(code)
        return (self.gamma * code + self.dictionary.encode(drive)) / self.beta

    def _potential(self, a: Tensor) -> Tensor:
        """F(a) plus a constant.

        Where c > 0 the constant is |x|^2 / (2 c alpha^2), so that the sum is c E(a); elsewhere it is |x|^2 / (2 alpha).
        """
        event, c, ridge = self.dictionary.signal_shape, self._curvature, self._ridge
        reconstruction = self.dictionary.decode(a)
        if _checks.plain(c) > 0:
            smooth = c * half_square(reconstruction - self.x / (self.alpha * c), event)
        else:
            smooth = c * half_square(reconstruction, event) - sum_event(self.x * reconstruction, event) / self.alpha
            smooth = smooth + half_square(self.x, event) / self.alpha
        penalty = self.lam * sum_event(self.penalty.cost(a.abs()), self.dictionary.code_shape)
        return smooth + ridge * half_square(a, self.dictionary.code_shape) + penalty

    def problem(self) -> SparseProblem:
        """The convex problem F(a) as a `SparseProblem` (docs/mathematics.md, "What an equilibrium solves").

        For c > 0 and beta >= gamma it has P, x / (alpha c), lam / c and the ridge (beta - gamma) / c. Elsewhere,
        where Q = c G + (beta - gamma) I is positive definite, it is factored as R^T R, and R takes the place of P; the
        argmin, the KKT residual and the gap are then those of F. Differentiable in everything. Raises ValueError with
        the reason where there is no stable equilibrium.
        """
        reason = self.instability()
        if reason:
            raise ValueError(reason)
        c, ridge = self._curvature, self._ridge
        if _checks.plain(c) > 0 and _checks.plain(ridge) >= 0:
            x = self.x / (self.alpha * c)
            return SparseProblem(self.dictionary, x, self.lam / c, ridge / c, penalty=self.penalty)
        if _checks.plain(c) == 0 and _checks.plain(ridge) == 0:
            return SparseProblem(self.dictionary, self.x / self.alpha, self.lam, penalty=self.penalty)
        b = self.dictionary.encode(self.x) / self.alpha
        shape = self.dictionary.code_shape
        if _checks.plain(c) == 0:
            return identity_problem(ridge, b, shape, self.lam, self.penalty)
        return matrix_problem(self._quadratic_form(), b, shape, self.lam, self.penalty)

    def _quadratic_form(self) -> Tensor:
        """Q = c G + (beta - gamma) I, written out."""
        if self.dictionary.code_size > _MATRIX_LIMIT:
            raise ValueError(
                f"{self._named()} and {self.dictionary.code_size} atoms: for gamma < 1/alpha or beta < gamma the "
                f"quadratic form is written out, which is done for at most {_MATRIX_LIMIT} atoms"
            )
        weight = self.dictionary.matrix()
        gram = weight.mT @ weight
        return self._curvature * gram + self._ridge * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)

    def instability(self) -> str | None:
        """Why F has no stable minimum for every signal, or why none is proved; None where one is proved.

        A stable minimum is proved where F is convex and bounded below (docs/mathematics.md, "What an equilibrium
        solves"). Where F is linear, an equilibrium exists if and only if the drive is weak (`rests_without_code`).
        Where F is not convex, a signal without a threshold grows for certain, and any other may rest at one of several
        codes.
        """
        c, ridge = _checks.plain(self._curvature), _checks.plain(self._ridge)
        if c >= 0 and ridge >= 0 and (c > 0 or ridge > 0):
            return None
        linear = c == 0 and ridge == 0
        if not linear and ridge > 0 and ridge + c * float(self.dictionary.lipschitz().max()) > 0:
            return None
        if self.moves:
            return f"for {self._named()} no stable equilibrium is proved, because x moves"
        resting = self.rests_without_code()
        count, at_rest = resting.numel(), int(resting.sum())
        if linear:
            growing = f"|P^T x| exceeds alpha lam for {count - at_rest} signals, which grow without bound"
            why = f"gamma = 1/alpha and beta = gamma, and {growing}"
            return self._none(why) if at_rest < count else None
        if self.dictionary.code_size > _MATRIX_LIMIT:
            form = f"is too large to be written out, for {self.dictionary.code_size} atoms"
            certain = False
        else:
            with torch.no_grad():
                values = torch.linalg.eigvalsh(self._quadratic_form())
            smallest = values[..., 0]
            if bool((smallest > 0).all()):
                return None
            form, certain = f"has the eigenvalue {float(smallest.min()):.6g}, not above zero", self._grows(values)
        what = f"(gamma - 1/alpha) P^T P + (beta - gamma) I {form}"
        if certain:
            return self._none(what)
        return (
            f"for {self._named()} no stable equilibrium is proved: {what}, so there may be none, or more than one; "
            f"without a code {at_rest} of {count} signals rest"
        )

    def rests_without_code(self) -> Tensor:
        """Whether the code zero is an equilibrium, one value per signal: |P^T x| <= alpha lam for every atom, or
        P^T x <= alpha lam where codes are non-negative. The equilibrium is stable where the inequality is strict.
        """
        with torch.no_grad():
            shape = self.dictionary.code_shape
            drive = self.penalty.flattened(shape).dual_norm(self.dictionary.encode(self.x).flatten(-len(shape)))
            return drive <= _checks.plain(self.alpha) * self.lam.detach()

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
        return bool(((self.lam.detach() == 0) & per_signal).any())

    def _none(self, why: str) -> str:
        return f"{self._named()} has no stable equilibrium: {why}"

    def _named(self) -> str:
        alpha, beta, gamma = (_checks.plain(v) for v in (self.alpha, self.beta, self.gamma))
        return f"{type(self).__name__} with alpha = {alpha:.6g}, beta = {beta:.6g}, gamma = {gamma:.6g}"

    def code(self, state: State) -> Tensor:
        return self._gated(state[-1])

    def parameters(self) -> dict[str, float | str]:
        return {**super().parameters(), "threshold": self.penalty.name}


def _snap(value: float | Tensor, scale: float) -> float | Tensor:
    """`value`; exactly zero (with its gradient) where it is zero to the rounding of numbers as large as `scale`."""
    if abs(_checks.plain(value)) > 8 * torch.finfo(torch.float64).eps * scale:
        return value
    return value - value.detach() if isinstance(value, Tensor) else 0.0
