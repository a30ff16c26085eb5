"""Six plants, each a few shapes on a square of 100 by 100 units (x to the right, y down)."""

from typing import Final

from vecap_tasks.demo.pen import Drawing, Paint, Pen


def _tree(d: Pen, p: Paint) -> None:
    d.box(p.ink, 43, 70, 57, 97, 2)
    d.poly(p.base, (50, 34), (88, 80), (12, 80))
    d.poly(p.dark, (50, 40), (80, 62), (20, 62))
    d.poly(p.base, (50, 20), (80, 58), (20, 58))
    d.poly(p.dark, (50, 24), (70, 38), (30, 38))
    d.poly(p.base, (50, 2), (72, 34), (28, 34))


def _cactus(d: Pen, p: Paint) -> None:
    d.line(p.base, 15, (50, 60), (18, 60), (18, 34))
    d.line(p.base, 15, (50, 50), (82, 50), (82, 22))
    d.box(p.base, 38, 4, 62, 82, 12)
    for x in (44, 54):
        d.line(p.light, 2.5, (x, 14), (x, 76))
    d.poly(p.dark, (26, 78), (74, 78), (67, 97), (33, 97))


def _flower(d: Pen, p: Paint) -> None:
    d.line(p.ink, 6, (50, 50), (50, 96))
    d.oval(p.ink, 64, 80, 13, 6)
    for x, y in ((50, 14), (72, 26), (72, 48), (50, 60), (28, 48), (28, 26)):
        d.oval(p.base, x, y, 15)
    d.oval(p.dark, 50, 37, 17)
    d.oval(p.light, 50, 37, 11)


def _mushroom(d: Pen, p: Paint) -> None:
    d.box(p.light, 37, 48, 63, 95, 9)
    d.pie(p.base, 50, 56, 46, 50, 180, 360)
    d.box(p.base, 4, 50, 96, 60, 5)
    for x, y, r in ((50, 24, 9), (26, 40, 7), (74, 40, 7)):
        d.oval(p.light, x, y, r)


def _apple(d: Pen, p: Paint) -> None:
    d.oval(p.base, 34, 58, 28, 34)
    d.oval(p.base, 66, 58, 28, 34)
    d.box(p.base, 34, 40, 66, 88)
    d.line(p.ink, 6, (50, 36), (54, 10))
    d.poly(p.dark, (56, 26), (66, 8), (90, 8), (78, 26))
    d.oval(p.light, 26, 48, 6, 11)


def _carrot(d: Pen, p: Paint) -> None:
    for x in (28, 50, 72):
        d.line(p.dark, 10, (50, 32), (x, 7))
    d.poly(p.base, (26, 32), (74, 32), (52, 98), (48, 98))
    d.oval(p.base, 50, 34, 24, 9)
    d.line(p.ink, 3, (32, 46), (48, 46))
    d.line(p.ink, 3, (54, 58), (64, 58))
    d.line(p.ink, 3, (42, 70), (52, 70))


PLANTS: Final[dict[str, Drawing]] = {
    "tree": _tree,
    "cactus": _cactus,
    "flower": _flower,
    "mushroom": _mushroom,
    "apple": _apple,
    "carrot": _carrot,
}
