"""Options as plain data, as YAML and JSON hold them. `read` accepts only values of the declared types.

It makes only dataclasses of this project, from the fields that they declare. No value ever names a class, a module or a
function, so a file can say what to compute, but not which code to run.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

__all__ = ["as_plain", "check", "read", "within"]

#: The text of an option is a name or a path, not a document. It may have at most this many characters and brackets.
_LONGEST, _BRACKETS = 4096, 64

_WORDS = {bool: "true or false", int: "an integer", float: "a finite number", str: "text", type(None): "null"}


def as_plain(value: Any) -> Any:
    """The plain data of a dataclass of options, which JSON can hold."""
    if dataclasses.is_dataclass(value):
        return {each.name: as_plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): as_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(item) for item in value]
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def read(kind: Any, value: Any, name: str) -> Any:
    """Turn `value`, which is plain data, into a `kind`: a dataclass, a list, a dict, a number or text.

    A dataclass is made from a mapping of its own fields, and a field that the mapping leaves out has its default.
    Raises a ValueError that names the option if `value` is no `kind`.
    """
    return _read(kind, value, name, True)


def check(kind: Any, value: Any, name: str) -> None:
    """Raise ValueError where `read` would, except that a dataclass may lack fields."""
    _read(kind, value, name, False)


def within(kind: Any, path: Sequence[str], name: str) -> Any:
    """The type of the option inside a `kind` that `path` leads to. Raises ValueError where there is none."""
    for part in path:
        chosen = next(
            (each for each in _members(kind) if dataclasses.is_dataclass(each) or get_origin(each) is dict), None
        )
        if chosen is not None and get_origin(chosen) is dict:
            kind = get_args(chosen)[1]
        elif chosen is not None and part in (hints := get_type_hints(chosen)):
            kind = hints[part]
        else:
            raise ValueError(f"there is no option {name}")
    return kind


def _members(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _read(kind: Any, value: Any, name: str, build: bool) -> Any:
    members = _members(kind)
    if len(members) > 1:
        own = [each for each in members if _outside(each, value)]
        if not own:
            raise _unlike(kind, value, name)
        return _read(own[0], value, name, build)
    if not _outside(kind, value):
        raise _unlike(kind, value, name)
    origin, inner = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, name, build)
    if origin in (list, tuple, Sequence):
        return [_read(inner[0], item, f"{name}[{i}]", build) for i, item in enumerate(value)]
    if origin is dict:
        return {key: _read(inner[1], item, f"{name}.{key}", build) for key, item in value.items()}
    if kind is str and (len(value) > _LONGEST or "\0" in value or sum(map(value.count, "[{&*")) > _BRACKETS):
        raise ValueError(f"{name} is {value[:40]!r} ..., which is no name or path; a text of one line is wanted")
    return float(value) if kind is float else value


def _outside(kind: Any, value: Any) -> bool:
    """Whether a value has the outer form of a kind. The values in a mapping are not checked here."""
    origin = get_origin(kind)
    if dataclasses.is_dataclass(kind) or origin is dict:
        return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
    if origin in (list, tuple, Sequence):
        if not isinstance(value, list | tuple):
            return False
        return len(_members(get_args(kind)[0])) > 1 or all(_outside(get_args(kind)[0], item) for item in value)
    if origin is Literal:
        return any(value == each and type(value) is type(each) for each in get_args(kind))
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and _finite(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    return type(value) is kind


def _finite(value: float) -> bool:
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def _dataclass(kind: Any, value: Mapping[str, Any], name: str, build: bool) -> Any:
    hints = get_type_hints(kind)
    own = [each.name for each in dataclasses.fields(kind) if each.init]
    for key in value:
        if key not in own:
            where = f"{name} has the option" if name else "there is no option"
            raise ValueError(f"{where} {key!r:.80}; one of {', '.join(own)} is wanted")
    found = {key: _read(hints[key], item, _inside(name, key), build) for key, item in value.items()}
    if not build:
        return found
    for each in dataclasses.fields(kind):
        if (
            each.name not in found
            and each.default is dataclasses.MISSING
            and each.default_factory is dataclasses.MISSING
        ):
            raise ValueError(f"{_inside(name, each.name)} is missing; {_wanted(hints[each.name])} is wanted")
    return kind(**found)


def _inside(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _unlike(kind: Any, value: Any, name: str) -> ValueError:
    shown = repr(value)
    return ValueError(f"{name} is {shown if len(shown) < 80 else shown[:76] + ' ...'}; {_wanted(kind)} is wanted")


def _wanted(kind: Any) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if len(_members(kind)) > 1:
        return " or ".join(_wanted(each) for each in _members(kind))
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if origin in (list, tuple, Sequence):
        return "a list" if get_origin(inner[0]) or len(_members(inner[0])) > 1 else f"a list, each {_wanted(inner[0])},"
    if dataclasses.is_dataclass(kind):
        return f"a mapping of {', '.join(each.name for each in dataclasses.fields(kind))}"
    return "a mapping" if origin is dict else _WORDS.get(kind, str(kind))
