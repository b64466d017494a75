"""Layers of locally competitive neurons for sounds, images and movies, with the argument names of lca-pytorch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vars_dyn import _checks
from vars_dyn.dictionaries import ConvDictionary
from vars_dyn.learning.atoms import outer
from vars_dyn.problems import SparseProblem
from vars_dyn.solvers.equilibrium import equilibrium
from vars_dyn.solvers.solve import solve

__all__ = ["LCA1d", "LCA2d", "LCA3d", "LCACode", "LCALayer"]

#: An integer for all dimensions, or one for each.
PerDimension = int | Sequence[int]


class LCACode(NamedTuple):
    """What an LCA layer finds for n inputs.

    Attributes:
        acts: the codes a, (n, out_neurons, *sides of the code).
        inputs: what was coded: the inputs after `input_zero_mean` and `input_unit_var`.
        recons: the reconstructions P a, of the inputs' shape.
        recon_errors: inputs - recons.
        relative_gap: for each input, how far its objective may be above the optimum, over 1/2 |x|^2.
        converged: whether the gap is within `tol`.
    """

    acts: Tensor
    inputs: Tensor
    recons: Tensor
    recon_errors: Tensor
    relative_gap: Tensor
    converged: Tensor


class LCALayer(nn.Module):
    """Sparse codes of signals, found as a layer.

    For each input x the layer gives  argmin_a 1/2 |x - P a|^2 + lambda_ |a|_1,  where P lays the atoms `weights` down
    on the signal. That is where the neurons of the locally competitive algorithm come to rest (Rozell et al., Neural
    Computation 20, 2008, with atoms of norm 1). It is found by the fastest certified route and stops on the duality
    gap, not after a number of iterations. Where autograd records, the codes carry the gradient of the optimality
    conditions (`vars_dyn.equilibrium`) to the inputs and the weights. To see the neurons on their way, integrate
    `vars_dyn.Reduced(layer.dictionary(sides), x, layer.lambda_)`.

    Args:
        out_neurons: the number of atoms.
        in_neurons: the channels of the input.
        kernel_size: the sides of an atom, an integer or one for each dimension.
        stride: the steps between the places of an atom, an integer or one for each dimension.
        lambda_: the weight of |a|_1, which is the neurons' firing threshold.
        eta: the rate of `update_weights`.
        pad: "same" pads with zeros so that stride 1 keeps the sides, and wants odd sides of the atoms; "valid" does
            not pad.
        nonneg: whether codes are non-negative.
        input_zero_mean: whether the mean of each input is taken away before it is coded.
        input_unit_var: whether each input is divided by its standard deviation before it is coded.
        tol: the relative gap to reach; None is 1e-8 in float64 and 1e-5 in float32.

    Raises ValueError for an argument that does not fit.

    Attributes:
        weights: the atoms, (out_neurons, in_neurons, *kernel_size), drawn from a normal distribution and scaled to
            norm 1.
    """

    #: The dimensions that atoms move along.
    dimensions: int

    def __init__(
        self,
        out_neurons: int,
        in_neurons: int,
        kernel_size: PerDimension = 7,
        stride: PerDimension = 1,
        lambda_: float = 0.25,
        eta: float = 0.01,
        pad: str = "same",
        nonneg: bool = True,
        input_zero_mean: bool = True,
        input_unit_var: bool = True,
        tol: float | None = 1e-4,
    ) -> None:
        super().__init__()
        self.out_neurons = _checks.count("out_neurons", out_neurons)
        self.in_neurons = _checks.count("in_neurons", in_neurons)
        self.kernel_size = self._sides("kernel_size", kernel_size)
        self.stride = self._sides("stride", stride)
        self.lambda_ = float(_checks.number("lambda_", lambda_, positive=True))
        self.eta = float(_checks.number("eta", eta, positive=True))
        self.pad = _checks.choice("pad", pad, ("same", "valid"))
        if pad == "same" and any(side % 2 == 0 for side in self.kernel_size):
            raise ValueError(
                f"kernel_size is {self.kernel_size} with pad 'same'; odd sides, or pad 'valid', are wanted"
            )
        self.nonneg, self.input_zero_mean, self.input_unit_var = nonneg, input_zero_mean, input_unit_var
        self.tol = None if tol is None else float(_checks.number("tol", tol, positive=True))
        self.weights = nn.Parameter(torch.empty(self.out_neurons, self.in_neurons, *self.kernel_size))
        self.reset_parameters()

    def _sides(self, name: str, value: PerDimension) -> tuple[int, ...]:
        each = tuple(value) if isinstance(value, Sequence) else (value,) * self.dimensions
        if len(each) != self.dimensions:
            raise ValueError(f"{name} is {value}; an integer, or {self.dimensions} of them, are wanted")
        return tuple(_checks.count(name, side) for side in each)

    def reset_parameters(self) -> None:
        """Draw new atoms of norm 1 from torch's global generator."""
        with torch.no_grad():
            nn.init.normal_(self.weights)
            self.normalize_weights()

    def normalize_weights(self) -> None:
        """Scale each atom to norm 1, in place. An atom of zeros stays."""
        with torch.no_grad():
            norm = self.weights.flatten(1).norm(dim=1).view(-1, *[1] * (self.weights.ndim - 1))
            self.weights.div_(torch.where(norm > 0, norm, 1.0))

    def dictionary(self, sides: Sequence[int]) -> ConvDictionary:
        """The dictionary of signals (in_neurons, *sides). It holds the layer's own `weights`."""
        padding = [side // 2 if self.pad == "same" else 0 for side in self.kernel_size]
        return ConvDictionary(self.weights, (self.in_neurons, *sides), stride=self.stride, padding=padding)

    def forward(self, inputs: Float[Tensor, "*n c *sides"]) -> Tensor:
        """The codes (*n, out_neurons, *sides of the code) of inputs (*n, in_neurons, *sides).

        Raises ValueError for inputs of another shape or dtype.
        """
        return self.encode(inputs).acts

    def encode(self, inputs: Float[Tensor, "*n c *sides"]) -> LCACode:
        """The codes with their certificate, the reconstructions and their errors; raises as `forward` does."""
        _checks.floating_tensor("inputs", inputs)
        _checks.same_kind("inputs", inputs, self.weights, "weights")
        event = self.dimensions + 1
        if inputs.ndim < event or inputs.shape[-event] != self.in_neurons:
            wanted = ("T", "H, W", "T, H, W")[self.dimensions - 1]
            raise ValueError(f"inputs have shape {tuple(inputs.shape)}; (*n, {self.in_neurons}, {wanted}) is wanted")
        x = self._prepared(inputs)
        dictionary = self.dictionary(inputs.shape[-self.dimensions :])
        problem = SparseProblem(dictionary, x, self.lambda_, nonnegative=self.nonneg)
        if torch.is_grad_enabled() and (self.weights.requires_grad or inputs.requires_grad):
            found = equilibrium(problem, tol=self.tol)
        else:
            found = solve(problem, tol=self.tol, polish=False)
        recons = dictionary.decode(found.code)
        return LCACode(found.code, x, recons, x - recons, found.relative_gap, found.converged)

    def _prepared(self, inputs: Tensor) -> Tensor:
        within = tuple(range(-self.dimensions - 1, 0))
        x = inputs
        if self.input_zero_mean:
            x = x - x.mean(within, keepdim=True)
        if self.input_unit_var:
            deviation = x.std(within, keepdim=True, correction=min(1, math.prod(x.shape[-self.dimensions - 1 :]) - 1))
            # A constant input has no variance but that of rounding. It stays as it is.
            least = 16 * torch.finfo(x.dtype).eps * inputs.abs().amax(within, keepdim=True)
            x = x / torch.where(deviation > least, deviation, 1.0)
        return x

    @torch.no_grad()
    def update_weights(
        self, acts: Float[Tensor, "n m *code"], recon_errors: Float[Tensor, "n c *sides"], normalize: bool = True
    ) -> Tensor:
        """Learn locally: add to each atom  eta / (1 + times active)  times the sum of residual times code.

        `acts` and `recon_errors` are those of `encode`. Returns what was added, before the atoms are scaled to norm 1
        (where `normalize`). Raises ValueError for tensors that do not fit each other.
        """
        dictionary = self.dictionary(recon_errors.shape[-self.dimensions :]).detach()
        _checks.trailing("recon_errors", recon_errors, dictionary.signal_shape)
        _checks.trailing("acts", acts, dictionary.code_shape)
        code = acts.detach().reshape(-1, *dictionary.code_shape)
        change = outer(dictionary, code, recon_errors.detach().reshape(-1, *dictionary.signal_shape))
        active = (code != 0).transpose(0, 1).flatten(1).sum(1)
        change = change * (self.eta / (1.0 + active.to(change))).view(-1, *[1] * (change.ndim - 1))
        self.weights.add_(change)
        if normalize:
            self.normalize_weights()
        return change

    def extra_repr(self) -> str:
        """The layer's settings, for `repr`."""
        return (
            f"{self.out_neurons}, {self.in_neurons}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"lambda_={self.lambda_}, pad={self.pad!r}, nonneg={self.nonneg}"
        )


class LCA1d(LCALayer):
    """Sparse codes of sounds (*n, in_neurons, T); arguments and methods as in its base class.

    Raises ValueError for arguments and inputs that do not fit.

    Examples:
        >>> layer = vd.LCA1d(out_neurons=4, in_neurons=1, kernel_size=5, lambda_=0.5)
        >>> layer(torch.randn(2, 1, 16)).shape
        torch.Size([2, 4, 16])
    """

    dimensions = 1


class LCA2d(LCALayer):
    """Sparse codes of images (*n, in_neurons, H, W); arguments and methods as in its base class.

    Raises ValueError for arguments and inputs that do not fit.

    Examples:
        >>> layer = vd.LCA2d(out_neurons=4, in_neurons=1, kernel_size=3, lambda_=0.5)
        >>> layer(torch.randn(2, 1, 8, 8)).shape
        torch.Size([2, 4, 8, 8])
    """

    dimensions = 2


class LCA3d(LCALayer):
    """Sparse codes of movies (*n, in_neurons, T, H, W); arguments and methods as in its base class.

    Raises ValueError for arguments and inputs that do not fit.

    Examples:
        >>> layer = vd.LCA3d(out_neurons=2, in_neurons=1, kernel_size=3, lambda_=0.5)
        >>> layer(torch.randn(1, 1, 4, 4, 4)).shape
        torch.Size([1, 2, 4, 4, 4])
    """

    dimensions = 3
