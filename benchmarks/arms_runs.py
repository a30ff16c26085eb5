"""The runs of `benchmarks.arms`: miniature webs, the stages that prepare them, and the trainings of each part."""

from __future__ import annotations

import datetime as dt
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vecap_tasks.config import Config, load_config
from vecap_tasks.core.open_version import open_version
from vecap_tasks.core.stage import Stage, load_stage
from vecap_tasks.core.store import Store
from vecap_tasks.demo.curated import write_curated
from vecap_tasks.demo.evalset import EVALUATION_IMAGES, write_evalset
from vecap_tasks.demo.web import generate_day
from vecap_tasks.evaluate.results import Results, read_results

REPOSITORY = Path(__file__).resolve().parent.parent
ARMS = ("alttext", "alttext_rewritten", "vec", "vecap", "mixed")
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # of AltText
LENGTHS = (4, 8, 12, 16, 24)  # tokens of a caption
_DEMO = REPOSITORY / "configs" / "demo.yaml"
_DAY = dt.date(2026, 1, 1)
_CURATED_SHARE = 0.25
# A CLIP model with random weights, about as large as the demo's towers together.
_SCRATCH = (
    "train.model.vision_init_from=null", "train.model.vision_locked=false", "train.model.image_size=64",
    "train.model.patch_size=16", "train.model.vision_width=96", "train.model.vision_layers=3",
    "train.model.vision_heads=4", "train.model.text_width=96", "train.model.text_layers=2", "train.crop_scale=0.6",
    "train.learning_rate=0.0015", "train.warmup_steps=50",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Training:
    """One call of `vecap train`: its settings, and the label of each arm in the report."""

    settings: tuple[str, ...]
    labels: Mapping[str, str]  # arm -> label
    curated_only: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of one training: number of images in the crawl, samples of its version, and results of its arms."""

    training: Training
    images: int
    samples: int
    results: Results


def trainings(part: str) -> list[Training]:
    """Return the trainings of a part of the benchmark."""
    if part in ("locked", "scratch"):
        arms = (f"train.arms={json.dumps(ARMS)}",)
        return [Training((*arms, *(_SCRATCH if part == "scratch" else ())), {arm: arm for arm in ARMS})]
    if part == "shares":
        texts = {f"p{round(100 * share):03d}": {"alttext": share, "vecap": 1 - share} for share in SHARES}
        settings = (f"train.texts={json.dumps(texts)}", f"train.arms={json.dumps(list(texts))}")
        return [Training(settings, {arm: f"{weights['alttext']:.0%}" for arm, weights in texts.items()})]
    if part == "lengths":
        return [
            Training(
                (
                    'train.arms=["vecap"]',
                    "train.sub_captions="
                    + json.dumps({"kind": "tokens", "tokens": tokens, "probability": 1, "texts": ["vecap"]}),
                ),
                {"vecap": f"{tokens} tokens"},
            )
            for tokens in LENGTHS
        ]
    day = _DAY.isoformat()
    sources = [
        {"kind": "version", "version": day, "arm": "vecap"},
        {"kind": "version", "dataset": "curated", "version": day, "arm": "alttext"},
    ]
    both = json.dumps({"name": "both", "sources": sources})
    return [
        Training(('train.arms=["alttext"]',), {"alttext": "curated"}, curated_only=True),
        Training(('train.arms=["vecap"]',), {"vecap": "VeCap"}),
        Training(('train.arms=["vecap"]', f"train.mixture={both}"), {"vecap": "both"}),
    ]


def prepare(home: Path, images: int) -> None:
    """Run the stages up to `assemble` on a miniature web of *images* images and on its curated part."""
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "web" / "complete").exists():
        generate_day(home / "web", _DAY, 0, images)
        write_evalset(home / "web" / "evaluation", 0, EVALUATION_IMAGES)
        write_curated(home / "web" / "curated", 0, round(_CURATED_SHARE * images))
        (home / "web" / "complete").touch()
    with _served(home / "web") as port, _home(home, port):
        for settings in (_crawl_settings(), _curated_settings(home)):
            for name in ("crawl", "quality", "rewrite", "assemble"):
                _vecap(name, settings)


def run(home: Path, images: int, training: Training, seeds: int, steps: int) -> Outcome:
    """Train and evaluate for about *steps* steps, at every size and for every source alike."""
    base = _curated_settings(home) if training.curated_only else _crawl_settings()
    with _home(home, 0):
        settings = [*base, *training.settings, f"train.seeds={list(range(seeds))}"]
        config = load_config(_DEMO, settings)
        assert config.train is not None
        samples = _samples(config)
        if config.train.mixture is not None:
            samples += _samples(load_config(_DEMO, _curated_settings(home)))
        # Smaller sets take more epochs.
        settings.append(f"train.epochs={max(1, round(steps * config.train.batch_size / samples))}")
        for name in ("train", "evaluate"):
            _vecap(name, settings)
        return Outcome(training, images, samples, _results(load_config(_DEMO, settings)))


def _crawl_settings() -> list[str]:
    return ["rewrite.alttext_prompt=rewrite"]


def _curated_settings(home: Path) -> list[str]:
    source = {"kind": "folder", "path": str(home / "web" / "curated"), "captions": "captions.csv"}
    return ["dataset=curated", f"crawl.source={json.dumps(source)}", "rewrite.alttext_prompt=rewrite"]


@contextmanager
def _home(home: Path, port: int) -> Iterator[None]:
    """Keep all files of the stages in *home*."""
    names = ("VECAP_HOME", "VECAP_MLFLOW_URI", "VECAP_DASK_ADDRESS", "VECAP_WEB_PORT", "VECAP_ROOT")
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    os.environ["VECAP_HOME"] = str(home)
    os.environ["VECAP_WEB_PORT"] = str(port)
    try:
        yield
    finally:
        for name in names:
            os.environ.pop(name, None)
        os.environ.update(before)


def _vecap(stage: str, settings: Sequence[str]) -> None:
    overrides = [word for setting in settings for word in ("--set", setting)]
    arguments = ["--config", str(_DEMO), "--version", _DAY.isoformat(), *overrides]
    subprocess.run([sys.executable, "-m", "vecap_tasks.cli", stage, *arguments], check=True)


@contextmanager
def _served(web: Path) -> Iterator[int]:
    """Serve *web* on a free port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vecap_tasks.demo.serve", "--out", str(web), "--port", str(port)]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield port
    finally:
        server.terminate()
        server.wait()


def _samples(config: Config) -> int:
    return _train_stage(config).upstream_manifest("assemble").counters["samples"]


def _results(config: Config) -> Results:
    version = open_version(config, Store(config.resolve(config.root)), _DAY.isoformat())
    evaluate = load_stage("evaluate", config, version)
    manifest = evaluate.manifest()
    assert manifest is not None
    return read_results(evaluate.store, manifest)


def _train_stage(config: Config) -> Stage:
    version = open_version(config, Store(config.resolve(config.root)), _DAY.isoformat())
    return load_stage("train", config, version)
