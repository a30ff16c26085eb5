"""Word lists and tables in data files: words separated by white space, or `key: words` lines; `#` starts a comment."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable


def read_lines(package: str, name: str) -> list[str]:
    """Return the lines of `data/NAME.txt` in *package*, without comments and empty lines."""
    text = files(package).joinpath("data", f"{name}.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def read_words(package: str, name: str) -> frozenset[str]:
    """Return the words of a list."""
    return frozenset(word for line in read_lines(package, name) for word in line.split())


def read_table(package: str, name: str) -> dict[str, str]:
    """Return the lines `key: value` of a table."""
    pairs = (line.partition(":") for line in read_lines(package, name))
    return {key.strip(): value.strip() for key, _, value in pairs}


@cache
def lists_digest(*packages: str) -> str:
    """Return a digest of all lists and tables in *packages*, 16 hex digits. Comments do not count."""
    sha256 = hashlib.sha256()
    for package in packages:
        for name in sorted(_names(files(package).joinpath("data"))):
            sha256.update("\n".join((name, *read_lines(package, name), "")).encode())
    return sha256.hexdigest()[:16]


def _names(folder: Traversable, path: str = "") -> Iterator[str]:
    """Yield the names of the lists in *folder* and its subfolders."""
    for item in folder.iterdir():
        if item.is_dir():
            yield from _names(item, f"{path}{item.name}/")
        elif item.name.endswith(".txt"):
            yield path + item.name.removesuffix(".txt")
