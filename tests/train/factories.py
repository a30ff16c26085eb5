"""Factories for a small published version and an evaluation set: drawn scenes, real tars and manifests, no models."""

from __future__ import annotations

import csv
import io
import json
import random
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pyarrow as pa

from tests.conftest import DEMO
from vecap_tasks.config import Config, load_config
from vecap_tasks.core.executor import run_shards
from vecap_tasks.core.manifest import FileEntry, Input, Manifest
from vecap_tasks.core.open_version import open_version
from vecap_tasks.core.schemas import SAMPLES
from vecap_tasks.core.stage import load_stage
from vecap_tasks.core.store import Store
from vecap_tasks.core.tables import write_rows
from vecap_tasks.core.tar import TarWriter
from vecap_tasks.core.version import Version
from vecap_tasks.demo.draw import draw
from vecap_tasks.demo.scene import KINDS, describe, sample_scene

SMALL = {
    "seeds": "[0]",
    "model.image_size": 32,
    "model.patch_size": 16,
    "model.vision_width": 32,
    "model.vision_layers": 1,
    "model.text_width": 32,
    "model.text_layers": 1,
    "model.projection": 16,
    "model.context": 24,
    "epochs": 2,
    "batch_size": 8,
    "warmup_steps": 2,
    "crop_scale": 0.7,
}


@dataclass(frozen=True)
class Texts:
    """The texts of a sample. None uses the description of the scene; `variants` is the number of extra VeCaps."""

    alttext: str | None = None
    vec: str | None = None
    vecap: str | None = None
    alttext_rewritten: str = ""
    variants: int = 0


def configure(home: Path, **train: object) -> Config:
    """Return the demo configuration with a tiny CLIP and placeholder folders for the captioning models."""
    for name in ("vlm", "llm"):
        folder = home / "models" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(name.encode())
    settings = {**SMALL, **{key.replace("__", "."): value for key, value in train.items()}}
    models = [f"rewrite.{name}.model={home / 'models' / name}" for name in ("vlm", "llm")]
    return load_config(DEMO, [*models, *(f"train.{key}={value}" for key, value in settings.items())])


def publish_version(config: Config, samples: list[Texts], interval: str = "2026-01-01") -> Version:
    """Publish a version with *samples*; its dataset stages have files and linked manifests."""
    store = Store(config.resolve(config.root))
    version = open_version(config, store, interval)
    source = config.resolve(config.crawl.source.paths[0], interval=interval)
    Path(source).parent.mkdir(parents=True, exist_ok=True)
    Path(source).write_bytes(b"a crawl of " + interval.encode())
    pattern = config.crawl.source.paths[0].replace("{interval}", interval)
    sources = (Input("source", pattern, sha256(Path(source).read_bytes()).hexdigest(), Path(source).stat().st_size),)
    count = len(samples)
    _publish(config, version, "crawl", {"candidates.json": b"candidates"}, sources, {"candidates": count})
    _publish(config, version, "quality", {"verdicts.parquet": b"v", "findings.json": b"{}"}, (), {"accepted": count})
    rewrite = tuple(load_stage("rewrite", config, version).inputs())
    _publish(config, version, "rewrite", {"00000.parquet": b"captions"}, rewrite, {"captioned": count})
    half = (count + 1) // 2
    shards: dict[str, bytes] = {}
    for number, part in enumerate((slice(0, half), slice(half, count))):
        if samples[part]:
            shards |= _shard(f"{number:05d}", samples[part], part.start, store)
    _publish(config, version, "assemble", {**shards, "README.md": b"# Card\n"}, (), {"samples": count})
    return version


def _shard(name: str, samples: list[Texts], first: int, store: Store) -> dict[str, bytes]:
    """Return the tar and table of a training shard, as `assemble` writes them."""
    with store.workspace() as work:
        rows = []
        with TarWriter(work / "shard.tar") as tar:
            for number, texts in enumerate(samples, start=first):
                scene = sample_scene(random.Random(number), "crawl")
                words = describe(scene)
                body = {
                    "key": f"{number:09d}",
                    "uid": f"{number:032x}",
                    "url": f"https://a.example/{number}.jpg",
                    "sha256": f"{number:064x}",
                    "width": 48,
                    "height": 48,
                    "alttext": f"Picture {number}: {words}" if texts.alttext is None else texts.alttext,
                    "vec": words if texts.vec is None else texts.vec,
                    "vecap": f"{words}, number {number}" if texts.vecap is None else texts.vecap,
                    "vecap_from": "llm",
                    "alttext_rewritten": texts.alttext_rewritten,
                }
                body |= {
                    f"{text}_variants": [body[text]] if body[text] else [] for text in ("vec", "alttext_rewritten")
                }
                more = [f"{body['vecap']}, variant {n}" for n in range(texts.variants)]
                body["vecap_variants"] = [body["vecap"], *more] if body["vecap"] else []
                rows.append(body)
                members = {"jpg": scene_image(number), "txt": body["vecap"].encode(), "json": json.dumps(body).encode()}
                tar.write(body["key"], members)
        write_rows(pa.Table.from_pylist(rows, SAMPLES).to_batches(), SAMPLES, work / "shard.parquet")
        return {
            f"{name}.tar": (work / "shard.tar").read_bytes(),
            f"{name}.parquet": (work / "shard.parquet").read_bytes(),
        }


def scene_image(number: int, kind: str = "JPEG") -> bytes:
    """Return the drawn scene *number* as an image file of format *kind*."""
    image = io.BytesIO()
    draw(sample_scene(random.Random(number), "crawl"), 48).save(image, kind, quality=90)
    return image.getvalue()


def _publish(
    config: Config,
    version: Version,
    name: str,
    files: dict[str, bytes],
    inputs: tuple[Input, ...],
    counters: dict[str, int],
) -> None:
    stage = load_stage(name, config, version)
    upstream = tuple(Input("stage", item, stage.upstream_manifest(item).digest) for item in stage.upstream)
    entries = []
    for path, data in sorted(files.items()):
        stage.store.put(f"{stage.folder}/{path}", data)
        entries.append(FileEntry(path, len(data), None, sha256(data).hexdigest()))
    manifest = Manifest(
        dataset=config.dataset,
        interval=version.interval,
        stage=name,
        fingerprint=stage.fingerprint,
        config=stage.identity(),
        inputs=(*upstream, *inputs),
        files=tuple(entries),
        counters=counters,
        location=stage.folder,
        provenance={
            "created": "2026-01-01T00:00:00+00:00",
            "code": "abc",
            "vecap": "0",
            "config": config.model_dump(mode="json"),
        },
    )
    assert stage.store.create(f"{stage.folder}/manifest.json", manifest.to_json())


def run(name: str, config: Config, version: Version) -> Manifest:
    """Plan, run and commit a stage."""
    stage = load_stage(name, config, version)
    run_shards(stage, stage.plan())
    return stage.commit()


def write_evaluation_set(config: Config, images: int = 12) -> Path:
    """Write the evaluation set of *config*: two captions per image, and labels."""
    folder = Path(config.resolve(config.evaluate.dataset))
    (folder / "images").mkdir(parents=True)
    captions, labels = [("image", "caption")], [("image", "label")]
    for number in range(images):
        scene = sample_scene(random.Random(f"evaluation {number}"), "eval")
        name = f"images/{number:03d}.png"
        draw(scene, 48).save(folder / name)
        captions += [(name, describe(scene)), (name, f"a picture of {describe(scene)}")]
        labels.append((name, scene.groups[0].kind))
    for name, rows in (("captions.csv", captions), ("labels.csv", labels)):
        with (folder / name).open("w", newline="") as stream:
            csv.writer(stream).writerows(rows)
    (folder / "classes.txt").write_text("\n".join(KINDS) + "\n")
    (folder / "templates.txt").write_text("a {}\na picture of a {}\n")
    return folder
