"""The sufficient statistics of the online method, and the descent on them.

For fixed codes the misfit is a quadratic in the weight. With W the weight as a matrix (F, K) and U the codes as (K, N),
so that the reconstruction is W U, it is  1/2 tr(W A W^T) - tr(W B^T)  with A = U U^T and B = X U^T. For a dense
dictionary U holds the codes. For a convolution its columns are the windows of a code around each pixel.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vars_dyn._resources import need_memory
from vars_dyn.dictionaries import ConvDictionary, DenseDictionary, Dictionary
from vars_dyn.learning.atoms import Atoms, atoms_of, with_atoms
from vars_dyn.solvers.compiled.active_set import available

__all__ = ["descend", "moments", "statistics_size"]

#: Atoms whose gradients are computed by one product of matrices.
_GROUP = 32
#: Codes of which a smaller share is not zero are multiplied by compiled loops, where there are such.
_SPARSE = 0.15
#: Gradient steps on each convolutional template before the next one takes its turn.
_INNER = 3


def statistics_size(dictionary: Dictionary) -> tuple[int, int]:
    """(F, K): the rows and columns of the weight as a matrix. ValueError for a dictionary without such statistics."""
    if isinstance(dictionary, DenseDictionary):
        return dictionary.signal_size, dictionary.code_size
    if isinstance(dictionary, ConvDictionary) and dictionary.groups == 1:
        m, c, *kernel = dictionary.weight.shape
        size = m * math.prod(kernel)
        need_memory(5.0 * 8 * size**2, f"the online method for {m} templates of {math.prod(kernel)} pixels",
                    "fewer or smaller templates, or the hebbian or gradient method, are wanted")  # fmt: skip
        return c, size
    grouped = " in groups" if isinstance(dictionary, ConvDictionary) else ""
    raise ValueError(
        f"the online method has no statistics for a {type(dictionary).__name__}{grouped}; the hebbian or the gradient "
        "method is wanted"
    )


def moments(dictionary: Dictionary, x: Tensor, code: Tensor) -> tuple[Float[Tensor, "K K"], Float[Tensor, "F K"]]:
    """(U U^T, X U^T), summed over the signals x (n, *signal_shape) and their codes."""
    if isinstance(dictionary, ConvDictionary):
        return _windowed(dictionary, x, code)
    if _in_loops(code) and int(code.count_nonzero()) < _SPARSE * code.numel():
        gram, cross = code.new_zeros(code.shape[1], code.shape[1]), code.new_zeros(code.shape[1], x.shape[1])
        _loops().add_products(code.numpy(), x.numpy(), gram.numpy(), cross.numpy())
        return gram, cross.mT
    return code.mT @ code, x.mT @ code


def _in_loops(values: Tensor) -> bool:
    """Whether compiled loops take these numbers: with numba, on the CPU."""
    return available() and values.device.type == "cpu" and values.dtype in (torch.float32, torch.float64)


@cache
def _loops() -> Any:
    # deferred: needs numba, which is optional and takes time to import
    from vars_dyn.learning import compiled

    return compiled


def _windowed(dictionary: ConvDictionary, x: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
    m, c, *kernel = dictionary.weight.shape
    dims = len(kernel)
    stride, padding = (_each(value, dims) for value in (dictionary.stride, dictionary.padding))
    size = [n + 2 * p + k - 1 for n, p, k in zip(x.shape[2:], padding, kernel, strict=True)]
    gram = x.new_zeros(m * math.prod(kernel), m * math.prod(kernel))
    cross = x.new_zeros(c, gram.shape[0])
    for one, own in zip(x, code, strict=True):
        # Pixel y of the reconstruction is the sum over u of weight[u] spread[y + p - u], where spread has the code's
        # entries `stride` apart.
        spread = own.new_zeros(m, *size)
        at = tuple(slice(k - 1, k - 1 + s * n, s) for k, s, n in zip(kernel, stride, own.shape[1:], strict=True))
        spread[(slice(None), *at)] = own
        windows = spread
        for dim, k in enumerate(kernel):
            windows = windows.unfold(1 + dim, k, 1)
        windows = windows[(slice(None), *(slice(p, p + n) for p, n in zip(padding, one.shape[1:], strict=True)))]
        windows = windows.flip(tuple(range(1 + dims, 1 + 2 * dims)))
        order = (0, *range(1 + dims, 1 + 2 * dims), *range(1, 1 + dims))
        columns = windows.permute(order).reshape(len(gram), -1)
        busy = columns.abs().amax(0) > 0  # pixels that no active neuron reaches add nothing
        columns = columns[:, busy]
        gram += columns @ columns.mT
        cross += one.reshape(c, -1)[:, busy] @ columns.mT
    return gram, cross


def _each(value: int | tuple[int, ...], dims: int) -> tuple[int, ...]:
    return (value,) * dims if isinstance(value, int) else tuple(value)


def descend(
    dictionary: Dictionary, gram: Float[Tensor, "K K"], cross: Float[Tensor, "F K"], atoms: Atoms, passes: int
) -> Dictionary:
    """Block-coordinate descent on the quadratic, an atom a block (Mairal et al., JMLR 11, 2010, Algorithm 2).

    An atom of a dense dictionary goes to its minimum under the constraint. A convolutional template, whose own Hessian
    is no multiple of the identity, takes projected gradient steps of its largest eigenvalue's inverse. No step raises
    the quadratic. Atoms that no code has used stay.
    """
    if isinstance(dictionary, ConvDictionary):
        return _descend_templates(dictionary, gram, cross, atoms, passes)
    rows, targets = atoms_of(dictionary).clone(memory_format=torch.contiguous_format), cross.mT.contiguous()
    diagonal = gram.diagonal()
    floor = torch.finfo(gram.dtype).eps * float(diagonal.max())
    if _in_loops(rows):
        moved = torch.empty(_GROUP, rows.shape[1], dtype=rows.dtype)
        for _ in range(passes):
            for first in range(0, len(rows), _GROUP):
                group = slice(first, min(first + _GROUP, len(rows)))
                slope = torch.addmm(targets[group], gram[group], rows, alpha=-1)
                within = gram[group, group].contiguous()
                _loops().turn(rows[group].numpy(), slope.numpy(), within.numpy(), moved.numpy(), floor,
                              atoms.norm == "ball", atoms.nonnegative)  # fmt: skip
        return with_atoms(dictionary, rows)
    used = (diagonal > floor).tolist()
    scale = diagonal.tolist()
    for _ in range(passes):
        for first in range(0, len(rows), _GROUP):
            group = slice(first, min(first + _GROUP, len(rows)))
            slope = targets[group] - gram[group] @ rows
            moved = torch.zeros_like(slope)
            within = gram[group, group]
            for place in range(len(slope)):
                j = first + place
                if not used[j]:
                    continue
                before = moved[:place].mT
                # The atoms of the group that moved before have changed this one's gradient.
                own = torch.addmv(slope[place], before, within[place, :place], alpha=-1) if place else slope[place]
                old = rows[j]
                new = atoms.project_one(torch.add(old, own, alpha=1 / scale[j]), old)
                torch.sub(new, old, out=moved[place])
                rows[j] = new
    return with_atoms(dictionary, rows)


def _descend_templates(
    dictionary: ConvDictionary, gram: Tensor, cross: Tensor, atoms: Atoms, passes: int
) -> Dictionary:
    m, c, *kernel = dictionary.weight.shape
    k = math.prod(kernel)
    weight = dictionary.weight.reshape(m, c, k).clone()
    blocks = gram.reshape(m, k, m, k)[torch.arange(m), :, torch.arange(m)]
    top = torch.linalg.eigvalsh(blocks)[:, -1]
    used = (top > torch.finfo(gram.dtype).eps * top.max()).tolist()
    for _ in range(passes):
        for j in range(m):
            if not used[j]:
                continue
            own = slice(j * k, (j + 1) * k)
            rest = cross[:, own] - weight.movedim(0, 1).reshape(c, -1) @ gram[:, own] + weight[j] @ blocks[j]
            for _ in range(_INNER):
                step = weight[j] + (rest - weight[j] @ blocks[j]) / top[j]
                weight[j] = atoms.project(step.reshape(1, -1), weight[j].reshape(1, -1)).reshape(c, k)
    return dictionary.with_tensors((weight.reshape(dictionary.weight.shape),))
