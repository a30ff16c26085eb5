"""Served models in the stage, and a real `transformers serve` with the demo models."""

import asyncio
import base64
import io
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from aiohttp import ClientError, ClientSession, web
from PIL import Image

from tests.rewrite.server import CANARY, ReceivedRequest, Server, completion, fuse, rejecting
from tools.demo_models.measure import as_crawled, held_out
from vecap_tasks.config import Config, ModelConfig, load_config
from vecap_tasks.core.manifest import Manifest
from vecap_tasks.core.models import find_checkpoint
from vecap_tasks.core.version import Version
from vecap_tasks.errors import PermanentError, VecapError
from vecap_tasks.rewrite.accepted_rows import ImageInput, Row
from vecap_tasks.rewrite.backends.sampling_params import GREEDY
from vecap_tasks.rewrite.llm import Llm
from vecap_tasks.rewrite.openai_models import ServedLlm, ServedVlm
from vecap_tasks.rewrite.prompt import load_prompt
from vecap_tasks.rewrite.stage import Rewrite
from vecap_tasks.rewrite.vlm import Vlm

# The stage.


def served(sandbox, url: str, price: dict | None = None, **changes) -> Config:
    def model(prompt: str) -> dict:
        server = {"urls": [url], "max_attempts": 2, "api_key_env": "VECAP_TEST_KEY"} | changes
        values = {"backend": "openai", "model": "tiny", "prompt": prompt, "max_new_tokens": 12}
        return values | {"server": server, "price": price or {}}

    return sandbox.config(vlm=model("describe"), llm=model("fuse"))


async def _captions(request: ReceivedRequest) -> web.StreamResponse:
    if isinstance(request.body["messages"][0]["content"], list):
        return completion("a red tulip in a garden")
    return completion("a red Belvo tulip in a garden")


def test_a_version_captioned_by_servers_does_not_contain_the_api_key(sandbox, crawl_row, monkeypatch) -> None:
    monkeypatch.setenv("VECAP_TEST_KEY", CANARY)
    with Server(_captions) as server:
        config = served(sandbox, server.url, price={"per_million_tokens": 1e6, "per_million_prompt_tokens": 1e6})
        version = sandbox.write_crawl(
            config, [crawl_row(f"A Belvo {number} tulip", image=number) for number in range(6)]
        )
        stage = Rewrite(config, version)
        for shard in stage.plan():
            stage.run(shard)
        manifest = stage.commit()
        sent = len(server.requests)
        later = sandbox.write_crawl(config, [crawl_row("A Belvo 3 tulip", image=3)], "2026-01-02")
        again = Rewrite(config, later)
        again.run("00000")
        assert len(server.requests) == sent  # no second request
    with stage.store.open(manifest.files_ending(".parquet")[0]) as stream:
        row = pq.read_table(stream).to_pylist()[0]
    assert (row["vecap"], row["vecap_from"]) == ("a red Belvo tulip in a garden", "llm")
    assert (row["vec_model"], row["vec_revision"]) == ("tiny", "unstated")
    notes = manifest.provenance["notes"]
    assert notes["vlm_captions"] == notes["llm_captions"] == 6
    assert notes["vlm_cost_millionths"] == (notes["vlm_tokens"] + notes["vlm_prompt_tokens"]) * 1_000_000
    assert [item.bytes for item in manifest.inputs if item.kind == "model"] == [None, None]
    served_models = stage.store.read(manifest.file("served.json")).decode()
    assert '"owned_by": "us"' in served_models
    for name in stage.store.files(version.folder):
        assert CANARY.encode() not in stage.store.read(f"{version.folder}/{name}")
    for file in (sandbox.folder / "store").rglob("*"):
        assert not file.is_file() or CANARY.encode() not in file.read_bytes()


ASPECT = {"object": "error", "message": "absolute aspect ratio must be smaller than 200, got 250.0", "code": 400}
UNKNOWN = {"error": {"message": "I do not like this one"}}


def run(config: Config, version: Version) -> tuple[Manifest, list[dict]]:
    stage = Rewrite(config, version)
    for shard in stage.plan():
        stage.run(shard)
    manifest = stage.commit()
    rows: list[dict] = []
    for name in manifest.files_ending(".parquet"):
        with stage.store.open(name) as stream:
            rows += pq.read_table(stream).to_pylist()
    return manifest, rows


def test_rows_that_a_server_rejects_have_a_reason_and_the_stage_finishes(sandbox, crawl_row, jpeg_of, caplog) -> None:
    refused = {2: (400, ASPECT), 3: (400, UNKNOWN)}
    marks = {base64.b64encode(jpeg_of(None, number).jpeg).decode(): answer for number, answer in refused.items()}
    digests = []
    with Server(rejecting(marks, _captions)) as server, caplog.at_level("WARNING"):
        for folder in ("one", "two"):
            sandbox.folder = sandbox.folder / folder
            config = served(sandbox, server.url, api_key_env=None)
            version = sandbox.write_crawl(
                config, [crawl_row(f"A Belvo {number} tulip", image=number) for number in range(6)]
            )
            manifest, rows = run(config, version)
            digests.append(manifest.digest)
        sent = len(server.requests)
        assert run(config, version)[0].digest == digests[0] == digests[1]
        assert len(server.requests) == sent
    assert [row["vec_problem"] for row in rows] == [None, None, "image_refused", "refused_by_server", None, None]
    assert [row["vecap_from"] for row in rows] == ["llm", "llm", "alttext", "alttext", "llm", "llm"]
    assert [len(row["vec_attempts"]) for row in rows] == [1] * 6
    counters = manifest.counters
    assert (counters["rows"], counters["captioned"], counters["vecap_from.alttext"]) == (6, 4, 2)
    assert (counters["problem.image_refused"], counters["problem.refused_by_server"]) == (1, 1)
    messages = [record.getMessage() for record in caplog.records][:3]
    assert messages == [
        "rewrite 00000: vlm: the server rejected 1 of 6 requests (image_refused), for example: 400 "
        "absolute aspect ratio must be smaller than 200, got 250.0",
        "rewrite 00000: vlm: the server rejected 1 of 6 requests (refused_by_server), for example: 400 "
        "I do not like this one",
        "rewrite: 2 texts are missing in 6 rows because a server rejected the requests: "
        "image_refused 1, refused_by_server 1",
    ]


def test_a_shard_above_max_rejected_fails_and_resumes_after_a_fix(sandbox, crawl_row, jpeg_of) -> None:
    marks = {base64.b64encode(jpeg_of(None, number).jpeg).decode(): (400, ASPECT) for number in range(1, 20)}
    with Server(rejecting(marks, _captions)) as server:
        config = served(sandbox, server.url, api_key_env=None)
        config = config.model_copy(update={"rewrite": config.rewrite.model_copy(update={"shard_size": 20})})
        version = sandbox.write_crawl(
            config, [crawl_row(f"A Belvo {number} tulip", image=number) for number in range(20)]
        )
        stage = Rewrite(config, version)
        with pytest.raises(
            PermanentError,
            match=r"rewrite 00000: vlm: the server rejected 19 of 20 requests \(image_refused 19\), for example: 400 "
            r"absolute aspect ratio .*; correct the server's limits .* or raise rewrite\.max_rejected",
        ):
            stage.run("00000")
        assert stage.plan() == ["00000"]
        allowed = config.model_copy(update={"rewrite": config.rewrite.model_copy(update={"max_rejected": 1.0})})
        assert Rewrite(allowed, version).fingerprint == stage.fingerprint
        marks.clear()
        manifest, _ = run(config, version)
    assert manifest.counters["captioned"] == 20
    assert manifest.provenance["notes"]["taken_over"] == 1


def test_the_server_url_is_not_part_of_the_fingerprint(sandbox, crawl_row) -> None:
    with Server() as server:
        config = served(sandbox, server.url)
        moved = served(sandbox, "https://b.example/v1", requests=1, api_key_env=None)
        stated = served(sandbox, server.url, revision="2026-11")
        version = sandbox.write_crawl(config, [crawl_row()])
        fingerprints = [Rewrite(variant, version).fingerprint for variant in (config, moved, stated)]
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


# A real server.


@pytest.fixture(scope="module")
def demo() -> Config:
    return load_config(Path(__file__).parents[2] / "configs" / "demo.yaml")


@pytest.fixture(scope="module")
def server_urls(demo: Config, tmp_path_factory) -> Iterator[dict[str, str]]:
    """Run `transformers serve` with the demo VLM and with the demo LLM."""
    started, urls = [], {}
    home = tmp_path_factory.mktemp("hub")
    (home / "hub").mkdir()
    environment = os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    for role in ("vlm", "llm"):
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            port = free.getsockname()[1]
        folder = demo.resolve(getattr(demo.rewrite, role).model)
        command = [Path(sys.executable).parent / "transformers", "serve", folder, "--device", "cpu"]
        log = (home / f"{role}.log").open("w")
        options = ["--host", "127.0.0.1", "--port", str(port)]
        started.append(subprocess.Popen([*command, *options], env=environment, stdout=log, stderr=log))
        urls[role] = f"http://127.0.0.1:{port}/v1"
    try:
        for process, url in zip(started, urls.values(), strict=True):
            asyncio.run(_up(process, url.removesuffix("/v1") + "/health", home))
        yield urls
    finally:
        for process in started:
            process.terminate()
            process.wait(20)


async def _up(process: subprocess.Popen, url: str, home: Path) -> None:
    deadline = time.monotonic() + 400
    async with ClientSession() as session:
        while time.monotonic() < deadline and process.poll() is None:
            try:
                async with session.get(url) as response:
                    if response.status == 200:
                        return
            except ClientError:
                await asyncio.sleep(0.3)
    raise AssertionError("".join(log.read_text()[-2000:] for log in home.glob("*.log")))


def _served_demo(demo: Config, role: str, url: str) -> ModelConfig:
    local: ModelConfig = getattr(demo.rewrite, role)
    values = local.model_dump() | {"backend": "openai", "model": demo.resolve(local.model), "server": {"urls": [url]}}
    return ModelConfig.model_validate(values)


@pytest.mark.exhaustive
@pytest.mark.services
def test_a_served_vlm_matches_the_local_model(demo: Config, server_urls) -> None:
    requests = []
    for number, scene in enumerate(held_out(12, 5)):
        stream = io.BytesIO()
        as_crawled(scene).save(stream, "JPEG", quality=95)
        image = Image.open(stream).convert("RGB")
        requests.append((ImageInput(Row(str(number), "", str(number), None, ""), image, stream.getvalue()), GREEDY))
    prompt = load_prompt("describe")
    local = Vlm(find_checkpoint(demo, demo.rewrite.vlm.model), demo.rewrite.vlm, prompt).describe(requests)
    remote = ServedVlm(_served_demo(demo, "vlm", server_urls["vlm"]), prompt).describe(iter(requests))
    assert [(text.text, text.ended) for text in remote] == [(text.text, text.ended) for text in local]
    assert all(text.tokens and text.prompt_tokens for text in remote)


@pytest.mark.exhaustive
@pytest.mark.services
def test_a_served_llm_matches_the_local_model(demo: Config, server_urls) -> None:
    pairs = [
        ("Norby terrier puppies - FREE shipping", "two red dogs to the left of a blue car on grass"),
        ("IMG_2041.JPG", "three yellow cats in snow"),
        ("Mug by Talvi, 0.3 l", "a blue mug on a table"),
    ]
    requests = [(pair, GREEDY) for pair in pairs]
    prompt = load_prompt("fuse")
    local = Llm(find_checkpoint(demo, demo.rewrite.llm.model), demo.rewrite.llm, prompt, 512).fuse(requests)
    remote = ServedLlm(_served_demo(demo, "llm", server_urls["llm"]), prompt, 512).fuse(requests)
    assert [(text.text, text.ended) for text in remote] == [(text.text, text.ended) for text in local]


@pytest.mark.exhaustive
@pytest.mark.services
def test_a_real_server_without_the_model_is_an_error(demo: Config, server_urls) -> None:
    wrong = _served_demo(demo, "llm", server_urls["llm"]).model_copy(update={"model": "org/nowhere"})
    with pytest.raises(
        VecapError, match=r"model org/nowhere: .* rejected the request \(400 Server is pinned to"
    ) as exc_info:
        fuse(wrong)
    assert "\n" not in str(exc_info.value)
