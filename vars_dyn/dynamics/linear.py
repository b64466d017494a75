"""Linear fields without encoding neurons: feed-forward, recurrent and attention (Eq. 2, 4-5, 15)."""

from __future__ import annotations

from abc import abstractmethod
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from vars_dyn import _checks
from vars_dyn.dictionaries.base import Dictionary, rounded_up
from vars_dyn.dictionaries.dense import DenseDictionary
from vars_dyn.dictionaries.identity import ScaledIdentity
from vars_dyn.dictionaries.positive_features import RandomFeatureDictionary
from vars_dyn.dynamics.base import Field, State, half_square, sum_event
from vars_dyn.dynamics.constants import extreme, of_elements, over_signals, smallest
from vars_dyn.problems import SparseProblem
from vars_dyn.quadratic import identity_problem, matrix_problem
from vars_dyn.stimuli.base import Stimulus

__all__ = ["Attention", "FeedForward", "Recurrent"]


class _Linear(Field):
    """tau_z z' = -alpha z + A z + x with A symmetric: the state is z alone, and z is its own code."""

    state_names = ("z",)

    @abstractmethod
    def _feedback(self, z: Tensor) -> Tensor:
        """A z."""

    def _derivative(self, state: State) -> State:
        (z,) = state
        return ((self._feedback(z) + self.x - self.alpha * z) / self.tau_z,)

    def code(self, state: State) -> Tensor:
        return state[0]

    def neurons(self, state: State) -> Tensor:
        return state[0]

    def state_at(self, code: Tensor) -> State:
        return (code,)

    def lyapunov(self, state: State) -> Tensor:
        """V = alpha/2 |z|^2 - 1/2 z.A z - x.z + |x|^2 / (2 alpha), which is zero at rest without feedback.

        dV/dt = -tau_z |z'|^2.
        """
        (z,) = state
        event = self.dictionary.signal_shape
        still = half_square(z - self.x / self.alpha, event, self.alpha)
        return still - 0.5 * sum_event(z * self._feedback(z), event)


class FeedForward(_Linear):
    """tau_z z' = -alpha z + x (Eq. 2); it rests at x / alpha.

    Args:
        x: signals, (*any, d), every entry a neuron, or a stimulus; give `signal_shape` for signals of another event
            shape.
        alpha: leak, above zero; a number, one per signal, or one per neuron.
        tau_z: time constant, above zero; a number, or one per signal, per neuron, or per signal and neuron.
        signal_shape: event shape of a signal; by default the last dimension, or the frame of a spatial stimulus.

    Raises ValueError for constants that are not above zero.

    Examples:
        >>> field = vd.FeedForward(torch.tensor([4.0, 2.0], dtype=torch.float64), alpha=2.0)
        >>> [round(v, 6) for v in vd.equilibrium(field).state[0].tolist()]
        [2.0, 1.0]
    """

    def __init__(
        self,
        x: Float[Tensor, "*shape"] | Stimulus | _checks.Numbers,
        alpha: float | Tensor = 1.0,
        tau_z: float | Tensor = 1.0,
        signal_shape: tuple[int, ...] | None = None,
    ) -> None:
        if not isinstance(x, Stimulus):
            x = _checks.floating_tensor("x", x)
        last = x.event_dims if isinstance(x, Stimulus) else 1
        shape = tuple(x.shape[len(x.shape) - last :]) if signal_shape is None else tuple(signal_shape)
        one = torch.ones((), dtype=x.dtype, device=x.device)
        super().__init__(ScaledIdentity(one, shape), x, 0.0, {"alpha": alpha, "tau_z": tau_z})

    def _feedback(self, z: Tensor) -> Tensor:
        return torch.zeros_like(z)

    def problem(self) -> SparseProblem:
        """Least squares, alpha/2 |z - x / alpha|^2; over alpha where signals have their own."""
        return identity_problem(self.alpha, self.x, self.dictionary.signal_shape, 0.0)

    def stiffness(self) -> Tensor:
        return _leak_rate(self)

    def instability(self) -> str | None:
        return None


class Recurrent(_Linear):
    """tau_z z' = -alpha z + A z + x (Eq. 4-5), A symmetric positive semi-definite.

    Args:
        feedback: A itself, a (d, d) tensor, or a dictionary P for A = P P^T.
        x: signals, (*any, d) or the dictionary's, or a stimulus.
        alpha: leak, above zero; a number, one per signal, or one per neuron.
        tau_z: time constant, above zero; a number, or one per signal, per neuron, or per signal and neuron.

    It rests at z = (alpha I - A)^-1 x. This is stable only if the largest eigenvalue of A (for P P^T, sigma_max^2) is
    below alpha; otherwise z diverges. Raises ValueError for an A that is not symmetric or not positive semi-definite.

    Examples:
        >>> field = vd.Recurrent(0.5 * torch.eye(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64))
        >>> [round(v, 6) for v in vd.equilibrium(field).state[0].tolist()]  # (I - A)^-1 x
        [2.0, 2.0]
    """

    def __init__(
        self,
        feedback: Float[Tensor, "d d"] | Dictionary,
        x: Float[Tensor, "*shape"] | Stimulus | _checks.Numbers,
        alpha: float | Tensor = 1.0,
        tau_z: float | Tensor = 1.0,
    ) -> None:
        self.is_matrix = isinstance(feedback, Tensor)
        dictionary = DenseDictionary(_positive_semidefinite(feedback)) if isinstance(feedback, Tensor) else feedback
        super().__init__(dictionary, x, 0.0, {"alpha": alpha, "tau_z": tau_z})

    def _feedback(self, z: Tensor) -> Tensor:
        return self.dictionary.decode(z if self.is_matrix else self.dictionary.encode(z))

    def _largest(self) -> Tensor:
        """The largest eigenvalue of A, or a bound on it."""
        bound = self.dictionary.lipschitz()
        return rounded_up(bound.sqrt(), 1) if self.is_matrix else bound

    def problem(self) -> SparseProblem:
        """Least squares with the quadratic form alpha I - A; ValueError where that is not positive definite."""
        reason = self.instability()
        if reason:
            raise ValueError(reason)
        form, rest = self.form()
        return matrix_problem(form, self.x, self.dictionary.signal_shape, 0.0, ridge=rest)

    def form(self) -> tuple[Tensor, float | Tensor]:
        """diag(alpha) - A, and what alpha has besides where signals have their own: at least zero, (*batch, 1, ..)."""
        weight, dims, rest = self.dictionary.matrix(), len(self.dictionary.signal_shape), 0.0
        a = weight if self.is_matrix else weight @ weight.mT
        alpha, batch = torch.as_tensor(self.alpha, dtype=a.dtype, device=a.device), self.dictionary.batch_shape
        if alpha.ndim > dims:
            lead = tuple(range(len(batch), alpha.ndim))
            floor = alpha.detach().amin(lead, keepdim=True)
            return floor.reshape(*batch, 1, 1) * torch.eye(
                a.shape[-1], dtype=a.dtype, device=a.device
            ) - a, alpha - floor
        return torch.diag(alpha.expand(self.dictionary.signal_shape).flatten()) - a, rest

    def stiffness(self) -> Tensor:
        """max(alpha, lambda_max(A) - alpha) / tau_z."""
        bound, z = of_elements(self._largest()), len(self.dictionary.signal_shape)
        rate = torch.maximum(extreme(self.alpha, z, bound), bound - extreme(self.alpha, z, bound, least=True))
        rate = rounded_up(rate / extreme(self.tau_z, z, bound, least=True), 1)
        return over_signals(rate, self.dictionary.batch_shape)

    def decay(self) -> Tensor:
        """alpha / tau_z, as A is positive semi-definite."""
        return _leak_rate(self)

    def instability(self) -> str | None:
        bound, alpha = float(self._largest().max()), smallest(self.alpha)
        if bound < alpha:
            return None
        if isinstance(self.alpha, Tensor) and self.alpha.ndim == len(self.dictionary.signal_shape):
            with torch.no_grad():
                least = float(torch.linalg.eigvalsh(self.form()[0]).min())
            if least > 0:
                return None
            return (
                f"for {type(self).__name__} no stable equilibrium is proved: diag(alpha) - A has the eigenvalue "
                f"{least:.6g}, not above zero"
            )
        name = "the largest eigenvalue of A" if self.is_matrix else "sigma_max(P)^2"
        shown = self._shown()
        if shown >= alpha:
            return (
                f"{type(self).__name__} has no stable equilibrium: "
                f"{name} is {shown:.6g}, not below alpha = {alpha:.6g}, so z diverges"
            )
        return (
            f"for {type(self).__name__} no stable equilibrium is proved: the bound on {name} is {bound:.6g}, not below "
            f"alpha = {alpha:.6g}, though {shown:.6g} is all that was found of it"
        )

    def _shown(self, rounds: int = 60) -> float:
        """A lower bound on the largest eigenvalue of A: a Rayleigh quotient by power iteration."""
        with torch.no_grad():
            fixed, dictionary = self.detach(), self.dictionary
            seeded = torch.Generator().manual_seed(0)
            v = torch.randn(
                (*dictionary.batch_shape, 1, *dictionary.signal_shape), generator=seeded, dtype=torch.float64
            )
            v, last = v.to(self.device, self.dtype), tuple(range(v.ndim - len(dictionary.signal_shape), v.ndim))
            for _ in range(rounds):
                v = v / torch.linalg.vector_norm(v, dim=last, keepdim=True).clamp(min=torch.finfo(v.dtype).tiny)
                before, v = v, fixed._feedback(v)
            return float((before * v).sum(last).max())


class Attention(Recurrent):
    """Z' = -Z + Phi Phi^T Z + X, per channel (Eq. 15): self-attention is one Euler step of size 1 from Z = X (Eq. 14).

    Args:
        dictionary: Phi, usually a `RandomFeatureDictionary` of the tokens, of weight (*batch, N, m).
        x: channels over tokens, (*batch, n, N). A channel is a signal, as with every batched dictionary.

    L2-normalised random features have sigma_max of about 5, so this field nearly always diverges: take one step of it,
    and do not integrate it. `from_tokens` builds it from tokens in the layout that layers use.

    Raises ValueError for what is no dictionary, and for channels that do not fit it.

    Examples:
        >>> tokens = torch.nn.functional.normalize(torch.randn(1, 5, 2), dim=-1)
        >>> phi = vd.RandomFeatureDictionary(tokens, torch.randn(4, 2))
        >>> values = torch.randn(1, 3, 5)  # three channels over five tokens
        >>> field = vd.Attention(phi, values)
        >>> (dz,) = field(0.0, (values,))
        >>> torch.allclose(values + dz, phi.decode(phi.encode(values)) + values, atol=1e-6)
        True
    """

    def __init__(self, dictionary: Dictionary, x: Float[Tensor, "*shape"] | Stimulus | _checks.Numbers) -> None:
        if not isinstance(dictionary, Dictionary):
            raise ValueError(f"dictionary is a {type(dictionary).__name__}; a Dictionary is wanted")
        super().__init__(dictionary, x)

    @classmethod
    def from_tokens(
        cls, tokens: Float[Tensor, "*batch n c"], projection: Float[Tensor, "m c"], **features: bool
    ) -> Self:
        """The field of tokens X (*batch, N, C) with Phi(X) from `projection` (m, C); Z is (*batch, C, N)."""
        return cls(RandomFeatureDictionary(tokens, projection, **features), tokens.mT)


def _leak_rate(field: _Linear) -> Tensor:
    """alpha / tau_z, the largest over the units and the signals."""
    like, z = torch.zeros((), dtype=field.dtype, device=field.device), len(field.dictionary.signal_shape)
    rate = extreme(field.alpha, z, like) / extreme(field.tau_z, z, like, least=True)
    return over_signals(rounded_up(rate, 1), field.dictionary.batch_shape)


def _positive_semidefinite(a: Tensor) -> Tensor:
    _checks.floating_tensor("feedback", a)
    if a.ndim != 2 or a.shape[0] != a.shape[1]:
        raise ValueError(f"feedback has shape {tuple(a.shape)}; a square matrix (d, d) is wanted")
    plain = a.detach()
    scale = plain.abs().max()
    tolerance = 100 * len(a) * torch.finfo(a.dtype).eps * scale
    if bool((plain - plain.mT).abs().max() > tolerance):
        raise ValueError(f"feedback is not symmetric: A and A^T differ by {float((plain - plain.mT).abs().max()):.3g}")
    smallest = float(torch.linalg.eigvalsh(plain)[0])
    if smallest < -float(tolerance):
        raise ValueError(f"feedback has the eigenvalue {smallest:.3g}; a positive semi-definite matrix is wanted")
    return a
