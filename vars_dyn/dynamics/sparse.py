"""Fields with encoding neurons: sparse recurrent (VARS), its reduced form, and encoder-decoder (Eq. 6-9, 18-21)."""

from __future__ import annotations

import copy
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from vars_dyn import _checks
from vars_dyn.dictionaries.base import Dictionary, rounded_up
from vars_dyn.dynamics.base import Field, State, half_square, sum_event
from vars_dyn.problems import SparseProblem
from vars_dyn.quadratic import identity_problem, matrix_problem
from vars_dyn.thresholds import (
    NonNegativeSoftThreshold,
    SoftThreshold,
    Threshold,
    nonnegative_threshold,
    soft_threshold,
)

__all__ = ["EncoderDecoder", "Reduced", "SparseRecurrent"]

#: The quadratic form of a problem that is not a LASSO or an elastic net is written out up to this many atoms.
_MATRIX_LIMIT = 8192


class _Sparse(Field):
    """What the fields with encoding neurons share: the problem of fact 1, F(a), and the gate.

    With c = gamma - 1/alpha the code at rest is a stationary point of
    F(a) = c/2 |P a|^2 - (1/alpha) x.P a + (beta - gamma)/2 |a|^2 + lam |a|_1, theta = lam / beta.
    """

    nonnegative = False
    #: The gate's threshold, where `prepared` has worked it out.
    _theta: float | Tensor | None = None

    @property
    def gate(self) -> Threshold:
        """g, with theta = lam / beta."""
        kind = NonNegativeSoftThreshold if self.nonnegative else SoftThreshold
        return kind(self.per_code(self.lam) / self.beta)

    def prepared(self) -> Self:
        twin = copy.copy(self)
        theta = (self.lam / self.beta).detach()
        alike = theta.numel() > 0 and bool(theta.min() == theta.max())
        # A number, or one for every entry: elementwise operations that broadcast take four times as long.
        codes = (*self.signal_batch, *self.dictionary.code_shape)
        twin._theta = float(theta.min()) if alike else self.per_code(theta).expand(codes).contiguous()
        return twin

    def _gated(self, u: Tensor) -> Tensor:
        """g(u), without the checks of building a gate: this runs at every evaluation of f."""
        theta = self.per_code(self.lam / self.beta) if self._theta is None else self._theta
        return nonnegative_threshold(u, theta) if self.nonnegative else soft_threshold(u, theta)

    @property
    def _curvature(self) -> float | Tensor:
        """c = gamma - 1/alpha, exactly zero where it is so to rounding."""
        return _snap(self.gamma - 1 / self.alpha, max(abs(_checks.plain(self.gamma)), 1 / _checks.plain(self.alpha)))

    @property
    def _ridge(self) -> float | Tensor:
        """beta - gamma, exactly zero where it is so to rounding."""
        return _snap(self.beta - self.gamma, max(_checks.plain(self.beta), abs(_checks.plain(self.gamma))))

    def _rest_neurons(self, code: Tensor) -> Tensor:
        return (self.dictionary.decode(code) + self.x) / self.alpha

    def _rest_encoders(self, code: Tensor) -> Tensor:
        """u with u' = 0 at rest: beta u = gamma a + P^T (x / alpha - c P a)."""
        drive = self.x / self.alpha - self._curvature * self.dictionary.decode(code)
        return (self.gamma * code + self.dictionary.encode(drive)) / self.beta

    def _potential(self, a: Tensor) -> Tensor:
        """F(a) plus a constant: |x|^2 / (2 c alpha^2), which makes it c E(a), where c > 0, and |x|^2 / (2 alpha)
        elsewhere.
        """
        event, c, ridge = self.dictionary.signal_shape, self._curvature, self._ridge
        reconstruction = self.dictionary.decode(a)
        if _checks.plain(c) > 0:
            smooth = c * half_square(reconstruction - self.x / (self.alpha * c), event)
        else:
            smooth = c * half_square(reconstruction, event) - sum_event(self.x * reconstruction, event) / self.alpha
            smooth = smooth + half_square(self.x, event) / self.alpha
        penalty = self.lam * sum_event(a.abs(), self.dictionary.code_shape)
        return smooth + ridge * half_square(a, self.dictionary.code_shape) + penalty

    def problem(self) -> SparseProblem:
        """The convex problem F(a), written as a `SparseProblem` (fact 1).

        For c > 0 and beta >= gamma: P, x / (alpha c), lam / c, ridge (beta - gamma) / c. Elsewhere Q = c G + (beta -
        gamma) I, where it is positive definite, is factored as R^T R and R stands for P (its argmin and KKT residual
        are F's, its gap is F's too). Differentiable in everything. Raises ValueError with the reason where there is no
        stable equilibrium.
        """
        reason = self.instability()
        if reason:
            raise ValueError(reason)
        c, ridge = self._curvature, self._ridge
        if _checks.plain(c) > 0 and _checks.plain(ridge) >= 0:
            return SparseProblem(self.dictionary, self.x / (self.alpha * c), self.lam / c, ridge / c, self.nonnegative)
        if _checks.plain(c) == 0 and _checks.plain(ridge) == 0:
            return SparseProblem(self.dictionary, self.x / self.alpha, self.lam, nonnegative=self.nonnegative)
        b = self.dictionary.encode(self.x) / self.alpha
        shape = self.dictionary.code_shape
        if _checks.plain(c) == 0:
            return identity_problem(ridge, b, shape, self.lam, self.nonnegative)
        return matrix_problem(self._quadratic_form(), b, shape, self.lam, self.nonnegative)

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
        """Why F has no stable minimum for every signal, or why none is proved (facts 1 and 6); None where one is.

        It is proved where F is convex and bounded below. Where F is linear an equilibrium exists if and only if the
        drive is weak (`rests_without_code`). Where F is not convex, a signal without a threshold grows for certain;
        any other may rest at one of several codes.
        """
        c, ridge = _checks.plain(self._curvature), _checks.plain(self._ridge)
        if c >= 0 and ridge >= 0 and (c > 0 or ridge > 0):
            return None
        linear = c == 0 and ridge == 0
        if not linear and ridge > 0 and ridge + c * float(self.dictionary.lipschitz().max()) > 0:
            return None
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
        P^T x <= alpha lam where codes are non-negative. It is stable where the drive is below that.
        """
        with torch.no_grad():
            b = self.dictionary.encode(self.x).flatten(-len(self.dictionary.code_shape))
            drive = b.amax(-1) if self.nonnegative else b.abs().amax(-1)
            return drive <= _checks.plain(self.alpha) * self.lam.detach()

    def _grows(self, values: Tensor) -> bool:
        """Whether a signal grows for certain: its gate is the identity, so that the field is linear, and the quadratic
        form, of eigenvalues `values`, is negative in some direction by more than rounding.
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
        return {**super().parameters(), "threshold": "nonnegative" if self.nonnegative else "soft"}


class SparseRecurrent(_Sparse):
    """The VARS neurons (Eq. 8-9; with general parameters Eq. 18-19):

        tau_z z' = -alpha z + P g(u) + x
        tau_u u' = -beta u - gamma (P^T P - I) g(u) + P^T z

    Args:
        dictionary: P.
        x: signals, (*any, *signal_shape); (*batch, n, *signal_shape) for a batched dictionary.
        lam: weight of |a|_1 in the objective, at least zero; a number or one per signal. The gate's threshold is
            lam / beta.
        alpha, beta: leaks, above zero.
        gamma: weight of the inhibition between encoding neurons.
        tau_z, tau_u: time constants, above zero.
        threshold: "soft" or "nonnegative".

    At the defaults the equilibrium is the LASSO's solution, E(a) = 1/2 |P a - x|^2 + lam |a|_1. The paper's text
    writes the same gate with theta = lam / 2 (Eq. 10) and its appendix with theta = lam, which is 2 lam in the
    objective.
    """

    state_names = ("z", "u")

    def __init__(
        self,
        dictionary: Dictionary,
        x: Float[Tensor, "*shape"],
        lam: float | Tensor = 0.3,
        alpha: float | Tensor = 1.0,
        beta: float | Tensor = 2.0,
        gamma: float | Tensor = 2.0,
        tau_z: float | Tensor = 1.0,
        tau_u: float | Tensor = 1.0,
        threshold: str = "soft",
    ) -> None:
        positive = {"alpha": alpha, "beta": beta, "tau_z": tau_z, "tau_u": tau_u}
        super().__init__(dictionary, x, lam, positive, gamma=gamma)
        self.nonnegative = _checks.choice("threshold", threshold, ("soft", "nonnegative")) == "nonnegative"

    def _derivative(self, state: State) -> State:
        if not torch.is_grad_enabled() and not any(isinstance(v, Tensor) for v in self.constants.values()):
            return self._derivative_in_place(state)
        z, u = state
        a = self._gated(u)
        reconstruction = self.dictionary._decode(a)
        dz = (reconstruction + self.x - self.alpha * z) / self.tau_z
        du = (self.dictionary._encode(z - self.gamma * reconstruction) + self.gamma * a - self.beta * u) / self.tau_u
        return dz, du

    def _derivative_in_place(self, state: State) -> State:
        """`_derivative` where no gradient is wanted, in half the operations."""
        z, u = state
        names = ("alpha", "beta", "gamma", "tau_z", "tau_u")
        alpha, beta, gamma, tau_z, tau_u = (float(self.constants[name]) for name in names)
        a = self._gated(u)
        reconstruction = self.dictionary._decode(a)
        dz = torch.add(reconstruction, self.x).sub_(z, alpha=alpha)
        du = self.dictionary._encode(torch.sub(z, reconstruction, alpha=gamma)).add_(a, alpha=gamma).sub_(u, alpha=beta)
        return dz if tau_z == 1 else dz.div_(tau_z), du if tau_u == 1 else du.div_(tau_u)

    def neurons(self, state: State) -> Tensor:
        return state[0]

    def state_at(self, code: Tensor) -> State:
        return self._rest_neurons(code), self._rest_encoders(code)

    def lyapunov(self, state: State) -> Tensor:
        """V = alpha/2 |z - (P a + x)/alpha|^2 + F(a) (fact 2); dV/dt = -tau_z |z'|^2 - tau_u sum g'(u) u'^2 <= 0.

        The constant in F is such that at alpha = 1, beta = gamma = 2 and z at rest, V is the LASSO objective.
        """
        z, u = state
        a = self._gated(u)
        return self.alpha * half_square(z - self._rest_neurons(a), self.dictionary.signal_shape) + self._potential(a)

    def stiffness(self) -> Tensor:
        """Fact 3's bound: max(beta/tau_u, 1/2 [p + q + sqrt((p - q)^2 + 4 L/(tau_z tau_u))]), p = alpha/tau_z,
        q = max over active sets of |beta - gamma + gamma L_A| / tau_u.
        """
        largest = self.dictionary.lipschitz()
        alpha, beta, gamma, tau_z, tau_u = (
            _plain(v, largest) for v in (self.alpha, self.beta, self.gamma, self.tau_z, self.tau_u)
        )
        p = alpha / tau_z
        q = torch.maximum((beta - gamma).abs(), (beta - gamma + gamma * largest).abs()) / tau_u
        coupled = 0.5 * (p + q + torch.sqrt((p - q).square() + 4 * largest / (tau_z * tau_u)))
        return rounded_up(torch.maximum(beta / tau_u, coupled), 4)


class EncoderDecoder(SparseRecurrent):
    """tau_z z' = -alpha z + P u + x, tau_u u' = -beta u + P^T z (Eq. 6-7): no gate and no inhibition.

    At rest at the z of Eq. 5, (alpha beta I - P P^T) z = beta x; stable only if sigma_max(P)^2 < alpha beta. It is
    `SparseRecurrent` with gamma = 0 and lam = 0, where g is the identity.
    """

    def __init__(
        self,
        dictionary: Dictionary,
        x: Float[Tensor, "*shape"],
        alpha: float | Tensor = 1.0,
        beta: float | Tensor = 1.0,
        tau_z: float | Tensor = 1.0,
        tau_u: float | Tensor = 1.0,
    ) -> None:
        super().__init__(dictionary, x, 0.0, alpha, beta, 0.0, tau_z, tau_u)

    def _gated(self, u: Tensor) -> Tensor:
        return u


class Reduced(_Sparse):
    """Eq. 8-9 with z at rest at every moment, z = (P a + x) / alpha (Eq. 20-21); the state is u alone:

        tau_u u' = -beta u + gamma a - (gamma - 1/alpha) P^T P a + P^T x / alpha,   a = g(u)

    With the defaults, u' = -2 (u - a) - G a + b, of which one Euler step of 1/2 is one ISTA step with L = 2. The
    arguments are `SparseRecurrent`'s, without tau_z.
    """

    state_names = ("u",)

    def __init__(
        self,
        dictionary: Dictionary,
        x: Float[Tensor, "*shape"],
        lam: float | Tensor = 0.3,
        alpha: float | Tensor = 1.0,
        beta: float | Tensor = 2.0,
        gamma: float | Tensor = 2.0,
        tau_u: float | Tensor = 1.0,
        threshold: str = "soft",
    ) -> None:
        super().__init__(dictionary, x, lam, {"alpha": alpha, "beta": beta, "tau_u": tau_u}, gamma=gamma)
        self.nonnegative = _checks.choice("threshold", threshold, ("soft", "nonnegative")) == "nonnegative"

    def _derivative(self, state: State) -> State:
        (u,) = state
        a = self._gated(u)
        drive = self.x / self.alpha - self._curvature * self.dictionary._decode(a)
        return ((self.dictionary._encode(drive) + self.gamma * a - self.beta * u) / self.tau_u,)

    def neurons(self, state: State) -> Tensor:
        """z = (P a + x) / alpha."""
        return self._rest_neurons(self.code(state))

    def state_at(self, code: Tensor) -> State:
        return (self._rest_encoders(code),)

    def lyapunov(self, state: State) -> Tensor:
        """V = F(a), the objective up to a constant and, where gamma - 1/alpha is not 1, a factor (Eq. 23)."""
        return self._potential(self.code(state))

    def stiffness(self) -> Tensor:
        """max(beta, |beta - gamma|, |beta - gamma + c L|) / tau_u with c = gamma - 1/alpha."""
        largest = self.dictionary.lipschitz()
        beta, tau_u, ridge, c = (_plain(v, largest) for v in (self.beta, self.tau_u, self._ridge, self._curvature))
        active = torch.maximum(ridge.abs(), (ridge + c * largest).abs())
        return rounded_up(torch.maximum(beta, active) / tau_u, 4)


def _snap(value: float | Tensor, scale: float) -> float | Tensor:
    """`value`, or exactly zero (with its gradient) where it is so up to the rounding of numbers as large as `scale`."""
    if abs(_checks.plain(value)) > 8 * torch.finfo(torch.float64).eps * scale:
        return value
    return value - value.detach() if isinstance(value, Tensor) else 0.0


def _plain(value: float | Tensor, like: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=like.dtype, device=like.device).detach()
