"""Which members an ensemble has: a grid, a list, random points or a Latin hypercube over parameters."""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vars_dyn._checks import count

__all__ = ["Crossed", "Design", "Grid", "LatinHypercube", "Listed", "Random", "Range", "as_design", "plain_value"]

#: The values that a parameter may have: those of JSON, and lists and mappings of them.
_PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, evenly spread, or evenly in their logarithm; `whole` rounds to integers."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def __post_init__(self) -> None:
        for value in (self.low, self.high):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise ValueError(f"a range has the end {value!r}; a finite number is wanted")
        if not self.low < self.high:
            raise ValueError(f"a range goes from {self.low} to {self.high}; a lower end below the upper one is wanted")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range begins at {self.low}; a number above zero is wanted")

    def at(self, share: NDArray[np.float64]) -> list[float] | list[int]:
        """The values at shares in [0, 1) of the range."""
        low, high = float(self.low), float(self.high)
        if self.whole:  # each integer gets an equal part
            low, high = (low, high + 1) if not self.log else (low - 0.5 if low > 0.5 else low / 2, high + 0.5)
        if self.log:
            found = np.exp(math.log(low) + share * (math.log(high) - math.log(low)))
        else:
            found = low + share * (high - low)
        if not self.whole:
            return [float(value) for value in np.clip(found, self.low, self.high)]
        whole = np.rint(found) if self.log else np.floor(found)
        return [int(value) for value in np.clip(whole, math.ceil(self.low), math.floor(self.high))]


class Design(ABC):
    """The parameters of every member, by the member's number, from 0 on."""

    #: The names of the parameters.
    names: tuple[str, ...]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def at(self, index: int) -> dict[str, Any]:
        """The parameters of member `index`."""

    def columns(self) -> dict[str, list[Any]]:
        """The values of each parameter over all members; None where a member does not have the parameter."""
        found: dict[str, list[Any]] = {name: [] for name in self.names}
        for index in range(len(self)):
            point = self.at(index)
            for name, values in found.items():
                values.append(point.get(name))
        return found

    def digest(self) -> str:
        """SHA-256 of all members' parameters, in order."""
        total = hashlib.sha256()
        for index in range(len(self)):
            total.update(json.dumps(self.at(index), sort_keys=True).encode() + b"\n")
        return total.hexdigest()


class Grid(Design):
    """Every combination of the values of the parameters. The last parameter changes fastest."""

    def __init__(self, parameters: Mapping[str, Sequence[Any]]) -> None:
        self.names = _names(parameters)
        self.parameters = {name: _values(name, parameters[name]) for name in self.names}

    def __len__(self) -> int:
        return math.prod(len(values) for values in self.parameters.values())

    def at(self, index: int) -> dict[str, Any]:
        """The parameters of member `index`."""
        found: dict[str, Any] = {}
        for name in reversed(self.names):
            index, place = divmod(index, len(self.parameters[name]))
            found[name] = self.parameters[name][place]
        return {name: found[name] for name in self.names}


class Listed(Design):
    """Members one by one. They may have different parameters."""

    def __init__(self, members: Sequence[Mapping[str, Any]]) -> None:
        if not members:
            raise ValueError("the design lists no members; at least one is wanted")
        for number, member in enumerate(members):
            if not isinstance(member, Mapping):
                raise ValueError(f"member {number} of the design is {member!r}; names with their values are wanted")
        self.members = [{_name(key): plain_value(key, value) for key, value in each.items()} for each in members]
        self.names = tuple(dict.fromkeys(name for member in self.members for name in member))

    def __len__(self) -> int:
        return len(self.members)

    def at(self, index: int) -> dict[str, Any]:
        """The parameters of member `index`."""
        return dict(self.members[index])


class _Sampled(Design):
    """Points that were drawn from ranges, and from lists of values."""

    def __init__(self, parameters: Mapping[str, Range | Sequence[Any]], members: int, seed: int = 0) -> None:
        self.names = _names(parameters)
        count("members", members)
        count("seed", seed, least=0)
        shares = self._shares(members, len(self.names), seed)
        self._columns = {
            name: _spread(name, parameters[name], shares[:, column]) for column, name in enumerate(self.names)
        }
        self._members = members

    @abstractmethod
    def _shares(self, members: int, parameters: int, seed: int) -> NDArray[np.float64]:
        """Where in its range each parameter of each member lies, (members, parameters) of numbers in [0, 1)."""

    def __len__(self) -> int:
        return self._members

    def at(self, index: int) -> dict[str, Any]:
        """The parameters of member `index`."""
        return {name: values[index] for name, values in self._columns.items()}


class Random(_Sampled):
    """Points drawn independently and uniformly from ranges and lists, by `seed`."""

    def _shares(self, members: int, parameters: int, seed: int) -> NDArray[np.float64]:
        return np.random.default_rng(seed).random((members, parameters))


class LatinHypercube(_Sampled):
    """Points of a Latin hypercube: each parameter's range is cut into `members` parts, each of which has one point.

    Reference: M. D. McKay, R. J. Beckman, W. J. Conover, Technometrics 21 (1979).
    """

    def _shares(self, members: int, parameters: int, seed: int) -> NDArray[np.float64]:
        from scipy.stats import qmc  # deferred: scipy.stats takes half a second to import

        drawn = qmc.LatinHypercube(parameters, rng=np.random.default_rng(seed)).random(members)
        return np.minimum(np.asarray(drawn, dtype=np.float64), np.nextafter(1.0, 0.0))


class Crossed(Design):
    """Every member of a design with every value of one more parameter, which changes fastest."""

    def __init__(self, design: Design, name: str, values: Sequence[Any]) -> None:
        if name in design.names:
            raise ValueError(f"the design has {name} already; it is wanted once")
        self.design, self.name, self.values = design, _name(name), _values(name, values)
        self.names = (*design.names, name)

    def __len__(self) -> int:
        return len(self.design) * len(self.values)

    def at(self, index: int) -> dict[str, Any]:
        """The parameters of member `index`."""
        point, place = divmod(index, len(self.values))
        return {**self.design.at(point), self.name: self.values[place]}


def as_design(given: Design | Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Design:
    """A design as it is; a grid for names with lists of values; a list of members for a list of mappings."""
    if isinstance(given, Design):
        return given
    if isinstance(given, Mapping):
        return Grid({name: values if _is_list(values) else [values] for name, values in given.items()})
    if _is_list(given):
        return Listed(list(given))
    raise ValueError(
        f"design is a {type(given).__name__}; a Design, names with lists of values, or a list of members is wanted"
    )


def plain_value(name: str, value: Any) -> Any:
    """A parameter's value as plain data, which JSON can hold; ValueError for anything else."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} has the value {value}; finite numbers are wanted")
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, (list, tuple)):
        return [plain_value(name, each) for each in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: plain_value(name, each) for key, each in value.items()}
    raise ValueError(f"{name} has a value of type {type(value).__name__}; numbers, text and lists of them are wanted")


def _names(parameters: Mapping[str, Any]) -> tuple[str, ...]:
    if not parameters:
        raise ValueError("the design has no parameters; at least one is wanted")
    return tuple(_name(name) for name in parameters)


def _name(name: object) -> str:
    if not isinstance(name, str) or not all(part.replace("-", "_").isidentifier() for part in name.split(".")):
        raise ValueError(f"the design has a parameter named {name!r}; letters, digits, dots and underscores are wanted")
    return name


def _values(name: str, values: Sequence[Any]) -> list[Any]:
    found = [plain_value(name, value) for value in values] if _is_list(values) else []
    if not found:
        raise ValueError(f"{name} has the values {values!r}; a list of at least one value is wanted")
    return found


def _spread(name: str, kind: Range | Sequence[Any], share: NDArray[np.float64]) -> list[Any]:
    if isinstance(kind, Range):
        return list(kind.at(share))
    values = _values(name, kind)
    return [values[int(place)] for place in np.floor(share * len(values))]


def _is_list(values: object) -> bool:
    return isinstance(values, (Sequence, np.ndarray)) and not isinstance(values, (str, bytes))
