"""Processes that learn one dictionary together: each codes its part of every batch, and sums are made over all.

The processes are those of torch.distributed's default group, which `torchrun`, Lightning Fabric's `launch` and
`python -m vars_dyn.learn --processes` make. Without a group a process is alone, and nothing here changes anything.
"""

from __future__ import annotations

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch import distributed as dist

__all__ = ["largest", "part", "rank", "size", "summed", "together", "whole"]


def size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0, which alone writes files and shows progress."""
    return dist.get_rank() if size() > 1 else 0


def part(rows: Shaped[Tensor, n * rest]) -> Shaped[Tensor, k * rest]:
    """This process's part of a batch that all have; ValueError for fewer signals than processes."""
    if size() == 1:
        return rows
    if len(rows) < size():
        raise ValueError(f"a batch has {len(rows)} signals for {size()} processes; at least one for each is wanted")
    return rows.tensor_split(size())[rank()]


def summed(*values: Tensor) -> tuple[Tensor, ...]:
    """Each value, summed over the processes. All processes get the same bits."""
    if size() == 1:
        return values
    found = tuple(value.clone(memory_format=torch.contiguous_format) for value in values)
    for value in found:
        dist.all_reduce(value)
    return found


def largest(value: Shaped[Tensor, ""]) -> Shaped[Tensor, ""]:
    """The largest value of all processes."""
    if size() == 1:
        return value
    found = value.clone()
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return found


def whole(rows: Shaped[Tensor, k * rest]) -> Shaped[Tensor, n * rest]:
    """The rows of all processes in the order of the batch that `part` took apart."""
    if size() == 1:
        return rows
    (counts,) = summed(torch.nn.functional.one_hot(torch.tensor(rank()), size()).to(rows.device) * len(rows))
    most = int(counts.max())
    plain = rows.to(torch.uint8) if rows.dtype == torch.bool else rows
    padded = plain.new_zeros(most, *rows.shape[1:])
    padded[: len(rows)] = plain
    parts = [torch.empty_like(padded) for _ in range(size())]
    dist.all_gather(parts, padded)
    found = torch.cat([each[: int(count)] for each, count in zip(parts, counts, strict=True)])
    return found.to(rows.dtype)


def together(problem: str | None, like: Tensor) -> None:
    """Tell all processes whether the first one has a problem, which would leave the others waiting for it.

    `problem` says what is wrong in the first process, which raises its error itself, and None that all is well. The
    others raise ValueError. `like` is a tensor on the device of the group.
    """
    if size() > 1:
        flag = like.new_tensor(float(problem is not None))
        dist.broadcast(flag, 0)
        if float(flag) and rank() > 0:
            raise ValueError("the first process failed; its message says why")
