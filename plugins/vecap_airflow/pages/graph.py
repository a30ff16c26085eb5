"""A lineage as a picture: boxes from left to right, what something was made of to the right of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vecap_tasks.lineage.tree import Node

WIDTH, HEIGHT = 230, 46  # of a box, and below of the way from one to the next
_ACROSS, _DOWN = 270, 58
_SHOWN = 12  # children of one kind that are drawn; a crawl may have thousands of files
_CHARS = 30


@dataclass(frozen=True, slots=True)
class Box:
    """One thing. `x` and `y` are its upper left corner; `parent` the middle of the right side of what it belongs to."""

    node: Node
    title: str
    label: str
    x: int
    y: int
    parent: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Graph:
    """All boxes, and the size of the picture."""

    boxes: tuple[Box, ...]
    width: int
    height: int


def draw(root: Node) -> Graph:
    """Lay *root* out: each level is a column, each leaf a line."""
    boxes = list(_place(root, 0, [0], None))
    return Graph(tuple(boxes), max(box.x for box in boxes) + WIDTH, max(box.y for box in boxes) + HEIGHT)


def _place(node: Node, depth: int, free: list[int], parent: tuple[int, int] | None) -> Iterator[Box]:
    x, y = depth * _ACROSS, free[0]
    yield Box(node, node.kind, _short(node.name), x, y, parent)
    from_here = (x + WIDTH, y + HEIGHT // 2)
    children = _few(node.children)
    for number, child in enumerate(children):
        if number:
            free[0] += _DOWN
        yield from _place(child, depth + 1, free, from_here)


def _few(children: tuple[Node, ...]) -> list[Node]:
    """Return *children* with a note in the place of those of a kind that are too many; what is wrong always stays."""
    kept: list[Node] = []
    left: dict[str, int] = {}
    for child in children:
        if sum(other.kind == child.kind for other in kept) < _SHOWN or not child.verified:
            kept.append(child)
        else:
            left[child.kind] = left.get(child.kind, 0) + 1
    return [*kept, *(Node(kind, f"and {count:,} more", None) for kind, count in left.items())]


def _short(name: str) -> str:
    return name if len(name) <= _CHARS else "…" + name[1 - _CHARS :]
