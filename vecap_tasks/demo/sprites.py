"""One object alone: its drawing with outline, light and a soft shadow, to be put into pictures.

Each of the forty drawings is readable at 28 pixels. Its main area is in the object's colour (`base`); one or two
details in a darker or lighter shade or in ink tell kinds of like outline apart.
"""

from typing import Final

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from vecap_tasks.demo.drawings.animals import ANIMALS
from vecap_tasks.demo.drawings.plants import PLANTS
from vecap_tasks.demo.drawings.things import THINGS
from vecap_tasks.demo.drawings.vehicles import VEHICLES
from vecap_tasks.demo.pen import PAINTS, UNITS, Drawing, Pen

DRAWINGS: Final[dict[str, Drawing]] = ANIMALS | VEHICLES | PLANTS | THINGS
_SUPERSAMPLE: Final = 3
# The drawing takes this share of its sprite's side; the rest is room for outline and shadow.
DRAWN_SHARE: Final = 0.86


def sprite(kind: str, colour: str, side: int) -> Image.Image:
    """The object alone, RGBA of `side` by `side` pixels: drawing, outline and soft shadow on nothing."""
    drawn = round(side * DRAWN_SHARE)
    large = drawn * _SUPERSAMPLE
    paint = PAINTS[colour]
    picture = Image.new("RGBA", (large, large), (*paint.base, 0))
    DRAWINGS[kind](Pen(ImageDraw.Draw(picture), large / UNITS), paint)
    margin = (side - drawn) // 2
    canvas = Image.new("RGBA", (side, side), (*paint.base, 0))
    canvas.paste(picture.reduce(_SUPERSAMPLE), (margin, margin))
    body = canvas.getchannel("A")

    lit = Image.linear_gradient("L").resize((side, side)).point(lambda level: 255 - level // 7)
    shaded = ImageChops.multiply(canvas.convert("RGB"), Image.merge("RGB", (lit, lit, lit)))
    edge = body.filter(ImageFilter.GaussianBlur(side * 0.014)).point(lambda level: min(255, level * 5))
    edge = ImageChops.lighter(edge, body)
    shadow = ImageChops.offset(edge, round(side * 0.015), round(side * 0.03))
    shadow = shadow.filter(ImageFilter.GaussianBlur(side * 0.02)).point(lambda level: level * 2 // 5)

    result = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    result.putalpha(shadow)
    outline = Image.new("RGBA", (side, side), (*paint.line, 0))
    outline.putalpha(edge)
    result = Image.alpha_composite(result, outline)
    shaded.putalpha(body)
    return Image.alpha_composite(result, shaded)
