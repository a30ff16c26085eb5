"""Checkpoints with random weights in the layout of LLaVA and Vicuna, and versions with a generated crawl."""

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import dask
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from distributed import LocalCluster
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from vecap_tasks.config import Config, ModelConfig, parse_config
from vecap_tasks.core.manifest import FileEntry, Manifest
from vecap_tasks.core.models import find_checkpoint
from vecap_tasks.core.schemas import CRAWL, VERDICTS
from vecap_tasks.core.stage import load_stage
from vecap_tasks.core.tar import TarWriter
from vecap_tasks.core.version import Version
from vecap_tasks.crawl.image.decode import decode
from vecap_tasks.rewrite.accepted_rows import ImageInput, Row
from vecap_tasks.rewrite.prompt import load_prompt
from vecap_tasks.rewrite.vlm import Vlm

SPECIAL = ("<|pad|>", "<|begin|>", "<|user|>", "<|assistant|>", "<|end|>", "<image>")
TEXT_TEMPLATE = (
    "<|begin|>{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] | trim }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
IMAGE_TEMPLATE = (
    "<|begin|>{% for message in messages %}<|{{ message['role'] }}|>{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
IMAGE_SIDE, PATCH = 32, 16


def make_tokenizer(chat_template: str | None) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer without merges, which encodes any text losslessly."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate((*SPECIAL, *alphabet))}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|begin|>",
        eos_token="<|end|>",
        pad_token="<|pad|>",
        extra_special_tokens=["<|user|>", "<|assistant|>", "<image>"],
        chat_template=chat_template,
        model_max_length=2048,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def _llama(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.6,
    )


def _speak_letters(model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast) -> None:
    """Restrict the output to letters, spaces and the end token, so that some texts pass screening."""
    allowed = tokenizer.convert_tokens_to_ids([*"abcdefghijklmnopqrstuvwxyz", "Ġ", "<|end|>"])
    weights = model.get_output_embeddings().weight.data
    weights[[number for number in range(len(weights)) if number not in allowed]] = 0
    weights[allowed[-1]] *= 4


def save_llm(folder: Path, seed: int = 0, chat_template: str | None = TEXT_TEMPLATE) -> Path:
    tokenizer = make_tokenizer(chat_template)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(_llama(tokenizer))
    _speak_letters(model, tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_vlm(folder: Path, seed: int = 0) -> Path:
    tokenizer = make_tokenizer(None)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=IMAGE_SIDE,
            patch_size=PATCH,
            initializer_range=0.6,
        ),
        text_config=_llama(tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=(IMAGE_SIDE // PATCH) ** 2,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config)
    _speak_letters(model, tokenizer)
    model.save_pretrained(folder)
    images = CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIDE}, crop_size={"height": IMAGE_SIDE, "width": IMAGE_SIDE}
    )
    LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=IMAGE_TEMPLATE,
    ).save_pretrained(folder)
    return folder


@contextmanager
def two_workers() -> Iterator[LocalCluster]:
    """Start two workers that restart after a kill even on a busy machine; the default limit of Dask is 15 s."""
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "10 minutes"}),
        LocalCluster(host="127.0.0.1", **options) as cluster,
    ):
        yield cluster


@pytest.fixture(scope="session")
def vlm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_vlm(tmp_path_factory.mktemp("models") / "vlm")


@pytest.fixture(scope="session")
def llm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llm(tmp_path_factory.mktemp("models") / "llm")


def noise_image(number: int) -> Image.Image:
    """Return a noise image that is unique to *number*."""
    return Image.fromarray(np.random.default_rng(number).integers(0, 255, (48, 64, 3), dtype=np.uint8))


@dataclass(frozen=True)
class CrawlRow:
    """A row of a crawl; `image` is the number of its image, or None for an invalid file.

    `download` is an image file that the crawl decodes and stores, instead of this image.
    """

    alttext: str | None = "A Belvo tulip in the garden"
    accepted: bool = True
    image: int | None = 0
    download: bytes | None = None


def jpeg(number: int | None) -> bytes:
    if number is None:
        return b"\xff\xd8\xff\xe0 no image"
    stream = io.BytesIO()
    noise_image(number).save(stream, "JPEG", quality=95)
    return stream.getvalue()


class Sandbox:
    """A folder with a store, and crawls written as the stages crawl and quality would."""

    def __init__(self, folder: Path, vlm: Path, llm: Path) -> None:
        self.folder, self.vlm, self.llm = folder, vlm, llm
        self.root: str | None = None  # of the store, by default in the folder

    def config(self, *, image: dict[str, Any] | None = None, **rewrite: Any) -> Config:
        """Return a configuration with settings of `crawl.image` and `rewrite`."""

        def model(folder: Path, prompt: str) -> dict[str, Any]:
            return {"model": str(folder), "prompt": prompt, "max_new_tokens": 12, "batch_size": 16}

        section = {"vlm": model(self.vlm, "describe"), "llm": model(self.llm, "fuse"), "shard_size": 8} | rewrite
        values = {
            "dataset": "tiny",
            "root": self.root or str(self.folder / "store"),
            "crawl": {"source": {"kind": "warc", "paths": ["none"]}, "image": image or {}},
            "rewrite": section,
            "train": {"model": {"tokenizer": "none"}},
            "evaluate": {"dataset": "none"},
            "dask": {"workers": 1},
        }
        return parse_config(values, self.folder)

    def write_crawl(
        self,
        config: Config,
        rows: Sequence[CrawlRow],
        name: str = "2026-01-01",
        shard_size: int = 10,
        *,
        hashed: bool = True,
    ) -> Version:
        """Write crawl and verdicts of *rows* with their manifests, and return the version.

        *hashed*: with `jpeg_sha256`, which release 0.1.0 did not write.
        """
        version = Version(config.dataset, name, 1, "")
        crawl, quality = load_stage("crawl", config, version), load_stage("quality", config, version)
        store = crawl.store
        accepted, files, judged = {}, [], ["accepted.json"]
        with store.workspace() as work:
            (work / "verdicts").mkdir()
            for start in range(0, len(rows), shard_size):
                shard, lines, verdicts = f"{start // shard_size:05d}", [], []
                with TarWriter(work / f"{shard}.tar") as tar:
                    for index, row in enumerate(rows[start : start + shard_size]):
                        data = jpeg(row.image) if row.download is None else decode(row.download, config.crawl.image)[1]
                        line = {
                            "key": f"{shard}{index:04d}",
                            "uid": f"{start + index:032x}",
                            "sha256": hashlib.sha256(data if row.download is None else row.download).hexdigest(),
                        }
                        tar.write(line["key"], {"jpg": data, "txt": b"", "json": b"{}"})
                        crawled = {"url": "https://a.example/", "source": "none", "status": "success"}
                        sizes = dict.fromkeys(("width", "height", "original_width", "original_height"), 64)
                        stored = {"caption": row.alttext, "phash": line["sha256"][:16]}
                        stored |= {"jpeg_sha256": hashlib.sha256(data).hexdigest()} if hashed else {}
                        lines.append(line | crawled | sizes | stored)
                        reasons = [] if row.accepted else ["too_small"]
                        verdicts.append(line | {"accepted": row.accepted, "alttext": row.alttext, "reasons": reasons})
                crawl_table = pa.Table.from_pylist(lines, CRAWL)
                crawl_table = crawl_table if hashed else crawl_table.drop_columns(["jpeg_sha256"])
                pq.write_table(crawl_table, work / f"{shard}.parquet")
                pq.write_table(pa.Table.from_pylist(verdicts, VERDICTS), work / "verdicts" / f"{shard}.parquet")
                files += [f"{shard}.parquet", f"{shard}.tar"]
                judged.append(f"verdicts/{shard}.parquet")
                accepted[shard] = sum(verdict["accepted"] for verdict in verdicts)
            (work / "accepted.json").write_text(json.dumps(accepted))
            for stage, names in ((crawl, files), (quality, judged)):
                entries = []
                for file in names:
                    data = (work / file).read_bytes()
                    entries.append(FileEntry(file, len(data), None, hashlib.sha256(data).hexdigest()))
                    store.put(f"{stage.folder}/{file}", data)
                manifest = Manifest(
                    dataset=config.dataset,
                    interval=name,
                    stage=stage.name,
                    fingerprint=stage.fingerprint,
                    config=stage.identity(),
                    inputs=(),
                    files=tuple(entries),
                    counters={"rows": len(rows), "accepted": sum(accepted.values())},
                    location=stage.folder,
                    provenance={"created": "2026-01-01T00:00:00+00:00"},
                )
                store.put(f"{stage.folder}/manifest.json", manifest.to_json())
        store.put(f"{version.folder}/version.json", json.dumps(asdict(version) | {"config": {}}).encode())
        return version


@pytest.fixture
def sandbox(tmp_path: Path, vlm_folder: Path, llm_folder: Path) -> Sandbox:
    return Sandbox(tmp_path, vlm_folder, llm_folder)


@pytest.fixture(scope="session")
def save_models() -> tuple[Callable[..., Path], Callable[..., Path]]:
    """Functions that save a VLM and an LLM."""
    return save_vlm, save_llm


@pytest.fixture(scope="session")
def image_input() -> Callable[[int | None], ImageInput]:
    """A function from an image number to a row with that image; None is an invalid file."""
    return lambda number: ImageInput(
        Row(f"{number}", "", f"{number}", None, ""), None if number is None else noise_image(number)
    )


@pytest.fixture(scope="session")
def crawl_row() -> type[CrawlRow]:
    return CrawlRow


@pytest.fixture(scope="session")
def tokenizer_of() -> Callable[[str | None], PreTrainedTokenizerFast]:
    """A function from a chat template to a tokenizer."""
    return make_tokenizer


@pytest.fixture(scope="session")
def image_template() -> str:
    return IMAGE_TEMPLATE


@pytest.fixture(scope="session")
def jpeg_of() -> Callable[[Row, int], ImageInput]:
    """A function from a row and an image number to the row with that image and its bytes."""
    return lambda row, number: ImageInput(row, noise_image(number), jpeg(number))


@pytest.fixture
def vlm(sandbox, tokenizer_of, image_template, tmp_path: Path):
    """A function that loads a VLM of one of `architectures` with random weights."""

    def load(build, **more) -> Vlm:
        tokenizer = tokenizer_of(None)
        torch.manual_seed(0)
        model, processor = build(tokenizer, image_template)
        model.save_pretrained(tmp_path)
        processor.save_pretrained(tmp_path)
        return Vlm(
            find_checkpoint(sandbox.config(), str(tmp_path)),
            ModelConfig(**{"model": str(tmp_path), "prompt": "describe", "max_new_tokens": 8, "batch_size": 16} | more),
            load_prompt("describe"),
        )

    return load
