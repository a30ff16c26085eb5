"""Every image of tests/data/images decodes, or fails, as its table states."""

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

# Pillow also reports corrupt TIFF and EXIF data as warnings.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]

CONFIG = ImageConfig()
TOLERANCE = 8  # of 255, for lossy formats


@dataclass(frozen=True)
class Case:
    name: str
    reason: str | None
    size: tuple[int, int] | None
    color: tuple[int, int, int] | None


def read_table() -> list[Case]:
    lines = []
    for text in make.TABLE.read_text(encoding="utf-8").splitlines():
        if text.startswith("#"):
            continue
        name, reason, size, color, _ = text.split("\t")
        width, height = (int(side) for side in size.split("x")) if size != "-" else (0, 0)
        rgb = None if color == "-" else tuple(bytes.fromhex(color))
        lines.append(Case(name, None if reason == "-" else reason, (width, height) if width else None, rgb))
    return lines


CASES = read_table()


def body(name: str) -> bytes:
    return (make.FILES / name).read_bytes()


def test_the_table_lists_all_files():
    assert sorted(case.name for case in CASES) == sorted(path.name for path in make.FILES.iterdir())
    assert len(CASES) >= 60
    assert sum(path.stat().st_size for path in make.FILES.iterdir()) < 1_500_000


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_file_decodes_as_listed(case):
    if case.reason is not None:
        with pytest.raises(Failure) as failure:
            decode(body(case.name), CONFIG)
        assert failure.value.message.startswith(case.reason)
        return
    picture, jpeg = decode(body(case.name), CONFIG)
    assert (picture.width, picture.height) == case.size
    with Image.open(io.BytesIO(jpeg)) as shown:
        assert (shown.format, shown.mode, shown.size) == ("JPEG", "RGB", case.size)
        assert not {"icc_profile", "exif", "comment"} & shown.info.keys()
        found = shown.getpixel((case.size[0] // 4, case.size[1] // 4))
    if case.color is not None:
        assert np.abs(np.subtract(found, case.color)).max() <= TOLERANCE, found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_truncated_or_corrupt_files_fail_cleanly(case):
    whole = body(case.name)
    rng = np.random.default_rng(len(whole))
    cuts = [whole[: len(whole) * part // 16] for part in range(1, 16)]
    flips = []
    for _ in range(8 if whole else 0):
        bad = bytearray(whole)
        for position in rng.integers(0, len(bad), max(1, len(bad) // 500)):
            bad[position] = rng.integers(0, 256)
        flips.append(bytes(bad))
    for data in (*cuts, *flips):
        with suppress(Failure):
            decode(data, CONFIG)


def test_the_files_match_their_generators():
    """Only hand-written files are compared, because encoder versions may differ."""
    generated = {file.name: file for file in (*make.jpegs(), *make.pngs(), *make.others(), *make.disguises())}
    assert generated.keys() == {case.name for case in CASES}
    for name in ("page.jpg", "rgb-16.png", "top-down.bmp", "small-frame.gif", "huge.bmp", "gray-16-key.png"):
        assert generated[name].body == Path(make.FILES / name).read_bytes()
