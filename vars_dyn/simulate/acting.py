"""Readers of interventions: UNITS[=VALUE][@START:STOP], several of them separated by semicolons.

The classes of `vars_dyn.interventions` need torch, so they are imported when there is something to read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vars_dyn.simulate.values import indices, number, shown

__all__ = ["clamp", "inject", "lesion", "scale", "silence"]

_WAYS = ("feedforward", "feedback", "inhibition")


def silence(text: str) -> list[Any]:
    """Read units to silence, such as u3,5-9@0:10; z4."""
    return _each(text, "u3,5-9@0:10", lambda units, _, __, when: _made("Silence", **units, **when), valued=False)


def lesion(text: str) -> list[Any]:
    """Read units to remove, such as u3@5:."""
    return _each(text, "u3@5:", lambda units, _, __, when: _made("Lesion", **units, **when), valued=False)


def clamp(text: str) -> list[Any]:
    """Read units and the values to hold them at, such as u3=0.5@0:10; z0-4=1; a7=0.2."""

    def made(units: dict[str, Any], letter: str, value: float, when: dict[str, Any]) -> Any:
        return _made("Clamp", value, **units, **when, of="output" if letter == "a" else "potential")

    return _each(text, "u3=0.5@0:10", made, letters="uza")


def inject(text: str) -> list[Any]:
    """Read units and the currents into them, such as z0-4=0.1@5:10."""
    return _each(text, "z0-4=0.1@5:10", lambda units, _, value, when: _made("Inject", value, **units, **when))


def scale(text: str) -> list[Any]:
    """Read units and the factors of their synapses, such as feedforward:u3=0.5@0:10."""
    found: list[Any] = []
    for entry in [] if text == "none" else text.split(";"):
        way, colon, rest = entry.strip().partition(":")
        one_way = bool(colon) and way in _WAYS

        def made(
            units: dict[str, Any], _: str, value: float, when: dict[str, Any], synapses: str = way if one_way else "all"
        ) -> Any:
            return _made("Scale", value, **units, **when, synapses=synapses)

        found += _each(rest if one_way else entry, "feedforward:u3=0.5@0:10", made)
    return found


def _made(kind: str, *values: float, **fields: Any) -> Any:
    from vars_dyn.interventions import of_class  # deferred: torch takes seconds to import

    return of_class(kind)(*values, **fields)


def _each(
    text: str,
    example: str,
    make: Callable[[dict[str, Any], str, float, dict[str, Any]], Any],
    *,
    valued: bool = True,
    letters: str = "uz",
) -> list[Any]:
    """The interventions that a text lists; `none` is none. ValueError with what came and what is wanted."""
    found = []
    for entry in [] if text == "none" else text.split(";"):
        what, at, span = entry.strip().partition("@")
        named, equals, value = what.partition("=")
        letter, units = named[:1], named[1:].strip()
        if letter not in letters or not units or bool(equals) != valued or (at and not span):
            raise ValueError(f"{shown(entry.strip())}; interventions such as {example}, separated by ;, are wanted")
        kind = "neurons" if letter == "z" else "atoms"
        try:
            chosen: Any = "all" if units == "all" else indices(units)
            amount = number()(value.strip()) if valued else 0.0
            found.append(make({kind: chosen}, letter, amount, _span(span)))
        except ValueError as error:
            raise ValueError(f"{shown(entry.strip())}, where {error}") from None
    return found


def _span(text: str) -> dict[str, Any]:
    """Start and stop of START:STOP; each may be left out."""
    start, _, stop = text.partition(":")
    return {"start": number()(start) if start else None, "stop": number()(stop) if stop else None}
