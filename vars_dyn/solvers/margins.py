"""How far a signal, or a dictionary, may move before the support of its code changes."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vars_dyn.problems import SparseProblem
from vars_dyn.solvers.support_systems import MATRIX_LIMIT, free, is_small

__all__ = ["SupportMargins", "support_margins", "support_radius"]

#: A radius is made smaller by this share, which covers the rounding of float64 for well-conditioned supports.
_SHARE = 1e-9
#: The most entries of a chunk's matrices.
_ENTRIES = 1 << 24


class SupportMargins(NamedTuple):
    """The margins of the supports of codes at an optimum, one for each signal, (*batch), or each atom, (*batch, d').

    Where an optimum is not proved, or its support is dependent, `radius` is 0, and `hold` is false.

    Attributes have one value per signal, or one per signal and atom.

    Attributes:
        radius: the distance of the signal to the nearest one with another support or another sign, the dictionary
            fixed. It is exact: there is such a signal at every larger distance.
        active: the smallest |a_i| of the support.
        slack: w_i lam - |c_i| of each atom off the support (infinite on it), c = P^T (x - P a) + q.
        magnitude: |a_i| of each atom.
        lengths: |p_i| of each atom.
        residual: |(x - P a, sqrt(ridge) a)|.
        spread: the square root of the smallest eigenvalue of G_A + ridge I (infinite where A is empty).
    """

    radius: Tensor
    active: Tensor
    slack: Tensor
    magnitude: Tensor
    lengths: Tensor
    residual: Tensor
    spread: Tensor

    def hold(self, signal: Float[Tensor, "*batch"], atoms: Float[Tensor, "*batch atoms"]) -> Bool[Tensor, "*batch"]:
        """Whether it is proved that no support changes if a signal moves by up to `signal`, and its atoms by `atoms`.

        With e_A^2 = sum over A of e_i^2, s' = spread - e_A and m = signal + sum_i e_i |a_i|, the code moves by at most
        m / s' + |r| e_A / s'^2, and the residual r by at most m + |r| e_A / s' (docs/mathematics.md).
        """
        on = self.magnitude > 0
        together = torch.where(on, atoms, 0.0).square().sum(-1).sqrt()
        narrow = self.spread - together
        pushed = signal + (torch.where(on, atoms, 0.0) * self.magnitude).sum(-1)
        code = pushed / narrow + self.residual * together / narrow.square()
        moved = pushed + self.residual * together / narrow
        # An empty support has an infinite spread, and then nothing is divided.
        code, moved = (torch.where(narrow.isinf(), other, t) for t, other in ((code, 0 * signal), (moved, signal)))
        rise = self.lengths * moved.unsqueeze(-1) + atoms * (self.residual + moved).unsqueeze(-1)
        return (self.radius > 0) & (narrow > 0) & (code < self.active) & (rise < self.slack).all(-1)


def support_radius(problem: SparseProblem, code: Tensor) -> Float[Tensor, "*batch"]:
    """The radius within which no change of a signal changes the support or a sign of its code, (*batch).

    It is the Euclidean distance of the signal to the border of the polyhedron on which the code is affine, so it is
    exact. It is 0 where `code` is no optimum up to rounding, or the atoms of its support are dependent.

    Args:
        problem: the problem; its dictionary stays as it is.
        code: an optimum of it, such as `solve(problem).code`, (*batch, *code_shape). Only its support and signs count.

    Raises:
        ValueError: the code has another shape, or the dictionary is too large to be written out.

    Examples:
        >>> P = vd.DenseDictionary(torch.eye(3, dtype=torch.float64))
        >>> problem = vd.SparseProblem(P, torch.tensor([2.0, -1.0, 0.3], dtype=torch.float64), lam=0.5)
        >>> round(vd.support_radius(problem, vd.solve(problem).code).item(), 6)  # the third entry may grow by this
        0.2
    """
    return support_margins(problem, code).radius


@torch.no_grad()
def support_margins(problem: SparseProblem, code: Tensor) -> SupportMargins:
    """The margins behind `support_radius`, in float64; the arguments and errors are the same."""
    wanted = (*problem.batch_shape, *problem.dictionary.code_shape)
    if tuple(code.shape) != wanted:
        raise ValueError(f"the code has shape {tuple(code.shape)}; {wanted} is wanted")
    if not is_small(problem.dictionary):
        raise ValueError(
            f"the dictionary has {problem.dictionary.signal_size} x {problem.dictionary.code_size} entries; at most "
            f"{MATRIX_LIMIT} are wanted for the margins of supports"
        )
    flat = problem.detach().flat()
    size, dimension = flat.dictionary.code_size, flat.dictionary.signal_size
    weight = flat.dictionary.matrix().reshape(-1, dimension, size).double()
    each = code.detach().reshape(*flat.batch_shape, size)
    bias = torch.zeros_like(each) if flat.bias is None else flat.bias.expand_as(each)
    limit = (flat.weight * torch.ones_like(each)).double()
    ridge = torch.as_tensor(flat.ridge, dtype=torch.float64).to(weight.device)
    per = each.shape[0] if each.ndim > 2 else len(weight)
    columns = [t.double().reshape(per, -1, t.shape[-1]) for t in (each, limit, bias, free(flat).expand_as(each))]
    signals = flat.x.double().reshape(per, -1, dimension)
    count = signals.shape[1]
    parts = []
    step = max(1, _ENTRIES // (size * (size + dimension)))
    for element in range(per):
        P = weight[element if len(weight) > 1 else 0]
        for start in range(0, count, step):
            a, lam, q, loose = (t[element, start : start + step] for t in columns)
            parts.append(_margins(flat, P, ridge, signals[element, start : start + step], a, lam, q, loose > 0))
    joined = [torch.cat(values) for values in zip(*parts, strict=True)]
    shape = problem.batch_shape
    return SupportMargins(*(t.reshape(*shape, size) if t.ndim > 1 else t.reshape(shape) for t in joined))


def _margins(
    problem: SparseProblem, P: Tensor, ridge: Tensor, x: Tensor, code: Tensor, lam: Tensor, bias: Tensor, loose: Tensor
) -> SupportMargins:
    """The margins of signals (n, d) that share P (d, d')."""
    support, sign = (code != 0) | loose, code.sign()
    gram = P.mT @ P
    both = support.unsqueeze(-1) & support.unsqueeze(-2)
    system = torch.where(both, gram, 0.0) + torch.diag_embed(torch.where(support, ridge, 1.0))
    values = torch.linalg.eigvalsh(system - torch.diag_embed(torch.where(support, 0.0, 1.0)))
    count = support.sum(-1)
    # The entries off the support give as many zeros; the smallest of the others comes after them.
    least = values.gather(-1, (support.shape[-1] - count).clamp(max=support.shape[-1] - 1).unsqueeze(-1)).squeeze(-1)
    empty = count == 0
    size = gram.diagonal().amax() + ridge
    regular = empty | (least > support.shape[-1] * 1e2 * torch.finfo(P.dtype).eps * size)
    system = torch.where(regular[:, None, None], system, torch.eye(len(gram), dtype=P.dtype, device=P.device))
    inverse = torch.where(both, torch.linalg.inv(system), 0.0)
    a = (inverse @ (x @ P + bias - problem.penalty.slope(sign, lam)).unsqueeze(-1)).squeeze(-1)
    residual = x - a @ P.mT
    c = residual @ P + bias
    slack = torch.where(support, math.inf, -problem.penalty.excess(c, lam))
    held = support & ~loose  # an unpenalised entry passes through zero without a change
    magnitude = torch.where(support, a.abs(), 0.0)
    active = torch.where(held, magnitude, math.inf)
    image = inverse @ gram
    rows = (image @ inverse).diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
    off = torch.linalg.vector_norm(P - P @ image, dim=-2)
    within = torch.minimum((active / rows).amin(-1), torch.where(support, math.inf, slack / off).amin(-1))
    optimal = regular & ((a.sign() == sign) | ~held).all(-1) & (slack > 0).all(-1)
    length = (gram.diagonal() + ridge).sqrt().expand_as(code)
    return SupportMargins(
        torch.where(optimal, within * (1 - _SHARE), 0.0),
        active.amin(-1),
        slack,
        magnitude,
        length,
        (residual.square().sum(-1) + ridge * a.square().sum(-1)).sqrt(),
        torch.where(empty, math.inf, least.clamp(min=0).sqrt()),
    )
