"""Image decoding compared with img2dataset, which decodes with OpenCV (area filter), both to JPEG of quality 95.

    python -m benchmarks.decode [--json FILE] [--rounds N] [--folder FOLDER]

Times are CPU milliseconds of one thread per image, resized to a short side of 256. Ours includes steps that
img2dataset lacks: checks, orientation, color profile, EXIF and perceptual hash. Fidelity is the PSNR of the pixels
before encoding, compared with a Lanczos resize of the full image. --folder adds your own JPEGs.
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
from vecap_tasks.crawl.image.decode import decode, phash
from vecap_tasks.crawl.image.resize import decode_scaled

T = TypeVar("T")

_CONFIG = ImageConfig()
_FINE = ImageConfig(scaling="fine")
_SIZES = {(640, 480): 16, (1024, 768): 12, (1600, 1200): 6, (3000, 2000): 3}  # pixels -> number of photographs
_REFERENCE_FILTER = Image.Resampling.LANCZOS


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decode", description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the measures to this file")
    parser.add_argument("--rounds", type=int, default=7, help="alternating rounds per side (default: 7)")
    parser.add_argument("--folder", type=Path, help="folder of additional JPEGs to measure")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    sets = {
        f"{width}x{height}": [as_jpeg(photograph(n, (width, height))) for n in range(count)]
        for (width, height), count in _SIZES.items()
    }
    if arguments.folder:
        sets[arguments.folder.name] = [path.read_bytes() for path in sorted(arguments.folder.rglob("*.jp*g"))]
    measures = [measure for name, bodies in sets.items() for measure in _measure(name, bodies, arguments.rounds)]
    report(measures, arguments.json)


def _measure(name: str, bodies: Sequence[bytes], rounds: int) -> list[Measure]:
    size = sum(map(len, bodies)) // len(bodies) // 1000
    conditions = f"{len(bodies)} JPEGs of {size} KB, medians of {rounds}; {machine()}"
    ours, theirs = alternate(
        rounds, lambda: _each(lambda body: decode(body, _CONFIG), bodies), lambda: _each(_opencv, bodies)
    )
    fine = [_each(lambda body: decode(body, _FINE), bodies) for _ in range(rounds)]
    small = [_small(body, _CONFIG) for body in bodies]
    hashed = [_each(phash, small) for _ in range(rounds)]
    reference = [_lanczos(body) for body in bodies]
    fidelity = [psnr(image, full) for image, full in zip(small, reference, strict=True)]
    fine_fidelity = [psnr(_small(body, _FINE), full) for body, full in zip(bodies, reference, strict=True)]
    their_fidelity = [psnr(_area(body), full) for body, full in zip(bodies, reference, strict=True)]
    return [
        Measure(f"decode {name}", "ms/image", median(ours), median(theirs), None, conditions),
        Measure(
            f"fidelity {name}", "dB", statistics.median(fidelity), statistics.median(their_fidelity), None, "median"
        ),
        Measure(f"minimum fidelity {name}", "dB", min(fidelity), min(their_fidelity), None, "minimum"),
        Measure(f"decode, scaling: fine {name}", "ms/image", median(fine), median(theirs), None, conditions),
        Measure(
            f"fidelity, fine {name}",
            "dB",
            statistics.median(fine_fidelity),
            statistics.median(their_fidelity),
            None,
            "median",
        ),
        Measure(f"minimum fidelity, fine {name}", "dB", min(fine_fidelity), min(their_fidelity), None, "minimum"),
        Measure(f"phash {name}", "ms/image", median(hashed), None, None, "part of decode"),
    ]


def _each(work: Callable[[T], object], items: Sequence[T]) -> float:
    """Return the mean CPU time of *work* per item, in milliseconds."""
    start = time.process_time()
    for item in items:
        work(item)
    return (time.process_time() - start) / len(items) * 1000


def _opencv(body: bytes) -> bytes:
    """Process *body* like img2dataset with resize_mode keep_ratio and resize_only_if_bigger."""
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
        return np.asarray(image.convert("RGB").resize(_target(*image.size), _REFERENCE_FILTER))


def _target(width: int, height: int) -> tuple[int, int]:
    scale = min(1.0, _CONFIG.size / min(width, height))
    return round(width * scale), round(height * scale)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio of two 8-bit images in dB; 99 for identical images."""
    error = float(((a.astype(np.float64) - b) ** 2).mean())
    return 99.0 if error == 0 else 10 * float(np.log10(255**2 / error))


if __name__ == "__main__":
    main()
