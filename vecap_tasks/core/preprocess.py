"""CLIP image preprocessing for training and evaluation, in two variants:

`default`  CLIP's: resize the shorter side with PIL's bicubic filter, center crop.
`veclip`   VeCLIP's released models': resize the shorter side with bilinear interpolation without antialiasing (four
           source pixels per output pixel), center crop.

Both normalize with OpenAI's mean and standard deviation, or with those of a pretrained image tower.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vecap_tasks.config import PreprocessWay
from vecap_tasks.core.models import PROCESSOR_FILES

if TYPE_CHECKING:
    from transformers import CLIPImageProcessorPil

# transformers has no setting for "without antialiasing", so the exported configuration has this extra key.
_KEY = "vecap_preprocess"


Rgb = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Statistics:
    """Mean and standard deviation per channel with which images are normalized; pixels are 0 to 1."""

    # OpenAI's, from CLIP (Radford et al., 2021)
    mean: Rgb = (0.48145466, 0.4578275, 0.40821073)
    deviation: Rgb = (0.26862954, 0.26130258, 0.27577711)


CLIP_STATISTICS = Statistics()


def read_statistics(folder: Path | None) -> Statistics:
    """Return the statistics of the image processor in a model's *folder*; OpenAI's without one."""
    for name in PROCESSOR_FILES if folder else ():
        file = Path(folder or "", name)
        try:
            body = json.loads(file.read_bytes())
        except FileNotFoundError:
            continue
        body = body.get("image_processor", body)
        if "image_mean" in body and "image_std" in body:
            return Statistics(tuple(body["image_mean"]), tuple(body["image_std"]))
    return CLIP_STATISTICS


def image_processor(
    size: int, way: PreprocessWay = "default", statistics: Statistics = CLIP_STATISTICS
) -> CLIPImageProcessorPil:
    """Return the transformers image processor of *way*, as exported with a model.

    For `veclip` its settings only say bilinear, and transformers antialiases; `preprocess_way` detects it on loading.
    """
    from transformers import CLIPImageProcessorPil

    settings: dict[str, Any] = {"size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}}
    if statistics != CLIP_STATISTICS:
        settings |= {"image_mean": list(statistics.mean), "image_std": list(statistics.deviation)}
    if way == "default":
        return CLIPImageProcessorPil(**settings)
    return CLIPImageProcessorPil(**settings, resample=Image.Resampling.BILINEAR, **{_KEY: way})


def preprocess_way(processor: CLIPImageProcessorPil) -> PreprocessWay:
    """Return the variant that the loaded *processor* was exported with; `default` if it has no such key."""
    return "veclip" if getattr(processor, _KEY, "default") == "veclip" else "default"


def shrink(image: Image.Image, size: int, way: PreprocessWay) -> NDArray[np.uint8]:
    """Return *image* resized and cropped, uint8 [size, size, 3].

    `default` has the same bytes as transformers' processor; `veclip` is rounded, by at most half a gray level.
    """
    if way == "veclip":
        return np.rint(_bilinear(image, size)).astype(np.uint8)
    image = image.convert("RGB")
    width, height = image.size
    short, long = min(width, height), max(width, height)
    longer = int(size * long / short)
    width, height = (size, longer) if width <= height else (longer, size)
    top, left = (height - size) // 2, (width - size) // 2
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, left + size, top + size)))


def veclip_values(images: Sequence[Image.Image], size: int) -> NDArray[np.float32]:
    """Return the input of a released VeCLIP model for *images*: float32 [n, 3, size, size], normalized, not rounded."""
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    pixels = np.stack([_bilinear(image, size) for image in images])
    mean, deviation = (np.array(values, np.float32) * 255 for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    return ((pixels - mean) / deviation).transpose(0, 3, 1, 2)


def _bilinear(image: Image.Image, size: int) -> NDArray[np.float32]:
    """Return float32 [size, size, 3] in 0..255, as TensorFlow 2 resizes with aspect ratio and no antialiasing."""
    pixels = np.asarray(image.convert("RGB"))
    height, width = pixels.shape[:2]
    scale = np.float32(size) / np.float32(min(height, width))
    rows = _taps(height, int(np.rint(scale * np.float32(height))), size)
    columns = _taps(width, int(np.rint(scale * np.float32(width))), size)
    above, below = (_interpolate(pixels[index], columns) for index in rows[:2])
    return above + (below - above) * rows[2][:, None, None]


_Taps = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]


def _taps(source: int, resized: int, size: int) -> _Taps:
    """Return the two *source* indices and the second's weight for the central *size* of *resized* positions."""
    first = (resized - size) // 2
    scale = np.float32(source) / np.float32(resized)
    at = (np.arange(first, first + size, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    low = np.floor(at)
    index = low.astype(np.int64)
    return index.clip(0, source - 1), (index + 1).clip(0, source - 1), at - low


def _interpolate(rows: NDArray[np.uint8], columns: _Taps) -> NDArray[np.float32]:
    left, right, weight = columns
    start = rows[:, left].astype(np.float32)
    return start + (rows[:, right].astype(np.float32) - start) * weight[:, None]
