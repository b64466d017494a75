"""Keeps torch.compile out of solvers, because the data decide when their loops end."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch

__all__ = ["uncompiled"]

P = ParamSpec("P")
R = TypeVar("R")


def uncompiled(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, for which torch.compile breaks the graph and runs it in eager mode.

    It does what `torch.compiler.disable` does. That would import the compiler even for users who compile nothing, which
    takes as long as importing torch.
    """

    @functools.wraps(function)
    def outer(*args: P.args, **kwargs: P.kwargs) -> R:
        if "torch._dynamo" not in sys.modules:
            return function(*args, **kwargs)
        return _disabled(function)(*args, **kwargs)

    return outer


@functools.cache
def _disabled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compiler.disable(function)
