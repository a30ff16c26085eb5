"""Check names and prose against tools/vocabulary.toml: `python -m tools.vocabulary` (`make lint` runs it).

Prints each use of a listed word with its file, line and the term to use. Exits with 1 if there is any.
"""

from __future__ import annotations

import fnmatch
import io
import re
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

_PROSE = (".md", ".html", ".sh", ".yaml", ".yml", ".in")
_PROSE_NAMES = ("Makefile", "Dockerfile")


def check(root: Path) -> Iterator[str]:
    """Yield one line for each use of a listed name or word in the files that git tracks under *root*."""
    rules = tomllib.loads((root / "tools" / "vocabulary.toml").read_text(encoding="utf-8"))
    names = {re.compile(pattern): use for pattern, use in rules["names"].items()}
    words = {re.compile(pattern, re.IGNORECASE): use for pattern, use in rules["text"].items()}
    listed = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        if any(fnmatch.fnmatch(name, pattern) for pattern in rules["exclude"]):
            continue
        path = root / name
        if path.suffix == ".py":
            yield from _python(name, path.read_text(encoding="utf-8"), names, words)
        elif path.suffix in _PROSE or path.name in _PROSE_NAMES:
            yield from _prose(name, 1, path.read_text(encoding="utf-8"), words)


def _python(
    name: str, source: str, names: dict[re.Pattern[str], str], words: dict[re.Pattern[str], str]
) -> Iterator[str]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        line = token.start[0]
        if token.type == tokenize.NAME:
            for pattern, use in names.items():
                if pattern.fullmatch(token.string):
                    yield f"{name}:{line}: name {token.string!r}: use {use}"
        elif token.type in (tokenize.COMMENT, tokenize.STRING):
            yield from _prose(name, line, token.string, words)


def _prose(name: str, first: int, text: str, words: dict[re.Pattern[str], str]) -> Iterator[str]:
    for pattern, use in words.items():
        for match in pattern.finditer(text):
            line = first + text.count("\n", 0, match.start())
            yield f"{name}:{line}: {match.group()!r}: use {use}"


def main() -> int:
    found = list(check(Path(__file__).parents[1]))
    print("\n".join(found) or "vocabulary: no listed word is used")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
