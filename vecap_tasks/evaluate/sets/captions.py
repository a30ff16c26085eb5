"""Captioned evaluation sets: token files, tables, JSON Lines, text files, COCO and Flickr with Karpathy's splits."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vecap_tasks.config import CaptionFiles, CaptionLines, CaptionTable, KarpathySet, TokenSet
from vecap_tasks.core.files import wide_encoding
from vecap_tasks.core.json_reader import UNREADABLE, JsonError, JsonReader, parse_json
from vecap_tasks.errors import PermanentError
from vecap_tasks.evaluate.sets.types import IMAGE_SUFFIXES, RetrievalSet, find_images, group_captions

_SURROGATE = re.compile(r"[\ud800-\udfff]")
_MAX_FIELD = 1 << 24  # characters; Python's default is 131,072
_TOKEN = re.compile(r"(?P<image>[^#\t]+)#\d+\t(?P<caption>.*\S)\s*")

csv.field_size_limit(max(csv.field_size_limit(), _MAX_FIELD))  # of the process


def read_text(file: Path) -> str:
    """Return the content of a UTF-8 file, without byte order mark. Raises VecapError if it cannot be read."""
    try:
        data = file.read_bytes()
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        encoding = wide_encoding(data[:4])
        problem = f"encoded in {encoding}" if encoding else "not UTF-8 text"
        raise PermanentError(f"{file} is {problem}; save it as UTF-8") from error
    except OSError as error:
        raise PermanentError(f"{file} cannot be read: {error.strerror}; correct its path") from error


def split_lines(text: str) -> list[str]:
    """Return the lines of *text*, which end with a line feed, a carriage return, or both.

    `str.splitlines` also splits at characters that occur inside captions, such as U+2028 and U+0085.
    """
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def is_unicode(text: str) -> bool:
    """Return whether *text* has no lone surrogates, which JSON can escape and no file can store."""
    return _SURROGATE.search(text) is None


def read_lines(file: Path) -> list[str]:
    """Return the non-empty lines, stripped. Raises VecapError if there are none."""
    lines = [line.strip() for line in split_lines(read_text(file)) if line.strip()]
    if not lines:
        raise PermanentError(f"{file} is empty; add one entry per line")
    return lines


def read_columns(
    file: Path, first: str, second: str, *, separator: str = ",", quotes: bool = True
) -> list[tuple[str, str]]:
    """Return the values of two columns of a table, by row.

    Without *quotes*, quotation marks are text and the last column includes separators. Raises VecapError for a missing
    column, a row with an empty value or too many fields, and a table without rows.
    """
    text = read_text(file)
    if quotes:
        table = _read_csv(file, text, separator)
    else:
        lines = split_lines(text)
        columns = lines[0].count(separator)
        table = [line.split(separator, columns) for line in lines]
    header = [name.strip() for name in table[0]] if table else []
    if repeated := [name for name in (first, second) if header.count(name) > 1]:
        raise PermanentError(f"{file} has several columns {repeated[0]}; rename or delete all but one")
    if first not in header or second not in header:
        raise PermanentError(f"{file} lacks the columns {first} and {second}; add them to its first line")
    indices = header.index(first), header.index(second)
    rows = []
    for number, row in enumerate(table[1:], start=2):
        if not row or row == [""]:
            continue
        if len(row) > len(header):
            raise PermanentError(
                f"{file}: row {number} has {len(row)} fields, but the header has {len(header)}; quote values that "
                "contain the separator, or set `quotes: false`"
            )
        values = tuple(row[index].strip() if index < len(row) else "" for index in indices)
        if not all(values):
            raise PermanentError(f"{file}: row {number} has no {first} or no {second}; add it or delete the row")
        rows.append((values[0], values[1]))
    if not rows:
        raise PermanentError(f"{file} has no rows; recreate the evaluation set")
    return rows


def _read_csv(file: Path, text: str, separator: str) -> list[list[str]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        return list(reader)
    except csv.Error as error:
        raise PermanentError(f"{file} is not a valid table: line {reader.line_num}: {error}; correct it") from error


def read_tokens(source: TokenSet, path: Path, images: Path, split: Path | None) -> RetrievalSet:
    """Read a Flickr caption file; with *split*, only the images that it lists.

    Raises VecapError for a malformed line, for a listed image without a caption, and for missing images.
    """
    rows = []
    for number, line in enumerate(read_lines(path), start=1):
        match = _TOKEN.fullmatch(line)
        if match is None:
            raise PermanentError(f"{path}: line {number} does not have the form IMAGE#NUMBER<tab>CAPTION; correct it")
        rows.append((match["image"], match["caption"]))
    if split is not None:
        listed = set(read_lines(split))
        missing = listed - {image for image, _ in rows}
        if missing:
            raise PermanentError(
                f"{split} lists {len(missing):,} images without a caption in {path}, such as {min(missing)}; "
                "use the two files of one set"
            )
        rows = [row for row in rows if row[0] in listed]
    return _retrieval(source.name, rows, source.captions_per_image, images, path)


def read_caption_table(source: CaptionTable, path: Path, images: Path) -> RetrievalSet:
    """Read a table of captions. Raises VecapError as `read_columns` does, and for missing images."""
    columns = source.image_column, source.caption_column
    rows = read_columns(path, *columns, separator=source.separator, quotes=source.quotes)
    return _retrieval(source.name, rows, source.captions_per_image, images, path)


def read_caption_lines(source: CaptionLines, path: Path, images: Path) -> RetrievalSet:
    """Read a JSON Lines file. Raises VecapError for an invalid line, a line without a caption, and missing images."""
    rows = []
    for number, line in json_lines(path):
        if any(str(line.get(key)) != value for key, value in source.where.items()):
            continue
        name = line_image(path, number, line, source.image_key, source.image_suffix)
        found = line_value(line, source.caption_key)
        captions = found if isinstance(found, list) else [found]
        if not captions or not all(isinstance(c, str) and c.strip() and is_unicode(c) for c in captions):
            raise PermanentError(f"{path}: line {number} has no text {source.caption_key}; correct `caption_key`")
        rows += [(name, caption.strip()) for caption in captions]
    if not rows:
        raise PermanentError(f"{path} has no line with {source.where}; correct `where`")
    return _retrieval(source.name, rows, source.captions_per_image, images, path)


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number (from 1) and object of each line of a JSON Lines file. Raises VecapError if there is none."""
    lines = [(number, line) for number, line in enumerate(split_lines(read_text(path)), start=1) if line.strip()]
    if not lines:
        raise PermanentError(f"{path} is empty; add one JSON object per line")
    for number, line in lines:
        try:
            value = parse_json(line)
        except ValueError as error:
            raise PermanentError(f"{path}: line {number} is not valid JSON: {error}; correct it") from error
        if not isinstance(value, dict):
            raise PermanentError(f"{path}: line {number} is not a JSON object; write one object per line")
        yield number, value


def line_value(line: dict[str, Any], key: str) -> Any:
    """Return the value at *key*, where `.` leads into an object; None if there is none."""
    if key in line:
        return line[key]
    value: Any = line
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def line_text(path: Path, number: int, line: dict[str, Any], key: str) -> str:
    """Return the text or number at *key* of line *number*. Raises VecapError if there is none."""
    value = line_value(line, key)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip() or not is_unicode(value):
        known = ", ".join(list(line)[:20])
        raise PermanentError(f"{path}: line {number} has no text {key}; its keys are {known}")
    return value


def line_image(path: Path, number: int, line: dict[str, Any], key: str, suffix: str) -> str:
    """Return the image name at *key* of line *number*, with *suffix* if it has none."""
    name = line_text(path, number, line, key)
    return name if Path(name).suffix.lower() in IMAGE_SUFFIXES else name + suffix


def read_caption_files(source: CaptionFiles, captions: Path, images: Path) -> RetrievalSet:
    """Read the first line of a text file for each image.

    Raises VecapError for an image without a text, and for a folder without images.
    """
    if not images.is_dir():
        raise PermanentError(f"{source.name}: image folder {images} does not exist; correct `images`")
    names = sorted(file.name for file in images.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
    if not names:
        raise PermanentError(f"{source.name}: {images} has no images; correct `images`")
    rows = []
    for name in names:
        rows.append((name, read_lines(captions / f"{Path(name).stem}.txt")[0]))
    return _retrieval(source.name, rows, source.captions_per_image, images, captions)


def _retrieval(name: str, rows: list[tuple[str, str]], limit: int | None, images: Path, path: Path) -> RetrievalSet:
    names, captions, owners = group_captions(rows, limit)
    return RetrievalSet(name, find_images(names, images, f"{name} of {path}"), tuple(captions), tuple(owners))


def read_karpathy(source: KarpathySet, path: Path, images: Path) -> RetrievalSet:
    """Read one split. The JSON is parsed incrementally, so that COCO's large file is never completely in memory.

    Raises VecapError for another file format, an unknown split, and missing images.
    """
    selected = ("train", "restval") if source.split == "train" else (source.split,)
    splits: Counter[str] = Counter()
    rows: list[tuple[str, str]] = []
    for split, name, sentences in _images(path):
        splits[split] += 1
        if split in selected:
            rows += [(name, sentence) for sentence in sentences]
    if not rows:
        available = ", ".join(f"{name} ({count:,})" for name, count in sorted(splits.items())) or "none"
        raise PermanentError(f"{path} has no images of the split {source.split}; its splits are {available}")
    names, captions, owners = group_captions(rows, source.captions_per_image)
    files = find_images(names, images, f"{source.name}, split {source.split} of {path}")
    return RetrievalSet(source.name, files, tuple(captions), tuple(owners))


def _images(path: Path) -> Iterator[tuple[str, str, list[str]]]:
    """Yield the split, path and sentences of each image in the file."""
    try:
        with path.open(encoding="utf-8-sig") as text:
            reader = JsonReader(text)
            for name in reader.names():
                if name == "images":
                    for image in reader.items():
                        if image is UNREADABLE:
                            raise JsonError("an image is invalid JSON")
                        sentences = [_text(sentence, "raw") for sentence in image["sentences"]]
                        yield _text(image, "split"), _image_path(image), sentences
                else:
                    reader.skip()
            reader.end()
    except (JsonError, KeyError, TypeError, UnicodeDecodeError) as error:
        reason = f"an image lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise PermanentError(
            f"{path} is not a Karpathy split file ({reason}); use a file such as dataset_coco.json"
        ) from error
    except OSError as error:
        raise PermanentError(f"{path} cannot be read: {error.strerror}; correct `path`") from error


def _image_path(image: dict[str, Any]) -> str:
    """Return the image's relative path. Only COCO entries have a folder."""
    name = _text(image, "filename")
    return f"{_text(image, 'filepath')}/{name}" if image.get("filepath") else name


def _text(values: dict[str, Any], key: str) -> str:
    """Return the text at *key*. Raises KeyError if it is missing, TypeError if it is not text."""
    text = values[key]
    if not isinstance(text, str) or not is_unicode(text):
        raise TypeError(f"{key} is not text")
    return text
