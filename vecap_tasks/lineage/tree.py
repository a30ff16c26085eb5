"""The tree that lineage gives: what something was made of, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_WIDTH = 2000  # the terminal wraps what is too long for it; nothing is cut


@dataclass(frozen=True, slots=True)
class Node:
    """One thing in a lineage. `digest` is the sha256 it was found or recorded with, None where there is none.

    `note` says what was checked, or why it could not be; `problems` are mismatches.
    """

    kind: str
    name: str
    digest: str | None
    note: str = ""
    problems: tuple[str, ...] = ()
    children: tuple[Node, ...] = ()

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong here or below."""
        return not any(node.problems for node in self.walk())

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
            "sound": self.sound,
            "children": [child.as_json() for child in self.children],
        }


def format_tree(node: Node) -> str:
    """Return the tree as lines for a terminal."""
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
        return text

    def grow(branch: Tree, one: Node) -> None:
        for child in one.children:
            grow(branch.add(label(child)), child)

    tree = Tree(label(node))
    grow(tree, node)
    console = Console(width=_WIDTH)
    with console.capture() as captured:
        console.print(tree)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())
