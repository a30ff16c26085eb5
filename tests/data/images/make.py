"""Makes the images in `files` and the table of what must come of them: `python -m tests.data.images.make`.

They are kept in the repository, so that a test reads the same bytes whatever encoders are installed. What must come
of each is said where it is made, from how it is made, and not by the decoder.
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
