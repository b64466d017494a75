"""The fields with encoding neurons: sparse recurrent (VARS), encoder-decoder and reduced (Eq. 6-9, 18-21)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from vars_dyn import _checks
from vars_dyn.dictionaries.base import Dictionary, rounded_up
from vars_dyn.dynamics.base import State, half_square
from vars_dyn.dynamics.constants import extreme, over_signals
from vars_dyn.dynamics.gated import Gated
from vars_dyn.penalties import Penalty, penalty_of
from vars_dyn.stimuli.base import Stimulus

__all__ = ["EncoderDecoder", "Reduced", "SparseRecurrent"]


class SparseRecurrent(Gated):
    """The VARS neurons (Eq. 8-9; with general parameters Eq. 18-19):

        tau_z z' = -alpha z + P g(u) + x
        tau_u u' = -beta u - gamma (P^T P - I) g(u) + P^T z

    Args:
        dictionary: P.
        x: signals, (*any, *signal_shape); (*batch, n, *signal_shape) for a batched dictionary. Or a stimulus of
            signals of that shape, whose frames may also have as many pixels as a signal has entries.
        lam: weight of |a|_1 in the objective, at least zero; a number or one per signal. The gate's threshold is
            lam / beta.
        alpha, beta: leaks, above zero; numbers, or one per signal, or one per neuron (alpha) or per atom (beta). beta
            may be one per signal and atom.
        gamma: weight of the inhibition between encoding neurons; a number or one per signal.
        tau_z, tau_u: time constants, above zero; numbers, or one per neuron (tau_z) or per atom (tau_u), or one per
            signal, or one per signal and unit. They change the way to the equilibrium, and neither the equilibrium nor
            V.
        threshold: the gate: "soft", "nonnegative", or the `vars_dyn.penalties.Penalty` whose proximal operator it is.
        weights: w, one per atom, or one per signal and atom, at least zero: lam w_i takes the place of lam. Infinity
            silences a unit. None: ones.
        bias: q, a current into each encoding neuron, one per atom, or one per signal and atom: tau_u u' gains q, and
            the objective -q.a. None: zeros.

    A tensor of the signals' batch shape has one number per signal. Where units have that shape too, (*batch, 1) or
    (1, units) says which is meant.

    At the defaults the equilibrium is the LASSO's solution, E(a) = 1/2 |P a - x|^2 + lam |a|_1. The paper's text
    writes the same gate with theta = lam / 2 (Eq. 10). Its appendix writes theta = lam, which means 2 lam in the
    objective.

    Raises ValueError for arguments that do not fit and for constants out of range.

    Examples:
        >>> P = vd.DenseDictionary(torch.eye(3, dtype=torch.float64))
        >>> x = torch.tensor([2.0, -1.0, 0.3], dtype=torch.float64)
        >>> field = vd.SparseRecurrent(P, x, lam=0.5)
        >>> dz, du = field(0.0, field.initial_state())
        >>> du.tolist()
        [2.0, -1.0, 0.3]
        >>> vd.equilibrium(field).code.tolist()
        [1.5, -0.5, 0.0]
    """

    state_names = ("z", "u")

    def __init__(
        self,
        dictionary: Dictionary,
        x: Float[Tensor, "*shape"] | Stimulus | _checks.Numbers,
        lam: float | Tensor | _checks.Numbers = 0.3,
        alpha: float | Tensor = 1.0,
        beta: float | Tensor = 2.0,
        gamma: float | Tensor = 2.0,
        tau_z: float | Tensor = 1.0,
        tau_u: float | Tensor = 1.0,
        threshold: str | Penalty = "soft",
        weights: Tensor | _checks.Numbers | None = None,
        bias: Tensor | _checks.Numbers | None = None,
    ) -> None:
        positive = {"alpha": alpha, "beta": beta, "tau_z": tau_z, "tau_u": tau_u}
        super().__init__(dictionary, x, lam, positive, gamma=gamma)
        self.penalty = penalty_of("threshold", threshold)
        self._with_atoms(weights, bias)

    def _derivative(self, state: State) -> State:
        alike = all(isinstance(self.constants.get(name), (int, float)) for name in ("alpha", "beta", "gamma"))
        if alike and not torch.is_grad_enabled() and not any(isinstance(v, Tensor) for v in self.constants.values()):
            return self._derivative_in_place(state)
        z, u = state
        a, encode = self._gated(u), self.dictionary.encode_unchecked
        reconstruction = self.dictionary.decode_unchecked(a)
        dz = (reconstruction + self.x - self.alpha * z) / self.tau_z
        current = self._biased(encode(z - self.on_signals(self.gamma) * reconstruction))
        return dz, (current + self.gamma * a - self.beta * u) / self.tau_u

    def _derivative_in_place(self, state: State) -> State:
        """`_derivative` where no gradient is wanted, in half the operations."""
        z, u = state
        alpha, beta, gamma = (float(self.constants[name]) for name in ("alpha", "beta", "gamma"))
        a, encode = self._gated(u), self.dictionary.encode_unchecked
        reconstruction = self.dictionary.decode_unchecked(a)
        dz = torch.add(reconstruction, self.x).sub_(z, alpha=alpha)
        du = encode(torch.sub(z, reconstruction, alpha=gamma)).add_(a, alpha=gamma).sub_(u, alpha=beta)
        if self.bias is not None:
            du += self.bias
        slow_z, slow_u = (name in self.varied or self.constants[name] != 1 for name in ("tau_z", "tau_u"))
        return dz.div_(self.tau_z) if slow_z else dz, du.div_(self.tau_u) if slow_u else du

    def neurons(self, state: State) -> Tensor:
        return state[0]

    def state_at(self, code: Tensor) -> State:
        return self._rest_neurons(code), self._rest_encoders(code)

    def lyapunov(self, state: State) -> Tensor:
        """V = alpha/2 |z - (P a + x)/alpha|^2 + F(a) ; dV/dt = -tau_z |z'|^2 - tau_u sum g'(u) u'^2 <= 0
        (docs/mathematics.md, "A Lyapunov function").

        The constant in F is such that at alpha = 1, beta = gamma = 2 and z at rest, V is the LASSO objective.
        """
        z, u = state
        a = self._gated(u)
        off = z - self._rest_neurons(a)
        return half_square(off, self.dictionary.signal_shape, self.alpha) + self._potential(a)

    def stiffness(self) -> Tensor:
        """The bound of docs/mathematics.md, "Real spectrum, and how stiff it is":
        max(beta/tau_u, 1/2 [p + q + sqrt((p - q)^2 + 4 L/(tau_z tau_u))]), p = alpha/tau_z,
        q = max over active sets of |beta - gamma + gamma L_A| / tau_u. Of constants that differ between units, the
        largest leaks and the smallest time constants count.
        """
        bound, z, u = self._bounds()
        beta, low, gamma = (
            extreme(self.beta, u, bound),
            extreme(self.beta, u, bound, least=True),
            extreme(self.gamma, u, bound),
        )
        tau_z, tau_u = extreme(self.tau_z, z, bound, least=True), extreme(self.tau_u, u, bound, least=True)
        p, inhibited = extreme(self.alpha, z, bound) / tau_z, gamma * bound
        high, low = beta - gamma + inhibited.clamp(min=0), low - gamma + inhibited.clamp(max=0)
        q = torch.maximum(high.abs(), low.abs()) / tau_u
        coupled = 0.5 * (p + q + torch.sqrt((p - q).square() + 4 * bound / (tau_z * tau_u)))
        return over_signals(rounded_up(torch.maximum(beta / tau_u, coupled), 4), self.dictionary.batch_shape)


class EncoderDecoder(SparseRecurrent):
    """tau_z z' = -alpha z + P u + x, tau_u u' = -beta u + P^T z (Eq. 6-7): no gate and no inhibition.

    It rests at the z of Eq. 5, (alpha beta I - P P^T) z = beta x, and is stable only if sigma_max(P)^2 < alpha beta. It
    is `SparseRecurrent` with gamma = 0 and lam = 0, where g is the identity.

    Raises ValueError for arguments that do not fit, as `SparseRecurrent` does.

    Examples:
        >>> x = torch.ones(2, dtype=torch.float64)
        >>> stable = vd.EncoderDecoder(vd.DenseDictionary(0.5 * torch.eye(2, dtype=torch.float64)), x)
        >>> stable.instability() is None
        True
        >>> unstable = vd.EncoderDecoder(vd.DenseDictionary(2 * torch.eye(2, dtype=torch.float64)), x)
        >>> unstable.instability() is None
        False
    """

    def __init__(
        self,
        dictionary: Dictionary,
        x: Float[Tensor, "*shape"] | Stimulus | _checks.Numbers,
        alpha: float | Tensor = 1.0,
        beta: float | Tensor = 1.0,
        tau_z: float | Tensor = 1.0,
        tau_u: float | Tensor = 1.0,
    ) -> None:
        super().__init__(dictionary, x, 0.0, alpha, beta, 0.0, tau_z, tau_u)

    def _gated(self, u: Tensor) -> Tensor:
        return u


class Reduced(Gated):
    """Eq. 8-9 with z at rest at every moment, z = (P a + x) / alpha (Eq. 20-21); the state is u alone:

        tau_u u' = -beta u + gamma a - (gamma - 1/alpha) P^T P a + P^T x / alpha + q,   a = g(u)

    With the defaults u' = -2 (u - a) - G a + b, and one Euler step of length 1/2 is one ISTA step with L = 2. The
    arguments are those of `SparseRecurrent` without tau_z.

    Raises ValueError for arguments that do not fit.

    Examples:
        >>> P = vd.DenseDictionary(torch.eye(3, dtype=torch.float64))
        >>> x = torch.tensor([2.0, -1.0, 0.3], dtype=torch.float64)
        >>> vd.equilibrium(vd.Reduced(P, x, lam=0.5)).code.tolist()
        [1.5, -0.5, 0.0]
    """

    state_names = ("u",)

    def __init__(
        self,
        dictionary: Dictionary,
        x: Float[Tensor, "*shape"] | Stimulus | _checks.Numbers,
        lam: float | Tensor | _checks.Numbers = 0.3,
        alpha: float | Tensor = 1.0,
        beta: float | Tensor = 2.0,
        gamma: float | Tensor = 2.0,
        tau_u: float | Tensor = 1.0,
        threshold: str | Penalty = "soft",
        weights: Tensor | _checks.Numbers | None = None,
        bias: Tensor | _checks.Numbers | None = None,
    ) -> None:
        super().__init__(dictionary, x, lam, {"alpha": alpha, "beta": beta, "tau_u": tau_u}, gamma=gamma)
        self.penalty = penalty_of("threshold", threshold)
        self._with_atoms(weights, bias)

    def _derivative(self, state: State) -> State:
        (u,) = state
        a = self._gated(u)
        drive = self.x / self.alpha - self.curvature * self.dictionary.decode_unchecked(a)
        current = self._biased(self.dictionary.encode_unchecked(drive))
        return ((current + self.gamma * a - self.beta * u) / self.tau_u,)

    def neurons(self, state: State) -> Tensor:
        """z = (P a + x) / alpha."""
        return self._rest_neurons(self.code(state))

    def state_at(self, code: Tensor) -> State:
        return (self._rest_encoders(code),)

    def lyapunov(self, state: State) -> Tensor:
        """V = F(a): the objective up to a constant, and up to a factor where gamma - 1/alpha is not 1 (Eq. 23)."""
        return self._potential(self.code(state))

    def stiffness(self) -> Tensor:
        """max(beta, |beta - gamma|, |beta - gamma + c L|) / tau_u with c = gamma - 1/alpha."""
        bound, z, u = self._bounds()
        ridge, c = self.excess_leak, self.curvature
        high = extreme(ridge, u, bound) + (extreme(c, z, bound) * bound).clamp(min=0)
        low = extreme(ridge, u, bound, least=True) + (extreme(c, z, bound, least=True) * bound).clamp(max=0)
        rate = torch.maximum(extreme(self.beta, u, bound), torch.maximum(high.abs(), low.abs()))
        rate = rate / extreme(self.tau_u, u, bound, least=True)
        return over_signals(rounded_up(rate, 4), self.dictionary.batch_shape)
