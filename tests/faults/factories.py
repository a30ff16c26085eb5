"""A version small enough to run hundreds of times: eight images in two WARC files, and tiny models."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessorPil, CLIPModel

from tests.crawl.test_warc import record
from tests.crawl.web import Answer, Web
from tests.rewrite.conftest import jpeg, save_llm, save_vlm
from tests.train.factories import write_evaluation_set
from vecap_tasks.config import Config, parse_config

INTERVAL = "2026-01-01"
PARTS, IMAGES = 2, 4  # WARC files, and images per file; one of them is only on the web server
BATCH = 4  # texts per batch of a model


def create_inputs(home: Path, web: Web) -> Config:
    """Write a version's inputs to *home* and to the server *web*, and return its configuration."""
    for part in range(PARTS):
        numbers = range(part * IMAGES, (part + 1) * IMAGES)
        page = "".join(f"<img src=/{n}.jpg alt='A Belvo {n} tulip in the garden'>" for n in numbers)
        responses = [record(jpeg(n), f"http://site.example/{n}.jpg", content=b"image/jpeg") for n in numbers[1:]]
        records = [record(page.encode(), f"http://site.example/{part}"), *responses]
        (home / f"{part}.warc.gz").write_bytes(b"".join(gzip.compress(data, mtime=0) for data in records))
        web.answers[f"/{numbers[0]}.jpg"] = Answer(jpeg(numbers[0]), headers={"Content-Type": "image/jpeg"})
    save_vlm(home / "vlm")
    save_llm(home / "llm")
    save_clip(home / "clip", home / "llm")
    config = parse_config(_values(home, web.port), home)
    write_evaluation_set(config, images=4)
    return config


def _values(home: Path, port: int) -> dict[str, Any]:
    def model(name: str, prompt: str) -> dict[str, Any]:
        return {"model": str(home / name), "prompt": prompt, "max_new_tokens": 4, "batch_size": BATCH}

    connect = {"connect_to": {"*.example": f"127.0.0.1:{port}"}, "allow_networks": ["127.0.0.0/8"]}
    clip = {
        "tokenizer": str(home / "llm"), "image_size": 32, "patch_size": 16, "projection": 16, "context": 24,
        "vision_width": 32, "vision_layers": 1, "vision_heads": 4, "text_width": 32, "text_layers": 1, "text_heads": 4,
    }  # fmt: skip
    return {
        "dataset": "tiny",
        "outage_timeout": 0,
        "root": str(home / "store"),
        "crawl": {"source": {"kind": "warc", "paths": [str(home / "*.warc.gz")]}, "shard_size": IMAGES}
        | {"fetch": connect | {"retries": 0, "deadline": 5}},
        "quality": {"clip": {"model": str(home / "clip"), "batch_size": 4, "duplicate_similarity": 1.0}},
        "rewrite": {"vlm": model("vlm", "describe"), "llm": model("llm", "fuse"), "shard_size": IMAGES},
        "assemble": {"shard_size": IMAGES},
        "train": {"arms": ["vecap"], "model": clip, "epochs": 2, "batch_size": 4, "warmup_steps": 2}
        | {"crop_scale": 0.7, "checkpoint_steps": 1, "device": "cpu"},
        "evaluate": {"dataset": str(home / "evaluation"), "device": "cpu", "bootstrap": {"rounds": 100}},
    }


def save_clip(folder: Path, tokenizer_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    text = tower | ids | {"vocab_size": len(tokenizer), "max_position_embeddings": 16}
    vision = tower | {"image_size": 32, "patch_size": 16}
    torch.manual_seed(1)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"height": 32, "width": 32}
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=size).save_pretrained(folder)
