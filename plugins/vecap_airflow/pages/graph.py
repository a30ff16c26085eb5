"""Layout of a lineage graph: boxes from left to right, inputs to the right of outputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vecap_tasks.lineage.tree import Node

WIDTH, HEIGHT = 196, 46  # size of a box
_X_STEP, _Y_STEP = 220, 58
_MAX_CHILDREN = 12  # drawn children per kind; a crawl can have thousands of files
_MAX_LABEL_CHARS = 26


@dataclass(frozen=True, slots=True)
class Box:
    """A node's box. `x` and `y` are its upper left corner; `parent` is the right center of its parent's box."""

    node: Node
    title: str
    label: str
    x: int
    y: int
    parent: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Graph:
    """All boxes, and the size of the drawing."""

    boxes: tuple[Box, ...]
    width: int
    height: int
    box_width: int = WIDTH


def draw(root: Node) -> Graph:
    """Return the layout of *root*: one column per level, one row per leaf."""
    boxes = list(_place(root, 0, [0], None))
    return Graph(tuple(boxes), max(box.x for box in boxes) + WIDTH, max(box.y for box in boxes) + HEIGHT)


def _place(node: Node, depth: int, next_y: list[int], parent: tuple[int, int] | None) -> Iterator[Box]:
    x, y = depth * _X_STEP, next_y[0]
    yield Box(node, node.kind, _shorten(node.name), x, y, parent)
    right_center = (x + WIDTH, y + HEIGHT // 2)
    for number, child in enumerate(_limit_children(node.children)):
        if number:
            next_y[0] += _Y_STEP
        yield from _place(child, depth + 1, next_y, right_center)


def _limit_children(children: tuple[Node, ...]) -> list[Node]:
    """Return *children*, with excess children of a kind replaced by a count; corrupt ones are always kept."""
    kept: list[Node] = []
    omitted: dict[str, int] = {}
    for child in children:
        if sum(other.kind == child.kind for other in kept) < _MAX_CHILDREN or not child.verified:
            kept.append(child)
        else:
            omitted[child.kind] = omitted.get(child.kind, 0) + 1
    return [*kept, *(Node(kind, f"and {count:,} more", None) for kind, count in omitted.items())]


def _shorten(name: str) -> str:
    return name if len(name) <= _MAX_LABEL_CHARS else "…" + name[1 - _MAX_LABEL_CHARS :]
