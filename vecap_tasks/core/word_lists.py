"""Word lists and tables in data files: words separated by white space, or `key: words` lines; `#` starts a comment."""

from __future__ import annotations

from importlib.resources import files


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
