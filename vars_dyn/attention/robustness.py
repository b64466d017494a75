"""The radius of a layer's input within which the support of no code changes."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vars_dyn.attention.dictionaries.union import TokenUnion
from vars_dyn.attention.vars import VarsAttention
from vars_dyn.solvers.margins import SupportMargins, support_margins
from vars_dyn.solvers.solve import solve

__all__ = ["support_radius"]

_HALVINGS = 60


@torch.no_grad()
def support_radius(
    layer: VarsAttention, x: Float[Tensor, "b n dim"], grid_size: tuple[int, int] | None = None
) -> Float[Tensor, "b heads c"]:
    """A radius, per image, head and channel, within which no change of the tokens x changes the support of the code.

    The change is one of all tokens of an image at once, measured by its Frobenius norm, in the layer solved to its
    equilibrium. It moves the signal of a channel by at most |w| times its norm, w being the channel's row of the value
    projection. A static dictionary stays as it is, and then the radius is exact. A dynamic dictionary moves with the
    tokens too; the radius is then a lower bound (docs/mathematics.md). It is 0 where no optimum is proved.

    Args:
        layer: a layer in the paper's form; it is not changed, and everything is computed in float64.
        x: tokens, as the layer gets them.
        grid_size: as in a call of the layer.

    Raises:
        ValueError: the variant solves no problem or does not normalise its atoms, or queries are normalised by a layer.

    Examples:
        >>> layer = vd.VarsAttention(8, num_heads=2, dictionary="dynamic", lam=0.3)
        >>> radius = va.support_radius(layer, torch.randn(1, 9, 8))
        >>> radius.shape, bool((radius >= 0).all())
        (torch.Size([1, 2, 4]), True)
    """
    layer = copy.deepcopy(layer).double().eval()
    if not layer.variant.normalize_atoms:
        raise ValueError("variant.normalize_atoms is False; a radius is proved for normalised atoms only")
    if layer.dictionary != "static" and not isinstance(layer.q_norm, nn.Identity):
        raise ValueError("qk_norm is True; a radius is proved for queries without a norm of their own")
    x = x.double()
    problem = layer.problem(x, grid_size)
    solution = solve(problem, tol=1e-12)
    margins = support_margins(problem, solution.code)
    shape = (len(x), layer.num_heads, layer.head_dim)
    projection = layer.v if layer.inputs == "v" else layer.qkv
    rates = torch.linalg.vector_norm(projection.weight[-layer.dim :], dim=-1).unflatten(0, shape[1:]).expand(shape)
    fixed = margins.radius.reshape(shape) / rates
    if layer.dictionary == "static":
        return fixed
    margins = SupportMargins(*(t.reshape(*shape, *t.shape[margins.radius.ndim :]) for t in margins))
    return _largest(layer, x, problem.dictionary, margins, rates, fixed)


def _largest(
    layer: VarsAttention, x: Tensor, dictionary: Any, margins: SupportMargins, rates: Tensor, fixed: Tensor
) -> Tensor:
    """The largest radius up to `fixed` at which the margins are proved to hold, by bisection."""
    query = layer.qkv.weight[: layer.dim].unflatten(0, (layer.num_heads, layer.head_dim))
    stretch = torch.linalg.matrix_norm(query, ord=2)  # (heads,)
    queries = layer.split_heads(layer.qkv(x))[0]
    length = torch.linalg.vector_norm(queries, dim=-1)  # (B, heads, N)
    features = layer.rand_matrix.shape[-1]
    atoms = (dictionary.parts[0] if isinstance(dictionary, TokenUnion) else dictionary).weight[..., :features]
    drawn = torch.linalg.vector_norm(layer.rand_matrix, dim=-2)  # (heads, m)
    low, high = torch.zeros_like(fixed), fixed.clone()
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        moved = _atoms_moved(middle, stretch, length, atoms, drawn)
        rest = margins.slack.shape[-1] - moved.shape[-1]
        proved = margins.hold(rates * middle, nn.functional.pad(moved, (0, rest)))
        low, high = torch.where(proved, middle, low), torch.where(proved, high, middle)
    return low


def _atoms_moved(radius: Tensor, stretch: Tensor, length: Tensor, atoms: Tensor, drawn: Tensor) -> Tensor:
    """How far each normalised feature may move over the tokens, (B, heads, c, m), for radii (B, heads, c)."""
    step = stretch[:, None] * radius  # of a query that takes the whole change
    room = 2 * length[:, :, None] - step.unsqueeze(-1)
    turned = torch.where(room > 0, 2 * step.unsqueeze(-1) / room, math.inf)  # (B, heads, c, N)
    moved = torch.zeros(*radius.shape, atoms.shape[-1], dtype=radius.dtype, device=radius.device)
    for token in range(atoms.shape[-2]):  # one at a time, because all together are N times as large
        growth = torch.expm1(drawn[:, None] * turned[..., token, None])
        moved = torch.maximum(moved, atoms[:, :, None, token] * growth)
    return torch.where(moved < 2, 2 * moved / (2 - moved), 2.0)
