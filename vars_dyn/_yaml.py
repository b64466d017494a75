"""A reader of hand-written YAML: it takes plain data only, in bounded time and memory."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Any

import yaml

__all__ = ["load", "value_of"]

#: A file of options has some kilobytes. These limits leave room, and stop files that are made to hang their reader.
_BYTES, _DEPTH, _SCALAR = 1 << 20, 20, 1 << 16
#: The tags that a file may hold. Any other tag would construct something other than plain data.
_TAGS = (None, "!", "tag:yaml.org,2002:str")
_FLOAT = re.compile(
    r"""[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?
       |[-+]?(?:[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)
       |[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?
       |[-+]?\.(?:inf|Inf|INF)
       |\.(?:nan|NaN|NAN)""",
    re.X,
)
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F]+|0o[0-7]+|0b[01]+)")


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """A safe loader with the numbers of YAML 1.2: 1e-5 is a number; 010, 1:30 and 2024-01-31 are text."""

    # A fresh table, so that PyYAML's own loaders keep theirs.
    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, form) for tag, form in rules if tag.rpartition(":")[2] in ("null", "bool", "merge")]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A dict whose keys are text, all distinct."""
        found: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag.endswith(":merge"):
                raise ValueError(f"has the merge key << in line {line}; write the values out")
            key = self.construct_object(key_node, deep=True) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str):
                shown = repr(key_node.value) if isinstance(key_node, yaml.ScalarNode) else "a collection"
                raise ValueError(f"has {shown} as a key in line {line}; names are wanted")
            if key in found:
                raise ValueError(f"has the key {key!r} twice, the second time in line {line}; once is wanted")
            found[key] = self.construct_object(value_node, deep=True)
        return found


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"(?:{_FLOAT.pattern})$", re.X), [*"-+0123456789."])
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(f"(?:{_INT.pattern})$"), [*"-+0123456789"])
# PyYAML makes mappings in two steps, for aliases that refer back to them. Here aliases are refused.
_Loader.add_constructor("tag:yaml.org,2002:map", _Loader.construct_mapping)


def load(source: str | Path) -> dict[str, Any]:
    """The mapping that a YAML text (str) or file (Path) holds; an empty one for an empty document.

    Values are None, bool, int, float, str, and lists and dicts of them. Raises ValueError for anchors, aliases, merge
    keys and tags; keys that are no text or occur twice; nesting deeper than 20; more than 1 MiB; a document that is no
    mapping; and what is no YAML or no regular file. The message is one sentence, which begins with the file's name if
    there is one.
    """
    found = value_of(source)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ValueError(f"{_name(source)} holds a {type(found).__name__}; names with their values are wanted")
    return found


def value_of(source: str | Path) -> Any:
    """The value of any kind that a YAML text or file holds, within the limits and with the errors of `load`."""
    name, text = _name(source), _text(source)
    try:
        _check(text)
        return yaml.load(text, Loader=_Loader)  # noqa: S506  # a safe loader, narrowed further
    except yaml.YAMLError as error:
        raise ValueError(f"{name} is no YAML: {' '.join(str(error).split())}") from None
    except UnicodeError:
        raise ValueError(f"{name} is no YAML: it is not Unicode") from None
    except ValueError as error:
        said = "holds a number that is too long" if "integer string" in str(error) else error
        raise ValueError(f"{name} {said}") from None


def _name(source: str | Path) -> str:
    return str(source) if isinstance(source, Path) else "the YAML text"


def _text(source: str | Path) -> str:
    if isinstance(source, Path):
        try:
            kind = source.stat().st_mode
            if not stat.S_ISREG(kind):
                what = "a folder" if stat.S_ISDIR(kind) else "no regular file"
                raise ValueError(f"{source} is {what}; a YAML file is wanted")
            with source.open("rb") as file:
                data = file.read(_BYTES + 1)
            text = data[:_BYTES].decode("utf-8-sig") if len(data) <= _BYTES else ""
        except OSError as error:
            raise ValueError(f"{source} cannot be read: {error.strerror or error}") from None
        except UnicodeDecodeError:
            raise ValueError(f"{source} is no YAML: it is not UTF-8") from None
        except ValueError as error:  # a zero byte in the name
            raise ValueError(f"{error}" if str(source) in str(error) else f"{source} cannot be read: {error}") from None
    else:
        data, text = source.encode("utf-8", "surrogatepass"), source
    if len(data) > _BYTES:
        raise ValueError(f"{_name(source)} holds more than {_BYTES} bytes; a file of options is wanted")
    return text


def _check(text: str) -> None:
    """Raise ValueError for legal YAML that is no plain data, before anything is constructed from it."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        line = event.start_mark.line + 1 if event.start_mark is not None else 0
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise ValueError(f"has an anchor or alias in line {line}; write the value out")
        tag = getattr(event, "tag", None)
        if tag not in _TAGS:
            raise ValueError(f"has the tag {tag} in line {line}; plain values are wanted")
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > _SCALAR:
            raise ValueError(
                f"has a value of {len(event.value)} characters in line {line}; at most {_SCALAR} are wanted"
            )
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEPTH:
            raise ValueError(f"is nested deeper than {_DEPTH} in line {line}; at most that is wanted")
