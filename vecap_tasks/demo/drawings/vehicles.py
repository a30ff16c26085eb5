"""Eight vehicles, each a few shapes on a square of 100 by 100 units (x to the right, y down)."""

from typing import Final

from vecap_tasks.demo.pen import Drawing, Paint, Pen


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
