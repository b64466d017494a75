"""The names that models and commands call the attention layers by."""

from __future__ import annotations

from typing import Any

from vars_dyn import _checks
from vars_dyn.attention.base import TokenMixer
from vars_dyn.attention.performer import PerformerAttention
from vars_dyn.attention.softmax import SoftmaxAttention
from vars_dyn.attention.vars import VarsAttention

__all__ = ["KINDS", "attention_class"]

#: Kind of attention to (class, arguments that make it that kind).
KINDS: dict[str, tuple[type[TokenMixer], dict[str, Any]]] = {
    "softmax": (SoftmaxAttention, {}),
    "performer": (PerformerAttention, {}),
    "vars_s": (VarsAttention, {"dictionary": "static"}),
    "vars_d": (VarsAttention, {"dictionary": "dynamic"}),
    "vars_sd": (VarsAttention, {"dictionary": "static+dynamic"}),
}


def attention_class(kind: str, **options: Any) -> type[TokenMixer]:
    """The attention class of a kind of KINDS, with `options` as its constructor's defaults; ValueError for others."""
    _checks.choice("attention", kind, tuple(KINDS))
    cls, own = KINDS[kind]
    return cls.configured(**own, **options)
