"""Recall@1, 5 and 10 in both directions for 5,000 images and 25,000 captions: ours and CLIP_benchmark's.

    python -m benchmarks.retrieval [--json FILE] [--images N] [--rounds N] [--theirs PYTHON]

Theirs is the published `clip_benchmark.metrics.zeroshot_retrieval.evaluate`, with a model and tokenizer that return the
same features, in batches of 64 like its command. Each side runs in its own process: seconds are wall clock without
startup, imports and reading of features; memory is the peak of the process. The recalls of both sides must agree to
1e-6. Without `--theirs`, the package is installed without dependencies, so that both sides use the same torch.
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
_CAPTIONS = 5  # per image
_WIDTH = 512
_NOISE = 10.0  # norm of the noise added to an image's feature for its captions


@dataclass(frozen=True, slots=True)
class Run:
    """One side of a round: six recalls, seconds, and peak memory of its process in MiB."""

    figures: list[float]
    seconds: float
    memory: float


def write_features(images: int, file: Path) -> None:
    """Write float32 features of *images* and five captions each, similar to those of a trained model."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((images, _WIDTH), dtype=np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    noise = rng.standard_normal((images * _CAPTIONS, _WIDTH), dtype=np.float32) * np.float32(_NOISE / _WIDTH**0.5)
    texts = np.repeat(features, _CAPTIONS, axis=0) + noise
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    np.savez(file, images=features, texts=texts, owners=np.repeat(np.arange(images), _CAPTIONS))


def side(python: str, name: str, features: Path, path: Path | None) -> Run:
    """Run one side in a separate process with *path* first in its PYTHONPATH."""
    inherited = os.environ.get("PYTHONPATH", "")
    paths = [str(entry) for entry in (path, _HERE.parent, inherited) if entry]
    command = [python, str(_HERE / "retrieval_side.py"), name, str(features)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return Run(**json.loads(result.stdout.splitlines()[-1]))


def package() -> Path:
    """Return a folder with CLIP_benchmark only; torch and tqdm are ours."""
    home = Path(os.environ.get("VECAP_HOME") or _HERE.parent / ".vecap").resolve()
    folder = home / "benchmarks" / _CLIP_BENCHMARK.replace("==", "-")
    if not (folder / "complete").exists():
        uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}") or "uv"
        command = [uv, "pip", "install", "--quiet", "--no-deps", "--python", sys.executable, "--target", str(folder)]
        subprocess.run([*command, _CLIP_BENCHMARK], check=True)
        (folder / "complete").touch()
    return folder


def run(images: int, rounds: int, theirs: str | None) -> list[Measure]:
    """Measure both sides. Raises SystemExit if their recalls differ."""
    folder = None if theirs else package()
    with tempfile.TemporaryDirectory(prefix="vecap-retrieval-") as work:
        features = Path(work) / "features.npz"
        write_features(images, features)
        our_runs, their_runs = alternate(
            rounds,
            lambda: side(sys.executable, "ours", features, None),
            lambda: side(theirs or sys.executable, "theirs", features, folder),
        )
    difference = max(abs(a - b) for a, b in zip(our_runs[0].figures, their_runs[0].figures, strict=True))
    if difference > 1e-6:
        raise SystemExit(f"the recalls differ by {difference}: {our_runs[0].figures} and {their_runs[0].figures}")
    recall = "/".join(f"{100 * value:.2f}" for value in our_runs[0].figures)
    conditions = f"{images} images, {images * _CAPTIONS} captions; both {recall}; {rounds} rounds, {machine()}"
    seconds = [median(item.seconds for item in runs) for runs in (our_runs, their_runs)]
    memory = [median(item.memory for item in runs) for runs in (our_runs, their_runs)]
    return [
        Measure("retrieval", "s", *seconds, conditions=conditions),
        Measure("retrieval, peak memory", "MiB", *memory, conditions=conditions),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the measures to this file")
    parser.add_argument(
        "--images", type=int, default=5000, help="images, with five captions each (default %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default %(default)s)")
    parser.add_argument("--theirs", metavar="PYTHON", help="a Python that can import clip_benchmark and torch")
    arguments = parser.parse_args()
    report(run(arguments.images, arguments.rounds, arguments.theirs), arguments.json)


if __name__ == "__main__":
    main()
