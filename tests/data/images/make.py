"""Generates the images in `files` and the table of expected results: `python -m tests.data.images.make`.

The images are in the repository, so that tests read the same bytes with any encoder version. The expected results
follow from how an image is generated, not from the decoder.
"""

from __future__ import annotations

from pathlib import Path

from tests.data.images.disguise import disguises
from tests.data.images.jpeg import jpegs
from tests.data.images.other import others
from tests.data.images.picture import Made
from tests.data.images.png import pngs

HERE = Path(__file__).parent
FILES = HERE / "files"
TABLE = HERE / "images.tsv"


def main() -> None:
    made = sorted((*jpegs(), *pngs(), *others(), *disguises()), key=lambda one: one.name)
    FILES.mkdir(exist_ok=True)
    for old in FILES.iterdir():
        old.unlink()
    for one in made:
        (FILES / one.name).write_bytes(one.body)
    lines = ["# file\treason\tsize\tcolor\twhat it is", *(_line(one) for one in made)]
    TABLE.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _line(one: Made) -> str:
    if one.reason is not None:
        return "\t".join((one.name, one.reason, "-", "-", one.says))
    color = bytes(one.color).hex() if one.color else "-"
    return "\t".join((one.name, "-", f"{one.size[0]}x{one.size[1]}", color, one.says))


if __name__ == "__main__":
    main()
