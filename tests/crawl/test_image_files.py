"""Every image of tests/data/images, sound or not: what comes of it is what its table says."""

import io
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.images import make
from vecap_tasks.config import ImageConfig
from vecap_tasks.crawl.image.decode import decode
from vecap_tasks.errors import Failure

# Pillow tells of damage in a TIFF or in EXIF by warnings, too.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]

CONFIG = ImageConfig()
APART = 8  # levels of 255 that a lossy format may lead away


@dataclass(frozen=True)
class Line:
    name: str
    reason: str | None
    size: tuple[int, int] | None
    color: tuple[int, int, int] | None


def listed() -> list[Line]:
    lines = []
    for text in make.TABLE.read_text(encoding="utf-8").splitlines():
        if text.startswith("#"):
            continue
        name, reason, size, color, _ = text.split("\t")
        wide, high = (int(side) for side in size.split("x")) if size != "-" else (0, 0)
        rgb = None if color == "-" else tuple(bytes.fromhex(color))
        lines.append(Line(name, None if reason == "-" else reason, (wide, high) if wide else None, rgb))
    return lines


LINES = listed()


def body(name: str) -> bytes:
    return (make.FILES / name).read_bytes()


def test_the_table_lists_the_files_and_there_are_many():
    assert sorted(line.name for line in LINES) == sorted(path.name for path in make.FILES.iterdir())
    assert len(LINES) >= 60
    assert sum(path.stat().st_size for path in make.FILES.iterdir()) < 1_500_000


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.name)
def test_what_comes_of_a_file(line):
    if line.reason is not None:
        with pytest.raises(Failure) as failure:
            decode(body(line.name), CONFIG)
        assert failure.value.message.startswith(line.reason)
        return
    picture, jpeg = decode(body(line.name), CONFIG)
    assert (picture.width, picture.height) == line.size
    with Image.open(io.BytesIO(jpeg)) as shown:
        assert (shown.format, shown.mode, shown.size) == ("JPEG", "RGB", line.size)
        assert not {"icc_profile", "exif", "comment"} & shown.info.keys()
        found = shown.getpixel((line.size[0] // 4, line.size[1] // 4))
    if line.color is not None:
        assert np.abs(np.subtract(found, line.color)).max() <= APART, found


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.name)
def test_a_file_that_is_cut_or_damaged_anywhere_ends_soon_and_well(line):
    whole = body(line.name)
    rng = np.random.default_rng(len(whole))
    cuts = [whole[: len(whole) * part // 16] for part in range(1, 16)]
    flips = []
    for _ in range(8 if whole else 0):
        bad = bytearray(whole)
        for place in rng.integers(0, len(bad), max(1, len(bad) // 500)):
            bad[place] = rng.integers(0, 256)
        flips.append(bytes(bad))
    for given in (*cuts, *flips):
        with suppress(Failure):
            decode(given, CONFIG)


def test_the_files_are_what_the_makers_make():
    """The encoders may differ from those that the files were made with, what is written by hand may not."""
    made = {one.name: one for one in (*make.jpegs(), *make.pngs(), *make.others(), *make.disguises())}
    assert made.keys() == {line.name for line in LINES}
    for name in ("page.jpg", "rgb-16.png", "top-down.bmp", "small-frame.gif", "huge.bmp", "gray-16-key.png"):
        assert made[name].body == Path(make.FILES / name).read_bytes()
