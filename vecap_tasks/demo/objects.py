"""Sixteen objects and eight vehicles, each drawn from a few shapes on a 100 by 100 unit square (x right, y down)."""

from __future__ import annotations

from typing import Final

from vecap_tasks.demo.pen import Drawing, Paint, Pen


def _house(d: Pen, p: Paint) -> None:
    d.box(p.dark, 68, 12, 80, 40)
    d.box(p.base, 14, 44, 86, 94)
    d.poly(p.dark, (50, 6), (98, 48), (2, 48))
    d.box(p.ink, 42, 64, 60, 94)
    d.box(p.light, 21, 58, 35, 72)
    d.box(p.light, 67, 58, 81, 72)


def _castle(d: Pen, p: Paint) -> None:
    d.box(p.base, 20, 44, 80, 94)
    for x0 in (4, 70):
        d.box(p.base, x0, 20, x0 + 26, 94)
        for x in (x0 - 2, x0 + 9, x0 + 20):
            d.box(p.base, x, 8, x + 8, 26)
        d.box(p.light, x0 + 10, 36, x0 + 16, 54, 3)
    for x in (36, 48, 60):
        d.box(p.base, x - 3, 34, x + 5, 48)
    d.box(p.ink, 39, 64, 61, 94, 10)
    d.box(p.ink, 39, 80, 61, 94)


def _tent(d: Pen, p: Paint) -> None:
    d.line(p.ink, 5, (50, 14), (50, 4))
    d.poly(p.base, (50, 10), (98, 90), (2, 90))
    d.poly(p.light, (50, 10), (62, 90), (38, 90))
    d.poly(p.ink, (50, 36), (59, 90), (41, 90))


def _chair(d: Pen, p: Paint) -> None:
    d.box(p.base, 16, 4, 30, 96, 3)
    d.box(p.base, 16, 50, 84, 63, 3)
    d.box(p.base, 72, 56, 84, 96, 3)
    d.box(p.dark, 30, 50, 84, 55)
    d.line(p.base, 5, (28, 80), (76, 80))


def _lamp(d: Pen, p: Paint) -> None:
    d.box(p.ink, 46, 44, 54, 88)
    d.box(p.ink, 26, 86, 74, 95, 4)
    d.poly(p.base, (30, 5), (70, 5), (94, 54), (6, 54))
    d.poly(p.light, (43, 5), (57, 5), (65, 54), (35, 54))


def _clock(d: Pen, p: Paint) -> None:
    d.line(p.dark, 8, (28, 80), (18, 95))
    d.line(p.dark, 8, (72, 80), (82, 95))
    d.oval(p.dark, 24, 16, 14)
    d.oval(p.dark, 76, 16, 14)
    d.oval(p.base, 50, 52, 42)
    d.oval(p.light, 50, 52, 30)
    d.line(p.ink, 5, (50, 30), (50, 53), (66, 62))


def _cup(d: Pen, p: Paint) -> None:
    d.ring(p.base, 78, 50, 20, 8)
    d.poly(p.base, (8, 22), (76, 22), (68, 84), (16, 84))
    d.oval(p.dark, 42, 23, 34, 9)
    d.box(p.light, 15, 52, 70, 60)
    d.box(p.dark, 4, 84, 80, 92, 4)


def _teapot(d: Pen, p: Paint) -> None:
    d.ring(p.base, 18, 56, 18, 7)
    d.poly(p.base, (68, 72), (86, 30), (99, 28), (94, 42), (78, 78))
    d.oval(p.base, 50, 62, 33, 30)
    d.oval(p.dark, 50, 35, 20, 8)
    d.oval(p.base, 50, 22, 8)
    d.box(p.dark, 34, 88, 66, 95, 3)


def _bottle(d: Pen, p: Paint) -> None:
    d.box(p.ink, 39, 2, 61, 14, 2)
    d.box(p.base, 41, 12, 59, 42)
    d.box(p.base, 26, 34, 74, 97, 12)
    d.box(p.light, 26, 54, 74, 80)
    d.line(p.dark, 3, (34, 63), (66, 63))
    d.line(p.dark, 3, (34, 71), (66, 71))


def _guitar(d: Pen, p: Paint) -> None:
    d.box(p.ink, 46, 10, 54, 60)
    d.box(p.dark, 40, 2, 60, 16, 3)
    d.oval(p.base, 50, 50, 22, 17)
    d.oval(p.base, 50, 76, 30, 22)
    d.oval(p.ink, 50, 62, 9)
    d.box(p.ink, 38, 82, 62, 87)


def _drum(d: Pen, p: Paint) -> None:
    d.line(p.ink, 5, (44, 26), (10, 4))
    d.line(p.ink, 5, (56, 26), (90, 4))
    d.box(p.base, 10, 34, 90, 82)
    d.oval(p.base, 50, 82, 40, 13)
    d.line(p.light, 4, (12, 44), (31, 88), (50, 48), (69, 88), (88, 44))
    d.oval(p.dark, 50, 34, 40, 14)
    d.oval(p.light, 50, 34, 33, 9)


def _umbrella(d: Pen, p: Paint) -> None:
    d.line(p.ink, 5, (50, 4), (50, 86), (56, 93), (66, 92), (69, 83))
    d.pie(p.base, 50, 54, 47, 46, 180, 360)
    d.pie(p.dark, 50, 54, 17, 44, 180, 360)
    d.pie(p.base, 50, 54, 6, 44, 180, 360)


def _hat(d: Pen, p: Paint) -> None:
    d.poly(p.base, (26, 16), (74, 16), (70, 74), (30, 74))
    d.oval(p.base, 50, 18, 24, 8)
    d.oval(p.base, 50, 76, 48, 15)
    d.box(p.dark, 29, 54, 71, 69)


def _shoe(d: Pen, p: Paint) -> None:
    d.poly(p.base, (8, 20), (40, 20), (50, 46), (80, 54), (95, 66), (95, 80), (8, 80))
    d.box(p.dark, 5, 76, 97, 88, 5)
    for x, y in ((38, 34), (46, 46), (58, 52)):
        d.line(p.light, 4, (x, y), (x + 10, y - 8))
    d.box(p.light, 8, 20, 40, 27)


def _kite(d: Pen, p: Paint) -> None:
    d.poly(p.base, (58, 2), (90, 34), (54, 72), (26, 30))
    d.poly(p.dark, (58, 2), (57, 32), (26, 30))
    d.poly(p.dark, (90, 34), (57, 32), (54, 72))
    d.line(p.ink, 3, (54, 72), (40, 80), (30, 92), (10, 95))
    d.poly(p.base, (40, 72), (44, 88), (34, 84))
    d.poly(p.base, (18, 86), (22, 99), (10, 94))


def _key(d: Pen, p: Paint) -> None:
    d.ring(p.base, 26, 50, 25, 12)
    d.box(p.base, 46, 44, 98, 56, 3)
    d.box(p.base, 70, 50, 79, 76, 2)
    d.box(p.base, 87, 50, 97, 82, 2)


THINGS: Final[dict[str, Drawing]] = {
    "house": _house,
    "castle": _castle,
    "tent": _tent,
    "chair": _chair,
    "lamp": _lamp,
    "clock": _clock,
    "cup": _cup,
    "teapot": _teapot,
    "bottle": _bottle,
    "guitar": _guitar,
    "drum": _drum,
    "umbrella": _umbrella,
    "hat": _hat,
    "shoe": _shoe,
    "kite": _kite,
    "key": _key,
}


def _car(d: Pen, p: Paint) -> None:
    d.poly(p.base, (20, 48), (34, 24), (68, 24), (82, 48))
    d.box(p.base, 3, 46, 97, 70, 8)
    d.poly(p.light, (30, 46), (38, 31), (49, 31), (49, 46))
    d.poly(p.light, (54, 46), (54, 31), (65, 31), (72, 46))
    for x in (24, 76):
        d.oval(p.ink, x, 70, 13)
        d.oval(p.light, x, 70, 5.5)


def _bus(d: Pen, p: Paint) -> None:
    d.box(p.base, 4, 14, 96, 78, 7)
    for x in (10, 31, 52, 73):
        d.box(p.light, x, 23, x + 16, 43, 2)
    d.box(p.dark, 4, 54, 96, 61)
    for x in (25, 75):
        d.oval(p.ink, x, 79, 12)
        d.oval(p.light, x, 79, 4.5)


def _truck(d: Pen, p: Paint) -> None:
    d.box(p.base, 2, 12, 62, 72, 3)
    d.poly(p.dark, (66, 72), (66, 32), (84, 32), (98, 52), (98, 72))
    d.poly(p.light, (72, 52), (72, 38), (81, 38), (90, 52))
    d.box(p.dark, 58, 62, 70, 72)
    for x in (14, 38, 82):
        d.oval(p.ink, x, 76, 12)
        d.oval(p.light, x, 76, 4.5)


def _train(d: Pen, p: Paint) -> None:
    d.box(p.base, 6, 14, 40, 72, 3)
    d.box(p.light, 13, 22, 33, 42, 2)
    d.box(p.base, 36, 38, 88, 72, 10)
    d.poly(p.dark, (66, 40), (69, 20), (64, 8), (86, 8), (81, 20), (84, 40))
    d.poly(p.dark, (84, 72), (84, 60), (99, 84), (80, 84))
    d.box(p.dark, 6, 66, 88, 74)
    d.oval(p.ink, 22, 78, 15)
    d.oval(p.light, 22, 78, 6)
    for x in (50, 72):
        d.oval(p.ink, x, 83, 10)
        d.oval(p.light, x, 83, 4)


def _bicycle(d: Pen, p: Paint) -> None:
    for x in (23, 77):
        d.ring(p.base, x, 66, 22, 7)
    d.line(p.base, 7, (23, 66), (40, 36), (68, 36), (48, 66), (23, 66))
    d.line(p.base, 7, (40, 36), (48, 66))
    d.line(p.base, 7, (77, 66), (66, 24), (80, 20))
    d.line(p.ink, 8, (30, 28), (48, 28))
    d.oval(p.ink, 48, 66, 6)


def _boat(d: Pen, p: Paint) -> None:
    d.line(p.ink, 5, (50, 6), (50, 70))
    d.poly(p.light, (54, 8), (90, 60), (54, 60))
    d.poly(p.base, (46, 16), (46, 60), (14, 60))
    d.poly(p.base, (3, 66), (97, 66), (80, 93), (20, 93))
    d.poly(p.dark, (10, 76), (92, 76), (88, 82), (13, 82))


def _plane(d: Pen, p: Paint) -> None:
    d.poly(p.base, (44, 36), (2, 60), (2, 72), (44, 58))
    d.poly(p.base, (56, 36), (98, 60), (98, 72), (56, 58))
    d.poly(p.dark, (46, 78), (28, 90), (28, 97), (50, 92), (72, 97), (72, 90), (54, 78))
    d.box(p.base, 40, 3, 60, 92, 10)
    d.oval(p.light, 50, 16, 6, 8)
    d.oval(p.dark, 24, 54, 5, 9)
    d.oval(p.dark, 76, 54, 5, 9)


def _rocket(d: Pen, p: Paint) -> None:
    d.poly((255, 170, 40), (36, 78), (64, 78), (50, 99))
    d.poly(p.dark, (32, 50), (12, 84), (34, 76))
    d.poly(p.dark, (68, 50), (88, 84), (66, 76))
    d.poly(p.base, (50, 2), (66, 24), (71, 50), (66, 80), (34, 80), (29, 50), (34, 24))
    d.poly(p.dark, (50, 2), (62, 18), (38, 18))
    d.oval(p.light, 50, 40, 12)
    d.oval(p.ink, 50, 40, 6.5)


VEHICLES: Final[dict[str, Drawing]] = {
    "car": _car,
    "bus": _bus,
    "truck": _truck,
    "train": _train,
    "bicycle": _bicycle,
    "boat": _boat,
    "plane": _plane,
    "rocket": _rocket,
}
