"""Captions in text files: Flickr's files of tokens, and tables."""

from __future__ import annotations

import re
from pathlib import Path

from vecap_tasks.config import CaptionTable, TokenSet
from vecap_tasks.errors import VecapError
from vecap_tasks.evaluate.sets.kinds import RetrievalSet, group_captions
from vecap_tasks.evaluate.sets.picture import find_pictures
from vecap_tasks.evaluate.sets.text import read_columns, read_lines

_TOKEN = re.compile(r"(?P<image>[^#\t]+)#\d+\t(?P<caption>.*\S)\s*")


def read_tokens(source: TokenSet, path: Path, images: Path, split: Path | None) -> RetrievalSet:
    """Read Flickr's file of captions, or of it what the file *split* lists.

    Raises VecapError for a line of another form, for a listed image without a caption, and for images that are missing.
    """
    rows = []
    for number, line in enumerate(read_lines(path), start=1):
        found = _TOKEN.fullmatch(line)
        if found is None:
            raise VecapError(f"{path}: line {number} is not an image, #, a number, a tab and a caption; correct it")
        rows.append((found["image"], found["caption"]))
    if split is not None:
        wanted = read_lines(split)
        without = set(wanted) - {image for image, _ in rows}
        if without:
            raise VecapError(
                f"{split} lists {len(without):,} images that have no caption in {path}, such as {min(without)}; "
                "give the two files of one set"
            )
        kept = set(wanted)
        rows = [row for row in rows if row[0] in kept]
    return _retrieval(source.name, rows, source.captions_per_image, images, path)


def read_caption_table(source: CaptionTable, path: Path, images: Path) -> RetrievalSet:
    """Read a table of captions. Raises VecapError as `read_columns` does, and for images that are missing."""
    columns = source.image_column, source.caption_column
    rows = read_columns(path, *columns, separator=source.separator, quotes=source.quotes)
    return _retrieval(source.name, rows, source.captions_per_image, images, path)


def _retrieval(name: str, rows: list[tuple[str, str]], most: int | None, images: Path, path: Path) -> RetrievalSet:
    names, captions, owners = group_captions(rows, most)
    return RetrievalSet(name, find_pictures(names, images, f"{name} of {path}"), tuple(captions), tuple(owners))
