"""The kinds of attention: the names that models and commands use for the attention layers."""

from __future__ import annotations

from typing import Any

from vars_dyn import _checks
from vars_dyn.attention.base import TokenMixer
from vars_dyn.attention.performer import PerformerAttention
from vars_dyn.attention.softmax import SoftmaxAttention
from vars_dyn.attention.subspace import SubspaceAttention
from vars_dyn.attention.vars import VarsAttention

__all__ = ["KINDS", "attention_class"]

#: The class of each kind of attention, and the arguments that make a layer of that kind.
KINDS: dict[str, tuple[type[TokenMixer], dict[str, Any]]] = {
    "softmax": (SoftmaxAttention, {}),
    "performer": (PerformerAttention, {}),
    "crate": (SubspaceAttention, {}),
    "vars_s": (VarsAttention, {"dictionary": "static"}),
    "vars_d": (VarsAttention, {"dictionary": "dynamic"}),
    "vars_sd": (VarsAttention, {"dictionary": "static+dynamic"}),
}


def attention_class(kind: str, **options: Any) -> type[TokenMixer]:
    """The class of a `kind` of attention, with `options` as its constructor's defaults; ValueError for other kinds.

    Examples:
        >>> performer = va.attention_class("performer", num_heads=4)
        >>> performer(16)(torch.randn(1, 9, 16)).shape
        torch.Size([1, 9, 16])
    """
    _checks.choice("attention", kind, tuple(KINDS))
    cls, own = KINDS[kind]
    return cls.configured(**own, **options)
