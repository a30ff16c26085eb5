"""Options and output shared by the commands."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TextIO

from vecap_tasks.config import Config, load_config
from vecap_tasks.core.store import Store
from vecap_tasks.core.version import Version, newer_revision, published, read_version
from vecap_tasks.errors import closest, did_you_mean
from vecap_tasks.redaction import redact

Commands = argparse._SubParsersAction  # argparse has no public name for the return type of add_subparsers


class Parser(argparse.ArgumentParser):
    """Reports wrong usage in one line, with the command, option or value that a misspelled one may mean."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        self._given = list(sys.argv[1:] if args is None else args)
        parsed, rest = super().parse_known_args(args, namespace)
        if rest:
            self.error(self._unexpected(rest[0]))
        return parsed, rest

    def error(self, message: str) -> NoReturn:
        unknown = None if self._subparsers else next(filter(self._is_unknown_option, self._given), None)
        message = (
            self._unexpected(unknown)
            if unknown
            else message.replace("the following arguments are required:", "missing")
        )
        self.exit(2, f"vecap: {message}; see `{self.prog} --help`\n")

    def _is_unknown_option(self, word: str) -> bool:
        name = word.partition("=")[0]
        return name.startswith("--") and not any(known.startswith(name) for known in self._option_string_actions)

    def _unexpected(self, word: str) -> str:
        if word.startswith("-"):
            return f"unknown option {word}{did_you_mean(word.partition('=')[0], self._option_string_actions)}"
        option, key = ["", "", *self._given[: self._given.index(word)]][-2:]
        hint = f"; write --set {key}={word}" if option == "--set" and "=" not in key else ""
        return f"unexpected argument {word}{hint}"

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        what = (
            "command"
            if isinstance(action, argparse._SubParsersAction)
            else f"value for {action.metavar or action.dest}:"
        )
        similar = closest(str(value), action.choices)
        hint = f"did you mean {similar}?" if similar else f"use one of {', '.join(map(str, action.choices))}"
        raise argparse.ArgumentError(None, f"unknown {what} {value}; {hint}")


def add_command(
    commands: Commands[argparse.ArgumentParser], name: str, summary: str, example: str, *, configured: bool = True
) -> argparse.ArgumentParser:
    """Add the command *name*, with its example in `--help` and the common options."""
    parser = commands.add_parser(name, help=summary, description=summary, epilog=f"example: {example}")
    if configured:
        parser.add_argument("--config", required=True, metavar="FILE", help="configuration file (YAML)")
        parser.add_argument(
            "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="override one setting"
        )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--verbose", action="store_true", help="log debug messages and tracebacks")
    return parser


_COMPLETION = """\
declare -gA _vecap_words=(
{words}
)
_vecap() {{
  local at=vecap word
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    [[ -n ${{_vecap_words["$at $word"]}} && $word != -* ]] && at="$at $word"
  done
  local last=${{COMP_WORDS[COMP_CWORD]}} previous="$at ${{COMP_WORDS[COMP_CWORD-1]}}"
  COMPREPLY=($(compgen -W "${{_vecap_words["$previous"]:-${{_vecap_words["$at"]}}}}" -- "$last"))
  [[ ${{#COMPREPLY[@]}} -gt 0 ]] || COMPREPLY=($(compgen -f -- "$last"))
}}
complete -o filenames -F _vecap vecap
"""


def completion(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return a script for *shell* (`bash` or `zsh`) that completes commands, options, their choices, and files."""
    words = "\n".join(f'  ["{at}"]="{" ".join(found)}"' for at, found in _completion_words(parser) if found)
    script = _COMPLETION.format(words=words)
    return f"autoload -U +X bashcompinit && bashcompinit\n{script}" if shell == "zsh" else script


def _completion_words(parser: argparse.ArgumentParser) -> Iterator[tuple[str, list[str]]]:
    words: list[str] = []
    for action in parser._actions:
        choices = [str(choice) for choice in action.choices or ()]
        words += action.option_strings or choices
        yield from ((f"{parser.prog} {option}", choices) for option in action.option_strings)
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from _completion_words(inner)
    yield parser.prog, words


def configuration(arguments: argparse.Namespace) -> Config:
    """Return the configuration from `--config` and `--set`. Raises ConfigError."""
    return load_config(arguments.config, arguments.overrides)


@contextmanager
def source_warnings() -> Iterator[list[str]]:
    """Yield a list that gets each warning about a source once; it is not logged."""

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            if record.levelno >= logging.WARNING and text not in found:
                found.append(text)

    found: list[str] = []
    logger, collector = logging.getLogger(_SOURCES), Collector()
    logger.addHandler(collector)
    logger.propagate = False
    try:
        yield found
    finally:
        logger.propagate = True
        logger.removeHandler(collector)


def named_version(store: Store, dataset: str, name: str, *others: str) -> Version:
    """Return the version *name*, as `read_version` does.

    If it has a newer revision, which is not among *others*, print one line that names it on standard error.
    """
    version = read_version(store, dataset, name)
    newer = newer_revision(store, version)
    if newer is not None and newer.name not in others:
        state = "" if published(store, newer) is not None else " (unfinished)"
        print(f"{name} has the newer revision {newer.name}{state}; name {newer.name} to use it", file=sys.stderr)
    return version


def print_json(value: Any) -> None:
    """Print *value* as one JSON document on standard output."""
    print(redact(json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True)))


def printable(text: str) -> str:
    """Return web text in one line, without characters that control a terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def print_table(header: tuple[str, ...], rows: list[tuple[str, ...]], right: Collection[str] = ()) -> None:
    """Print aligned columns. Numbers are right-aligned, and all of a column whose header is in *right*."""
    widths = [max(len(cell) for cell in column) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        cells = []
        for title, cell, width in zip(header, row, widths, strict=True):
            number = cell.replace(",", "").replace(".", "").isdigit() and len(cell) < 16
            cells.append(cell.rjust(width) if number or title in right else cell.ljust(width))
        print(redact("  ".join(cells).rstrip()))


_SOURCES = "vecap_tasks.crawl.sources"  # their modules' loggers; the checks and the crawl read the same files


class LogHandler(logging.StreamHandler[TextIO]):
    """Writes log lines to what is standard error at that moment: above a progress bar, if there is one.

    Warnings about a source begin with `warning: `, and each is written once.
    """

    def __init__(self) -> None:
        super().__init__()
        self._source_warnings: set[str] = set()

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return f"warning: {text}" if _is_source_warning(record) else text

    def emit(self, record: logging.LogRecord) -> None:
        if _is_source_warning(record):
            text = record.getMessage()
            if text in self._source_warnings:
                return
            self._source_warnings.add(text)
        self.stream = sys.stderr
        super().emit(record)


def _is_source_warning(record: logging.LogRecord) -> bool:
    return record.levelno == logging.WARNING and record.name.startswith(_SOURCES)
