"""The curated part of the miniature web: images whose AltText describes them, as a stand-in for a curated dataset.

    images/<number>.jpg    images, 256 pixels per side
    captions.csv           header `file,caption`; the AltText of each image

It is a source of the kind `folder`. Datasets such as DFN (Fang et al., 2023) are filtered from a crawl in the same way:
they keep the pairs whose AltText fits the image, and do not change the text.
"""

import csv
import io
import random
from pathlib import Path

from vecap_tasks.demo.alttext import write_alttext
from vecap_tasks.demo.pictures import Encoding, render
from vecap_tasks.demo.scene import sample_scene

_ENCODING = Encoding("JPEG", 256, 95)


def write_curated(out: Path, seed: int, images: int) -> None:
    """Write *images* images with descriptive AltText to *out*; the same arguments give the same bytes.

    The scenes have the split of the crawl. Raises ValueError for fewer than one image.
    """
    if images < 1:
        raise ValueError(f"A curated part needs at least one image, not {images}")
    rng = random.Random(f"curated {seed}")
    (out / "images").mkdir(parents=True, exist_ok=True)
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(("file", "caption"))
    for number in range(images):
        scene = sample_scene(rng, "crawl")
        name = f"images/{number:05d}.jpg"
        (out / name).write_bytes(render(scene, _ENCODING))
        rows.writerow((name, write_alttext(scene, rng, category="good").text))
    (out / "captions.csv").write_text(table.getvalue(), encoding="utf-8", newline="")
