"""Recall@1, 5 and 10 both ways of 5,000 images and 25,000 captions from their features: ours, and CLIP_benchmark's.

    python -m benchmarks.retrieval [--json FILE] [--images N] [--rounds N] [--theirs PYTHON]

Theirs is `clip_benchmark.metrics.zeroshot_retrieval.evaluate` as it is published, with a model and a tokenizer that
hand out the same features, in batches of 64 as its command has them. Each side runs in a process of its own: seconds
are wall clock without the start, imports and reading the features; memory is the peak of the whole process. The figures
of both are compared, and have to be equal to 1e-6. Without `--theirs` the package alone is installed beside ours, so
that both sides have the same torch.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.report import Measure, alternate, machine, median, report

_HERE = Path(__file__).resolve().parent
_CLIP_BENCHMARK = "clip-benchmark==1.6.2"
_CAPTIONS = 5  # of an image
_WIDTH = 512
_NOISE = 10.0  # length of what is added to the image's feature to make a caption's


@dataclass(frozen=True, slots=True)
class Run:
    """One side of a round: the six figures, seconds, and the peak memory of its process in MiB."""

    figures: list[float]
    seconds: float
    memory: float


def write_features(images: int, file: Path) -> None:
    """Write float32 features of *images* and five captions each, as a model of some skill would give them."""
    rng = np.random.default_rng(0)
    made = rng.standard_normal((images, _WIDTH), dtype=np.float32)
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    noise = rng.standard_normal((images * _CAPTIONS, _WIDTH), dtype=np.float32) * np.float32(_NOISE / _WIDTH**0.5)
    texts = np.repeat(made, _CAPTIONS, axis=0) + noise
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    np.savez(file, images=made, texts=texts, owners=np.repeat(np.arange(images), _CAPTIONS))


def side(python: str, way: str, features: Path, path: Path | None) -> Run:
    """Run one side in a process of its own; *path* is put before what it imports from."""
    inherited = os.environ.get("PYTHONPATH", "")
    places = [str(place) for place in (path, _HERE.parent, inherited) if place]
    command = [python, str(_HERE / "retrieval_side.py"), way, str(features)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places)}
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return Run(**json.loads(answer.stdout.splitlines()[-1]))


def package() -> Path:
    """Return a folder with CLIP_benchmark and nothing that it needs: torch and tqdm are ours."""
    home = Path(os.environ.get("VECAP_HOME") or _HERE.parent / ".vecap").resolve()
    place = home / "benchmarks" / _CLIP_BENCHMARK.replace("==", "-")
    if not (place / "complete").exists():
        uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}") or "uv"
        command = [uv, "pip", "install", "--quiet", "--no-deps", "--python", sys.executable, "--target", str(place)]
        subprocess.run([*command, _CLIP_BENCHMARK], check=True)
        (place / "complete").touch()
    return place


def run(images: int, rounds: int, theirs: str | None) -> list[Measure]:
    """Measure both sides. Raises SystemExit where their figures differ."""
    place = None if theirs else package()
    with tempfile.TemporaryDirectory(prefix="vecap-retrieval-") as work:
        features = Path(work) / "features.npz"
        write_features(images, features)
        mine, others = alternate(
            rounds,
            lambda: side(sys.executable, "ours", features, None),
            lambda: side(theirs or sys.executable, "theirs", features, place),
        )
    furthest = max(abs(a - b) for a, b in zip(mine[0].figures, others[0].figures, strict=True))
    if furthest > 1e-6:
        raise SystemExit(f"the figures differ by {furthest}: {mine[0].figures} and {others[0].figures}")
    recall = "/".join(f"{100 * value:.2f}" for value in mine[0].figures)
    said = f"{images} images, {images * _CAPTIONS} captions; both {recall}; {rounds} rounds, {machine()}"
    seconds = [median(one.seconds for one in runs) for runs in (mine, others)]
    memory = [median(one.memory for one in runs) for runs in (mine, others)]
    return [
        Measure("retrieval", "s", *seconds, conditions=said),
        Measure("retrieval, peak memory", "MiB", *memory, conditions=said),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the measures to this file")
    parser.add_argument(
        "--images", type=int, default=5000, help="images, with five captions each (default %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the pair (default %(default)s)")
    parser.add_argument("--theirs", metavar="PYTHON", help="a Python that can import clip_benchmark and torch")
    given = parser.parse_args()
    report(run(given.images, given.rounds, given.theirs), given.json)


if __name__ == "__main__":
    main()
