"""Our decoding of an image and img2dataset's, which decodes all of it with OpenCV: area filter, JPEG of quality 95.

    python -m benchmarks.decode [--json FILE] [--rounds N] [--folder FOLDER]

Milliseconds are CPU time of one thread for one image, to a short side of 256. Ours takes in what the other does not
do: checks, orientation, color profile, EXIF and perceptual hash. What is kept is the PSNR of the pixels before they
are coded, against the whole image through Lanczos' filter. --folder adds JPEGs of your own.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from PIL import Image

from benchmarks.photographs import as_jpeg, photograph
from benchmarks.report import Measure, alternate, machine, median, report
from vecap_tasks.config import ImageConfig
from vecap_tasks.crawl.image.decode import decode
from vecap_tasks.crawl.image.phash import phash
from vecap_tasks.crawl.image.resize import decode_scaled

T = TypeVar("T")

_CONFIG = ImageConfig()
_FINE = ImageConfig(scaling="fine")
_SIZES = {(640, 480): 16, (1024, 768): 12, (1600, 1200): 6, (3000, 2000): 3}  # pixels: how many photographs
_WHOLE = Image.Resampling.LANCZOS


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decode", description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the measures here, too")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each side, in turn (default: 7)")
    parser.add_argument("--folder", type=Path, help="JPEGs to measure besides the photographs that are made here")
    given = parser.parse_args()
    cv2.setNumThreads(1)
    sets = {
        f"{width}x{height}": [as_jpeg(photograph(n, (width, height))) for n in range(count)]
        for (width, height), count in _SIZES.items()
    }
    if given.folder:
        sets[given.folder.name] = [path.read_bytes() for path in sorted(given.folder.rglob("*.jp*g"))]
    measures = [measure for name, bodies in sets.items() for measure in _measure(name, bodies, given.rounds)]
    report(measures, given.json)


def _measure(name: str, bodies: Sequence[bytes], rounds: int) -> list[Measure]:
    size = sum(map(len, bodies)) // len(bodies) // 1000
    conditions = f"{len(bodies)} JPEGs of {size} KB, medians of {rounds}; {machine()}"
    ours, theirs = alternate(
        rounds, lambda: _each(lambda body: decode(body, _CONFIG), bodies), lambda: _each(_opencv, bodies)
    )
    fine = [_each(lambda body: decode(body, _FINE), bodies) for _ in range(rounds)]
    small = [_small(body, _CONFIG) for body in bodies]
    hashed = [_each(phash, small) for _ in range(rounds)]
    whole = [_lanczos(body) for body in bodies]
    kept = [psnr(one, other) for one, other in zip(small, whole, strict=True)]
    fine_kept = [psnr(_small(body, _FINE), other) for body, other in zip(bodies, whole, strict=True)]
    theirs_kept = [psnr(_area(body), other) for body, other in zip(bodies, whole, strict=True)]
    return [
        Measure(f"decode {name}", "ms/image", median(ours), median(theirs), None, conditions),
        Measure(f"kept {name}", "dB", statistics.median(kept), statistics.median(theirs_kept), None, "median"),
        Measure(f"kept at least {name}", "dB", min(kept), min(theirs_kept), None, "the worst"),
        Measure(f"decode, scaling: fine {name}", "ms/image", median(fine), median(theirs), None, conditions),
        Measure(
            f"kept, fine {name}", "dB", statistics.median(fine_kept), statistics.median(theirs_kept), None, "median"
        ),
        Measure(f"kept at least, fine {name}", "dB", min(fine_kept), min(theirs_kept), None, "the worst"),
        Measure(f"phash {name}", "ms/image", median(hashed), None, None, "within decode"),
    ]


def _each(work: Callable[[T], object], items: Sequence[T]) -> float:
    """Return the milliseconds of CPU time that *work* takes for one of *items*."""
    start = time.process_time()
    for item in items:
        work(item)
    return (time.process_time() - start) / len(items) * 1000


def _opencv(body: bytes) -> bytes:
    """Return what img2dataset makes of *body*, by its resize_mode keep_ratio, resize_only_if_bigger."""
    image = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_UNCHANGED)
    image = cv2.resize(image, _target(image.shape[1], image.shape[0]), interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _CONFIG.quality])[1].tobytes()


def _area(body: bytes) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR_RGB)
    return cv2.resize(image, _target(image.shape[1], image.shape[0]), interpolation=cv2.INTER_AREA)


def _small(body: bytes, config: ImageConfig) -> np.ndarray:
    with Image.open(io.BytesIO(body)) as image:
        return decode_scaled(image, body, config)


def _lanczos(body: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(body)) as image:
        return np.asarray(image.convert("RGB").resize(_target(*image.size), _WHOLE))


def _target(width: int, height: int) -> tuple[int, int]:
    scale = min(1.0, _CONFIG.size / min(width, height))
    return round(width * scale), round(height * scale)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio of two 8-bit pictures, dB; 99 where they are the same."""
    error = float(((one.astype(np.float64) - other) ** 2).mean())
    return 99.0 if error == 0 else 10 * float(np.log10(255**2 / error))


if __name__ == "__main__":
    main()
