"""What the commands share: a parser of options that takes plain data only, and nothing that could name code."""

from __future__ import annotations

import re
import sys
from argparse import ArgumentError
from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentParser, set_loader

from vars_dyn import _yaml
from vars_dyn._suggestions import meant

__all__ = ["CommandParser", "asks_for_help"]

# jsonargparse reads texts and files with this loader, which refuses aliases, tags and deep nesting.
set_loader("plain", _yaml.value_of, exceptions=(ValueError,))


class CommandParser(ArgumentParser):
    """jsonargparse's parser, as the commands of this project use it.

    Options cannot be abbreviated. The command line overrides files of options, wherever `--config` stands in it. A word
    that begins like a negative number is the value of the option before it. Bad arguments raise
    `argparse.ArgumentError` instead of ending the process.
    """

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        own = {"parser_mode": "plain", "allow_abbrev": False, "exit_on_error": False}
        super().__init__(*arguments, **{**own, **keywords})  # jsonargparse makes parsers of this class for parts

    # argparse's signature and jsonargparse's differ from each other.
    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None, **keywords: Any
    ) -> Any:
        """As jsonargparse's."""
        words = _config_first(_joined(sys.argv[1:] if args is None else args))
        try:
            return super().parse_args(words, namespace, **keywords)
        except ArgumentError as error:
            close = self._meant(words)
            if not close:
                raise
            raise ArgumentError(None, f"{' '.join(str(error).split())}{close}") from None

    def _meant(self, words: Sequence[str]) -> str:
        """What was meant by the first option that this parser does not have; empty if it has all, or none is close."""
        known = self._option_string_actions
        before = words[: words.index("--")] if "--" in words else words
        for word in (word.partition("=")[0] for word in before if word.startswith("--")):
            if word not in known:
                return meant(word, [name for name in known if name.startswith("--")])
        return ""


def asks_for_help(words: Sequence[str]) -> bool:
    """Whether the arguments of a command ask for its help."""
    options = words[: list(words).index("--")] if "--" in words else words
    return "--help" in options or "-h" in options


def _joined(words: Sequence[str]) -> list[str]:
    """`--lam -0.1x` as `--lam=-0.1x`, because argparse would take the value for an unknown option."""
    joined: list[str] = []
    for position, word in enumerate(words):
        before = joined[-1] if joined else ""
        if before == "--":
            return [*joined, *words[position:]]
        if before.startswith("--") and "=" not in before and re.match(r"-[\d.]", word):
            joined[-1] = f"{before}={word}"
        else:
            joined.append(word)
    return joined


def _config_first(words: Sequence[str]) -> list[str]:
    """The same words with the files of options in front, because jsonargparse lets later words win."""
    files: list[str] = []
    others: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--":
            others += [word, *rest]
        elif word == "--config":
            files += [word, *([value] if (value := next(rest, None)) is not None else [])]
        else:
            (files if word.startswith("--config=") else others).append(word)
    return [*files, *others]
