"""Limits of options: ranges, known names, and the sizes of models that configurations and checkpoints may set."""

from __future__ import annotations

import math
from typing import Any, Literal

from experiments.options.plain_data import read

__all__ = ["ACCELERATORS", "PRECISIONS", "SIZES", "between", "checked_sizes", "one_of", "whole"]

#: The arguments of models' constructors that `model.sizes` may have, and the type of each. Configurations and
#: checkpoints cannot set others, such as weights to fetch or classes to build from.
SIZES: dict[str, Any] = {
    "patch_size": int,
    "embed_dim": int,
    "depth": int | list[int],
    "num_heads": int,
    "base_dims": list[int],
    "heads": list[int],
    "mlp_ratio": float,
    "conv_mlp": bool,
    "stem": Literal["conv", "patch"],
    "class_token": bool,
    "reg_tokens": int,
    "qkv_bias": bool,
    "drop_rate": float,
    "pos_drop_rate": float,
    "proj_drop_rate": float,
    "attn_drop_rate": float,
}

ACCELERATORS = ("auto", "cpu", "cuda", "gpu", "mps", "tpu")

PRECISIONS = ("auto", "32-true", "64-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true")


def between(name: str, value: float | None, least: float, most: float = math.inf, *, open_above: bool = False) -> None:
    """Raise ValueError unless `value` is None or lies between `least` and `most`."""
    if value is None or (least <= value < most if open_above else least <= value <= most):
        return
    upper = "" if most == math.inf else f", {'below' if open_above else 'and at most'} {most:g},"
    raise ValueError(f"{name} is {value}; a number of at least {least:g}{upper} is wanted")


def whole(name: str, value: int | None, least: int, most: int = 2**31 - 1) -> None:
    """Raise ValueError unless `value` is None or an integer between `least` and `most`."""
    if value is None or (isinstance(value, int) and least <= value <= most):
        return
    more = "" if isinstance(value, int) and value < least else f" and at most {most}"
    raise ValueError(f"{name} is {value}; an integer of at least {least}{more} is wanted")


def one_of(name: str, value: str | None, known: Any) -> None:
    """Raise ValueError unless `value` is None or among `known`."""
    if value is not None and value not in known:
        raise ValueError(f"{name} is {value!r}; one of {', '.join(known)} is wanted")


def checked_sizes(sizes: dict[str, Any]) -> dict[str, Any]:
    """Return `sizes` as they are. Raises ValueError for one that is unknown, has another type, or is out of range."""
    for name, value in sizes.items():
        if name not in SIZES:
            raise ValueError(f"model.sizes has {name!r}; one of {', '.join(SIZES)} is wanted")
        read(SIZES[name], value, f"model.sizes.{name}")
        full = f"model.sizes.{name}"
        if name.endswith("_rate"):
            between(full, value, 0, 1, open_above=True)
        elif name == "mlp_ratio":
            between(full, value, 0.01, 64)
        elif not isinstance(value, bool | str):
            for each in value if isinstance(value, list) else [value]:
                whole(full, each, 0 if name == "reg_tokens" else 1, 16384)
            if isinstance(value, list) and not 1 <= len(value) <= 64:
                raise ValueError(f"{full} has {len(value)} entries; between 1 and 64 are wanted")
    return sizes
