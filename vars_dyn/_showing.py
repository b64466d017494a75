"""How values show themselves: one short line, and a small table in notebooks."""

from __future__ import annotations

import html
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor

__all__ = ["Shown", "as_line", "as_table", "largest", "spread"]


class Shown(ABC):
    """A value that shows its parameters. `described` gives their names and values; texts stand as they are."""

    @abstractmethod
    def described(self) -> Mapping[str, object]:
        """What is shown, by name."""

    def __repr__(self) -> str:
        return as_line(type(self).__name__, self.described())

    def _repr_html_(self) -> str:
        return as_table(type(self).__name__, self.described())


def as_line(name: str, rows: Mapping[str, object]) -> str:
    """NAME(key=value, ...) on one line."""
    return f"{name}({', '.join(f'{key}={_short(value)}' for key, value in rows.items())})"


def as_table(name: str, rows: Mapping[str, object]) -> str:
    """An HTML table of two columns, in the colours of the page that it stands in."""
    lines = "".join(
        f'<tr><th scope="row" style="text-align: left">{html.escape(key)}</th>'
        f'<td style="text-align: left">{html.escape(_short(value))}</td></tr>'
        for key, value in rows.items()
    )
    return f'<table><caption style="text-align: left">{html.escape(name)}</caption>{lines}</table>'


def spread(values: Tensor) -> str:
    """One number per signal in a few characters: their common value, or the least and the largest; NaN is left out."""
    plain = values.detach().double().flatten()
    plain = plain[~plain.isnan()]
    if not plain.numel():
        return "unknown" if values.numel() else "none"
    low, high = float(plain.min()), float(plain.max())
    return _short(low) if low == high else f"{_short(low)} to {_short(high)}"


def largest(values: Tensor) -> str:
    """The largest of one number per signal; NaN is left out."""
    plain = values.detach().double().flatten()
    plain = plain[~plain.isnan()]
    return _short(float(plain.max())) if plain.numel() else "unknown"


def _short(value: object) -> str:
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.4g}"
    return str(value)
