"""The rules `loop`, `url` and `markup` on texts that look alike."""

import pytest

from vecap_tasks.config import ScreenConfig
from vecap_tasks.rewrite.screen import RULES
from vecap_tasks.rewrite.screen.text import Answer


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("山の上の城の山の上の城の山の上の城の山の上の城", True),
        ("一只羊站在岩石上，一只羊站在岩石上，一只羊站在岩石上", True),
        ("りんごりんごりんごりんごりんごりんご", True),
        ("2019年2019年2019年2019年2019年", True),
        ("高高的塔和密密麻麻的窗户", False),
        ("キラキラ光るビーズとふわふわの毛糸", False),
        ("哈哈哈哈大笑的男孩", False),
        ("一張一百万亿的钞票：100000000000000", False),
        ("бабушкабабушкабабушка варит суп", True),
        ("A goatgoatgoatgoatgoatgoat on a rock", True),
        ("##########################", True),
        ("= = = = = = = = = = = = = = = =", True),
        ("A goat on a rock?????????????????", True),
        ("🐐🐐🐐🐐🐐🐐🐐🐐🐐🐐🐐🐐🐐🐐", True),
        ("A row of stars: ★★★★★ rating of a hotel", False),
        ("Receipt with a line of dots ........ between name and price", False),
        ("A bank note of 500,000,000,000,000 dinars", False),
        ("The wall is white, and the wall is white, and the wall is white.", True),
        ("la la la la la la la la la la la la la", True),
        ("Sheet music with the words la la la la la", False),
        ('Lines on a board: "We shall not run down the stairs. We shall not run down the stairs."', False),
        ("We shall not run down the stairs. We shall not run down the stairs.", True),
    ],
)
def test_loops(text: str, problem: bool) -> None:
    assert (RULES["loop"](Answer(text, settings=ScreenConfig(languages=()))) is not None) is problem


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("A goat on a rock, goats-of-wales.uk", True),
        ("A goat on a rock, credit: ziegenhof.de", True),
        ("A goat on a rock; more at goatyoga.fitness", True),
        ("Goat cheese, goatfarm.example/cheese", True),
        ("Goat cheese, order at www. goatfarm .com", True),
        ("Goat cheese, www dot goatfarm dot com", True),
        ("Goat cheese, link in bio", True),
        ("file:///home/goat.jpg", True),
        ("mailto:goat@example.com", True),
        ("A goat stands on a rock.it looks down", False),
        ("A screenshot of the file goat.py", False),
        ("A sticker with the words milk.cheese.bread", False),
        ("A goat with a collar, no.5", False),
        ("The etsy.shop logo on a bag", False),
        ("A bus on route 5, about 9 a.m.", False),
        ("A connecting dot on a map", False),
    ],
)
def test_urls(text: str, problem: bool) -> None:
    assert (RULES["url"](Answer(text)) is not None) is problem


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (r"\emph{A goat} on a rock", True),
        ("The curve $a^2 + b^2 = c^2$ on a board", True),
        ("CO$_2$ molecules", True),
        ("~~A sheep~~ A goat", True),
        ("'''A goat''' on a rock", True),
        ("`A goat on a rock`", True),
        ("A goat[SEP]", True),
        ("A<0x20>goat", True),
        ('"text": "A goat on a rock"', True),
        ("{'text': 'A goat'}", True),
        ("A goat in %COUNTRY%", True),
        ("A goat of %s", True),
        ("A [color] goat", True),
        ("A <animal> on a rock", True),
        ("A goat from {{ farm.name }}", True),
        ('def goat(): return "goat"', True),
        ('alt = "A goat on a rock"', True),
        ("p { color: red; } A goat", True),
        ("A goat\x85on a rock", True),
        ("Tickets from $5 to $9, a goat_2 and x^2 on a wall", False),
        ("The set {1, 2, 3} on a board", False),
        ("100% wool, 20% off", False),
        ("A keyboard with a [Shift] key", False),
        ("It's a goat's life, 'tis said", False),
        ("A tutorial that explains print(x) to beginners", False),
        ("A = 5 on a board; B = 7", False),
        ("C:\\goats in a window", False),
    ],
)
def test_markup(text: str, problem: bool) -> None:
    assert (RULES["markup"](Answer(text)) is not None) is problem
