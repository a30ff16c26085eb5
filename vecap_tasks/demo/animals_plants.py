"""Ten animals and six plants, each drawn from a few shapes on a 100 by 100 unit square (x to the right, y down)."""

from __future__ import annotations

from typing import Final

from vecap_tasks.demo.pen import Drawing, Paint, Pen


def _cat(d: Pen, p: Paint) -> None:
    d.poly(p.base, (12, 8), (14, 60), (48, 34))
    d.poly(p.base, (88, 8), (86, 60), (52, 34))
    d.oval(p.base, 50, 58, 40, 36)
    d.oval(p.light, 33, 54, 9, 10)
    d.oval(p.light, 67, 54, 9, 10)
    d.box(p.ink, 31, 46, 36, 63, 2)
    d.box(p.ink, 64, 46, 69, 63, 2)
    d.poly(p.ink, (44, 68), (56, 68), (50, 76))
    for y in (70, 80):
        d.line(p.ink, 2.5, (6, y), (34, 74))
        d.line(p.ink, 2.5, (94, y), (66, 74))


def _dog(d: Pen, p: Paint) -> None:
    d.box(p.base, 22, 42, 74, 68, 12)
    for x in (24, 36, 58, 68):
        d.box(p.base, x, 60, x + 9, 92, 3)
    d.line(p.base, 8, (24, 48), (8, 26))
    d.box(p.base, 60, 14, 86, 52, 10)
    d.box(p.base, 72, 26, 97, 42, 7)
    d.box(p.dark, 58, 14, 68, 42, 5)
    d.oval(p.ink, 95, 29, 5)
    d.oval(p.ink, 77, 24, 4)
    d.box(p.light, 62, 48, 78, 54, 2)


def _rabbit(d: Pen, p: Paint) -> None:
    d.oval(p.base, 34, 28, 11, 26)
    d.oval(p.base, 66, 28, 11, 26)
    d.oval(p.light, 34, 28, 5, 19)
    d.oval(p.light, 66, 28, 5, 19)
    d.oval(p.base, 50, 68, 32, 28)
    d.oval(p.ink, 38, 62, 4.5)
    d.oval(p.ink, 62, 62, 4.5)
    d.oval(p.ink, 50, 73, 5, 4)
    d.box(p.light, 43, 79, 57, 94, 2)
    d.line(p.ink, 1.5, (50, 79), (50, 93))


def _elephant(d: Pen, p: Paint) -> None:
    d.oval(p.base, 36, 46, 32, 28)
    for x in (10, 28, 46):
        d.box(p.base, x, 56, x + 14, 92, 3)
    d.oval(p.base, 70, 40, 20, 22)
    d.line(p.base, 11, (84, 44), (90, 66), (88, 86))
    d.oval(p.dark, 60, 40, 14, 20)
    d.oval(p.ink, 80, 34, 4)
    d.line(p.light, 5, (77, 58), (70, 70))
    d.line(p.base, 5, (8, 40), (4, 62))


def _bird(d: Pen, p: Paint) -> None:
    d.poly(p.base, (30, 48), (2, 30), (4, 56))
    d.oval(p.base, 46, 54, 30, 22)
    d.oval(p.base, 70, 34, 18)
    d.poly(p.dark, (86, 28), (99, 37), (86, 42))
    d.poly(p.dark, (34, 46), (60, 50), (22, 74))
    d.oval(p.ink, 75, 30, 4.5)
    d.line(p.ink, 4, (42, 74), (42, 94), (50, 94))
    d.line(p.ink, 4, (54, 74), (54, 94), (62, 94))


def _owl(d: Pen, p: Paint) -> None:
    d.box(p.base, 20, 12, 80, 94, 28)
    d.poly(p.base, (20, 4), (22, 36), (46, 18))
    d.poly(p.base, (80, 4), (78, 36), (54, 18))
    d.oval(p.dark, 50, 74, 17, 18)
    for y in (66, 76, 86):
        d.line(p.light, 3, (42, y - 3), (50, y), (58, y - 3))
    for x in (35, 65):
        d.oval(p.light, x, 36, 16)
        d.oval(p.ink, x, 36, 8)
    d.poly(p.ink, (44, 46), (56, 46), (50, 58))


def _fish(d: Pen, p: Paint) -> None:
    d.poly(p.dark, (28, 50), (2, 22), (10, 50), (2, 78))
    d.poly(p.dark, (40, 32), (62, 10), (68, 34))
    d.oval(p.base, 58, 50, 38, 26)
    d.oval(p.light, 78, 42, 8)
    d.oval(p.ink, 79, 42, 4.5)
    d.line(p.dark, 4, (64, 30), (58, 50), (64, 70))
    d.line(p.dark, 4, (48, 32), (42, 50), (48, 68))


def _turtle(d: Pen, p: Paint) -> None:
    d.oval(p.light, 84, 56, 13, 11)
    d.oval(p.light, 26, 76, 11, 12)
    d.oval(p.light, 64, 76, 11, 12)
    d.poly(p.light, (14, 60), (2, 74), (20, 72))
    d.pie(p.base, 46, 66, 40, 46, 180, 360)
    d.box(p.base, 6, 62, 86, 72, 4)
    d.poly(p.dark, (46, 28), (60, 42), (54, 58), (38, 58), (32, 42))
    d.line(p.dark, 4, (32, 42), (16, 50))
    d.line(p.dark, 4, (60, 42), (76, 50))
    d.oval(p.ink, 88, 52, 3.5)


def _snail(d: Pen, p: Paint) -> None:
    d.box(p.light, 4, 74, 92, 90, 8)
    d.box(p.light, 76, 40, 92, 88, 7)
    d.line(p.light, 4, (80, 44), (74, 22))
    d.line(p.light, 4, (88, 44), (94, 22))
    d.oval(p.ink, 74, 21, 4)
    d.oval(p.ink, 94, 21, 4)
    d.oval(p.base, 40, 48, 34)
    d.ring(p.dark, 42, 50, 23, 5)
    d.ring(p.dark, 44, 52, 11, 5)


def _butterfly(d: Pen, p: Paint) -> None:
    for side in (-1, 1):
        d.oval(p.base, 50 + side * 26, 32, 22, 24)
        d.oval(p.base, 50 + side * 21, 72, 17, 18)
        d.oval(p.light, 50 + side * 28, 31, 9, 11)
        d.oval(p.dark, 50 + side * 22, 73, 7)
        d.line(p.ink, 3, (50, 28), (50 + side * 12, 6))
    d.box(p.ink, 45.5, 22, 54.5, 86, 4)


ANIMALS: Final[dict[str, Drawing]] = {
    "cat": _cat,
    "dog": _dog,
    "rabbit": _rabbit,
    "elephant": _elephant,
    "bird": _bird,
    "owl": _owl,
    "fish": _fish,
    "turtle": _turtle,
    "snail": _snail,
    "butterfly": _butterfly,
}


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
