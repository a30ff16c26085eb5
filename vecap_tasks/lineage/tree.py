"""The tree that lineage gives: what something was made of, what is wrong with it, and what could not be checked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_WIDTH = 2000  # the terminal wraps what is too long for it; nothing is cut


@dataclass(frozen=True, slots=True)
class Node:
    """One thing in a lineage. `digest` is the sha256 it was recorded with, None where there is none.

    `problems` are damages: what is here differs from what was recorded. `unchecked` says why it could not be compared,
    such as a source that is gone; that is no damage. `files` and `bytes` were read for it, and compared.
    """

    kind: str
    name: str
    digest: str | None
    note: str = ""
    problems: tuple[str, ...] = ()
    unchecked: str = ""
    files: int = 0
    bytes: int = 0
    children: tuple[Node, ...] = ()

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong here or below."""
        return not any(node.problems for node in self.walk())

    @property
    def complete(self) -> bool:
        """Whether everything here and below could be checked."""
        return not any(node.unchecked for node in self.walk())

    def walk(self) -> Iterator[Node]:
        """Give this node and all below it, from the top."""
        yield self
        for child in self.children:
            yield from child.walk()

    def as_json(self) -> dict[str, Any]:
        """Return the tree as JSON values."""
        return {
            "kind": self.kind,
            "name": self.name,
            "digest": self.digest,
            "note": self.note,
            "problems": list(self.problems),
            "unchecked": self.unchecked,
            "files": self.files,
            "bytes": self.bytes,
            "sound": self.sound,
            "complete": self.complete,
            "children": [child.as_json() for child in self.children],
        }


def format_tree(node: Node) -> str:
    """Return the tree as lines for a terminal, and below it one line that says what came of it."""
    from rich.console import Console
    from rich.text import Text
    from rich.tree import Tree

    def label(one: Node) -> Text:
        digest = f"  {one.digest[:12]}" if one.digest else ""
        text = Text(f"{one.kind} {one.name}{digest}")
        if one.note:
            text.append(f"  {one.note}", style="dim")
        for problem in one.problems:
            text.append(f"\n✗ {problem}", style="red")
        if one.unchecked:
            text.append(f"\n? not checked: {one.unchecked}", style="yellow")
        return text

    def grow(branch: Tree, one: Node) -> None:
        for child in one.children:
            grow(branch.add(label(child)), child)

    tree = Tree(label(node))
    grow(tree, node)
    console = Console(width=_WIDTH)
    with console.capture() as captured:
        console.print(tree)
    lines = [line.rstrip() for line in captured.get().splitlines()]
    return "\n".join([*lines, _outcome(node)])


def _outcome(node: Node) -> str:
    nodes = list(node.walk())
    problems = sum(len(one.problems) for one in nodes)
    unchecked = sum(bool(one.unchecked) for one in nodes)
    state = "sound" if node.sound else "damaged, 1 problem" if problems == 1 else f"damaged, {problems} problems"
    read = f"{sum(one.files for one in nodes):,} files, {sum(one.bytes for one in nodes):,} bytes checked"
    left = f"; {unchecked} {'thing' if unchecked == 1 else 'things'} not checked" if unchecked else ""
    return f"{node.kind} {node.name} is {state}: {read}{left}"
