"""Drawing tools of the miniature web: a pen on a square of 100 by 100 units, and ten paints."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from PIL import ImageDraw

Rgb = tuple[int, int, int]

UNITS: Final = 100.0


@dataclass(frozen=True, slots=True)
class Paint:
    """The shades of a color, RGB 0-255; `line` is the outline."""

    base: Rgb
    dark: Rgb
    light: Rgb
    ink: Rgb
    line: Rgb


def _paint(base: Rgb) -> Paint:
    return Paint(
        base=base,
        dark=_blend(base, (0, 0, 0), 0.42),
        light=_blend(base, (255, 255, 255), 0.6),
        ink=(32, 30, 36),
        line=_blend(base, (12, 10, 20), 0.72),
    )


def _blend(start: Rgb, end: Rgb, share: float) -> Rgb:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(start, end, strict=True))
    return red, green, blue


# Black and white lack darker or lighter shades: their details and outlines are gray.
PAINTS: Final[dict[str, Paint]] = {
    "red": _paint((222, 38, 40)),
    "orange": _paint((250, 138, 20)),
    "yellow": _paint((252, 220, 40)),
    "green": _paint((36, 158, 62)),
    "blue": _paint((38, 96, 226)),
    "purple": _paint((134, 58, 190)),
    "pink": _paint((255, 138, 190)),
    "brown": _paint((126, 74, 36)),
    "black": Paint((40, 40, 46), (112, 112, 122), (176, 176, 186), (222, 222, 228), (206, 206, 214)),
    "white": Paint((248, 248, 250), (170, 174, 188), (226, 229, 238), (32, 30, 36), (66, 68, 80)),
}


@dataclass(frozen=True, slots=True)
class Pen:
    """Draws filled shapes, in units, on a canvas with `scale` pixels per unit."""

    canvas: ImageDraw.ImageDraw
    scale: float

    def poly(self, color: Rgb, *points: tuple[float, float]) -> None:
        """Draw a filled polygon."""
        self.canvas.polygon([(x * self.scale, y * self.scale) for x, y in points], fill=color)

    def oval(self, color: Rgb, x: float, y: float, rx: float, ry: float | None = None) -> None:
        """Draw a filled ellipse around its center; a circle if `ry` is None."""
        ry = rx if ry is None else ry
        self.canvas.ellipse([v * self.scale for v in (x - rx, y - ry, x + rx, y + ry)], fill=color)

    def box(self, color: Rgb, x0: float, y0: float, x1: float, y1: float, radius: float = 0) -> None:
        """Draw a filled rectangle with rounded corners."""
        corners = [v * self.scale for v in (x0, y0, x1, y1)]
        self.canvas.rounded_rectangle(corners, radius * self.scale, fill=color)

    def line(self, color: Rgb, width: float, *points: tuple[float, float]) -> None:
        """Draw a stroke with round ends and joints."""
        scaled = [(x * self.scale, y * self.scale) for x, y in points]
        self.canvas.line(scaled, fill=color, width=round(width * self.scale), joint="curve")
        for x, y in (points[0], points[-1]):
            self.oval(color, x, y, width / 2)

    def pie(self, color: Rgb, x: float, y: float, rx: float, ry: float, start: float, end: float) -> None:
        """Draw a filled sector, degrees clockwise from three o'clock."""
        self.canvas.pieslice([v * self.scale for v in (x - rx, y - ry, x + rx, y + ry)], start, end, fill=color)

    def ring(self, color: Rgb, x: float, y: float, r: float, width: float) -> None:
        """Draw a circle outline with outer radius `r`."""
        self.canvas.ellipse(
            [v * self.scale for v in (x - r, y - r, x + r, y + r)],
            outline=color,
            width=round(width * self.scale),
        )


Drawing = Callable[[Pen, Paint], None]
