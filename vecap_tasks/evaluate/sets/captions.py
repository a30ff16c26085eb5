"""Captioned evaluation sets: token files, tables, and COCO and Flickr with the Karpathy splits."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vecap_tasks.config import CaptionTable, KarpathySet, TokenSet
from vecap_tasks.core.json_reader import JsonError, JsonReader
from vecap_tasks.errors import PermanentError
from vecap_tasks.evaluate.sets.types import RetrievalSet, find_images, group_captions

_TOKEN = re.compile(r"(?P<image>[^#\t]+)#\d+\t(?P<caption>.*\S)\s*")


def read_text(file: Path) -> str:
    """Return the whole of a UTF-8 file, without a byte order mark. Raises VecapError naming it."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise PermanentError(f"{file} is not UTF-8 text; save it as UTF-8") from error
    except OSError as error:
        raise PermanentError(f"{file} cannot be read: {error.strerror}; correct its path") from error


def read_lines(file: Path) -> list[str]:
    """Return the lines that are not empty, stripped. Raises VecapError where there are none."""
    lines = [line.strip() for line in read_text(file).splitlines() if line.strip()]
    if not lines:
        raise PermanentError(f"{file} is empty; write one a line")
    return lines


def read_columns(
    file: Path, first: str, second: str, *, separator: str = ",", quotes: bool = True
) -> list[tuple[str, str]]:
    """Return two columns of a table by their names, row by row.

    Without *quotes* quotation marks are text, and the last column goes on to the end of the line, separators and all.
    Raises VecapError for columns that the header has not, for a row without one of the two or with a field too many,
    and for a table without rows.
    """
    lines = read_text(file).splitlines(keepends=True)
    if quotes:
        table = list(csv.reader(lines, delimiter=separator))
    else:
        columns = lines[0].count(separator) if lines else 0
        table = [line.rstrip("\r\n").split(separator, columns) for line in lines]
    header = table[0] if table else []
    if first not in header or second not in header:
        raise PermanentError(f"{file} has no columns {first} and {second}; its first line must name them")
    places = header.index(first), header.index(second)
    rows = []
    for number, row in enumerate(table[1:], start=2):
        if not row or row == [""]:
            continue
        if len(row) > len(header):
            raise PermanentError(
                f"{file}: row {number} has {len(row)} fields, the header {len(header)}; quote what holds the "
                "separator, or set `quotes: false`"
            )
        one, other = (row[place].strip() if place < len(row) else "" for place in places)
        if not one or not other:
            raise PermanentError(f"{file}: row {number} has no {first} or no {second}; fill it or take it out")
        rows.append((one, other))
    if not rows:
        raise PermanentError(f"{file} has no rows; make the evaluation set again")
    return rows


def read_tokens(source: TokenSet, path: Path, images: Path, split: Path | None) -> RetrievalSet:
    """Read Flickr's file of captions, or of it what the file *split* lists.

    Raises VecapError for a line of another form, for a listed image without a caption, and for images that are missing.
    """
    rows = []
    for number, line in enumerate(read_lines(path), start=1):
        found = _TOKEN.fullmatch(line)
        if found is None:
            raise PermanentError(f"{path}: line {number} is not an image, #, a number, a tab and a caption; correct it")
        rows.append((found["image"], found["caption"]))
    if split is not None:
        wanted = read_lines(split)
        without = set(wanted) - {image for image, _ in rows}
        if without:
            raise PermanentError(
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
    return RetrievalSet(name, find_images(names, images, f"{name} of {path}"), tuple(captions), tuple(owners))


def read_karpathy(source: KarpathySet, path: Path, images: Path) -> RetrievalSet:
    """Read the split that *source* names, image by image: the file of COCO is never in memory as a whole.

    Raises VecapError for a file of another form, for a split that it has not, and for images that are missing.
    """
    wanted = ("train", "restval") if source.split == "train" else (source.split,)
    splits: Counter[str] = Counter()
    rows: list[tuple[str, str]] = []
    for split, name, sentences in _images(path):
        splits[split] += 1
        if split in wanted:
            rows += [(name, sentence) for sentence in sentences]
    if not rows:
        there = ", ".join(f"{name} ({count:,})" for name, count in sorted(splits.items())) or "none"
        raise PermanentError(f"{path} has no images of the split {source.split}; its splits are {there}")
    names, captions, owners = group_captions(rows, source.captions_per_image)
    pictures = find_images(names, images, f"{source.name}, split {source.split} of {path}")
    return RetrievalSet(source.name, pictures, tuple(captions), tuple(owners))


def _images(path: Path) -> Iterator[tuple[str, str, list[str]]]:
    """Give split, path and sentences of every image in the file."""
    try:
        with path.open(encoding="utf-8") as text:
            reader = JsonReader(text)
            for name in reader.names():
                if name == "images":
                    for image in reader.items():
                        yield image["split"], _place(image), [str(sentence["raw"]) for sentence in image["sentences"]]
                else:
                    reader.skip()
            reader.end()
    except (JsonError, KeyError, TypeError, UnicodeDecodeError) as error:
        reason = f"there is no {error} in an image" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise PermanentError(
            f"{path} is not of Karpathy's form ({reason}); give dataset_coco.json, dataset_flickr30k.json or the like"
        ) from error
    except OSError as error:
        raise PermanentError(f"{path} cannot be read: {error.strerror}; correct `path`") from error


def _place(image: dict[str, Any]) -> str:
    """Return the image's path: COCO's lie in the folder of their year, Flickr's in none."""
    folder = image.get("filepath")
    return f"{folder}/{image['filename']}" if folder else str(image["filename"])
