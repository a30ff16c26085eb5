"""COCO and Flickr with the splits of Karpathy and Fei-Fei (2015): one JSON file of images, sentences and splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vecap_tasks.config import KarpathySet
from vecap_tasks.errors import VecapError
from vecap_tasks.evaluate.sets.kinds import RetrievalSet, group_captions
from vecap_tasks.evaluate.sets.picture import find_pictures
from vecap_tasks.json_values import JsonError, JsonReader


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
        raise VecapError(f"{path} has no images of the split {source.split}; its splits are {there}")
    names, captions, owners = group_captions(rows, source.captions_per_image)
    pictures = find_pictures(names, images, f"{source.name}, split {source.split} of {path}")
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
        raise VecapError(
            f"{path} is not of Karpathy's form ({reason}); give dataset_coco.json, dataset_flickr30k.json or the like"
        ) from error
    except OSError as error:
        raise VecapError(f"{path} cannot be read: {error.strerror}; correct `path`") from error


def _place(image: dict[str, Any]) -> str:
    """Return the image's path: COCO's lie in the folder of their year, Flickr's in none."""
    folder = image.get("filepath")
    return f"{folder}/{image['filename']}" if folder else str(image["filename"])
