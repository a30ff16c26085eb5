"""A changed byte in any file of a model's lineage, or of its copies in MLflow, is found and reported."""

import gzip
import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import DEMO, REPOSITORY
from tests.train.factories import Texts, configure, publish_version, run, write_evaluation_set
from vecap_tasks import lineage
from vecap_tasks.cli.__main__ import main
from vecap_tasks.config import Config
from vecap_tasks.core.manifest import Input
from vecap_tasks.core.mlflow_tracking import open_tracking
from vecap_tasks.core.stage import load_stage
from vecap_tasks.core.verify import verify_version
from vecap_tasks.core.version import Version
from vecap_tasks.lineage.tree import InputChecker, Node
from vecap_tasks.lineage.walk import Walker, walk
from vecap_tasks.rewrite.prompt import FOLDER as PROMPTS

LLM = REPOSITORY / "vecap_tasks" / "demo" / "models" / "llm"  # with the demo's tokenizer


@dataclass(frozen=True)
class RecordedModel:
    """A trained, evaluated and recorded model, and the folders that the cases refer to."""

    config: Config
    version: Version
    model: str
    folders: dict[str, Path]

    def file(self, name: str) -> Path:
        """Return the file *name*, given as FOLDER/PATTERN."""
        folder, _, pattern = name.partition("/")
        (file,) = self.folders[folder].glob(pattern)
        return file


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    home = tmp_path_factory.mktemp("damage")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VECAP_HOME", str(home))
        for name in ("VECAP_MLFLOW_URI", "VECAP_DASK_ADDRESS"):
            patch.delenv(name, raising=False)
        shutil.copytree(PROMPTS, home / "prompts")
        shutil.copytree(LLM, home / "tokenizer", ignore=shutil.ignore_patterns("*.safetensors"))
        plain = configure(home, arms="[vecap]", epochs=1, model__tokenizer=home / "tokenizer")
        rewrite = plain.rewrite.model_copy(update={"prompts": str(home / "prompts")})
        config = plain.model_copy(update={"rewrite": rewrite}).with_base(plain.base)
        evaluation = write_evaluation_set(config)
        version = publish_version(config, [Texts() for _ in range(16)])
        run("train", config, version)
        run("evaluate", config, version)
        lineage.record_clip(config, version)
        with open_tracking(config) as tracking:
            client = tracking.client
            clip, versions = (client.get_experiment_by_name(f"vecap/demo/{name}") for name in ("clip", "versions"))
            (model,) = client.search_logged_models([clip.experiment_id])
            (run_of_version,) = client.search_runs([versions.experiment_id])
        folders = {
            "home": home,
            "version": home / "store" / version.folder,
            "evaluation": evaluation,
            "model": Path(model.artifact_location.removeprefix("file://")),
            "run": Path(run_of_version.info.artifact_uri.removeprefix("file://")),
        }
        yield RecordedModel(config, version, model.model_id, folders)


# A file, the kind of the node that reports it, and the name in the report; a folder with one digest is reported whole.
CASES = [
    ("version/version.json", "version", "version.json"),
    ("version/crawl/manifest.json", "crawl", "crawl/manifest.json"),
    ("version/crawl/candidates.json", "crawl", "crawl/candidates.json"),
    ("version/quality/manifest.json", "quality", "quality/manifest.json"),
    ("version/quality/findings.json", "quality", "quality/findings.json"),
    ("version/rewrite/manifest.json", "rewrite", "rewrite/manifest.json"),
    ("version/rewrite/00000.parquet", "rewrite", "rewrite/00000.parquet"),
    ("version/assemble/manifest.json", "assemble", "assemble/manifest.json"),
    ("version/assemble/00001.tar", "assemble", "assemble/00001.tar"),
    ("version/assemble/README.md", "assemble", "assemble/README.md"),
    ("version/train/*/vecap-0/model.safetensors", "train", "vecap-0/model.safetensors"),
    ("version/train/*/vecap-0/log.jsonl", "train", "vecap-0/log.jsonl"),
    ("version/evaluate/*/manifest.json", "evaluate", "manifest.json"),
    ("version/evaluate/*/results.json", "evaluate", "results.json"),
    ("home/web/warc/2026-01-01.warc.gz", "source", "2026-01-01.warc.gz"),
    ("home/models/vlm/model.safetensors", "model", "models/vlm"),
    ("home/models/llm/config.json", "model", "models/llm"),
    ("home/tokenizer/tokenizer.json", "tokenizer", "tokenizer"),
    ("home/prompts/describe.md", "prompt", "describe"),
    ("home/prompts/fuse.md", "prompt", "fuse"),
    ("evaluation/images/003.png", "dataset", "retrieval"),
    ("evaluation/images/003.png", "dataset", "zero_shot"),
    ("evaluation/captions.csv", "dataset", "retrieval"),
    ("evaluation/classes.txt", "dataset", "zero_shot"),
    ("model/model.safetensors", "mlflow", "model.safetensors"),
    ("model/config.json", "mlflow", "config.json"),
    ("run/assemble/README.md", "mlflow", "assemble/README.md"),
    ("run/crawl/manifest.json", "mlflow", "crawl/manifest.json"),
    ("run/crawl_files.csv", "mlflow", "crawl_files.csv"),
    ("run/config.yaml", "mlflow", "config.yaml"),
]


def test_an_unchanged_model_has_no_problems(recorded):
    tree = walk(recorded.config, recorded.model)
    assert [node for node in tree.walk() if node.problems or node.unchecked] == []


@pytest.mark.parametrize(("name", "kind", "reported"), CASES, ids=[f"{name}-{text}" for name, _, text in CASES])
def test_a_changed_byte_is_found_and_reported(recorded, name, kind, reported):
    file = recorded.file(name)
    original = file.read_bytes()
    try:
        file.write_bytes(flip_bit(original))
        tree = walk(recorded.config, recorded.model)
        nodes = [node for node in tree.walk() if node.problems]
        assert {node.kind for node in nodes} == {kind}
        assert any(reported in f"{node.name}: {node.problems[0]}" for node in nodes)
        assert len(nodes) == 1 or name.startswith("evaluation/")  # an image may be in several sets
        assert tree.complete
        if name.startswith("version/") and kind != "version":
            store = load_stage("assemble", recorded.config, recorded.version).store
            corrupt = {corruption.path for corruption in verify_version(store, recorded.version).corruptions}
            assert str(file.relative_to(recorded.folders["home"] / "store")) in corrupt
    finally:
        file.write_bytes(original)


def test_a_changed_byte_of_version_json_is_found(recorded):
    file = recorded.file("version/version.json")
    original = file.read_bytes()
    try:
        for position in range(0, len(original), 23):
            file.write_bytes(flip_bit(original, position))
            walker = Walker(recorded.config, load_stage("assemble", recorded.config, recorded.version).store)
            node = walker.version("2026-01-01")
            assert node.problems, original[max(0, position - 20) : position + 20]
    finally:
        file.write_bytes(original)


def flip_bit(data: bytes, position: int | None = None) -> bytes:
    """Return *data* with one bit changed."""
    changed = bytearray(data)
    changed[len(data) // 2 if position is None else position] ^= 1
    return bytes(changed)


def test_a_missing_source_is_distinguished_from_corruption(recorded, tmp_path, capsys):
    home = recorded.folders["home"]
    arguments = ["lineage", "--config", str(DEMO), "2026-01-01", "--set", f"rewrite.prompts={home}/prompts"]
    for name in ("vlm", "llm"):
        arguments += ["--set", f"rewrite.{name}.model={home}/models/{name}"]
    source, model = recorded.file("home/web/warc/2026-01-01.warc.gz"), home / "models" / "vlm"
    moves = [(source, tmp_path / "source"), (model, tmp_path / "model")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VECAP_HOME", str(home))
        assert main([*arguments, "--strict"]) == 0
        for path, moved in moves:
            shutil.move(path, moved)
        try:
            assert main(arguments) == 0
            assert main([*arguments, "--strict"]) == 3
            output = capsys.readouterr().out
            assert "2026-01-01.warc.gz does not exist" in output
            assert "2 items not checked" in output
            tar = recorded.file("version/assemble/00001.tar")
            original = tar.read_bytes()
            tar.write_bytes(flip_bit(original))
            assert main([*arguments, "--strict"]) == 1
            assert ": corrupt, 1 problem" in capsys.readouterr().out
            tar.write_bytes(original)
        finally:
            for path, moved in moves:
                shutil.move(moved, path)


def test_a_source_on_s3_is_verified(recorded, s3_bucket):
    import boto3

    manifest = load_stage("crawl", recorded.config, recorded.version).manifest()
    data = gzip.compress(b"a crawl that lies in a bucket" * 100)
    item = Input("source", f"s3://{s3_bucket}/crawls/2026-01-01.warc.gz", hashlib.sha256(data).hexdigest(), len(data))
    client = boto3.client("s3")

    def node(body: bytes | None) -> Node:
        if body is None:
            client.delete_object(Bucket=s3_bucket, Key="crawls/2026-01-01.warc.gz")
        else:
            client.put_object(Bucket=s3_bucket, Key="crawls/2026-01-01.warc.gz", Body=body)
        return InputChecker(recorded.config, recorded.version, manifest).node(item)

    verified, changed, gone = node(data), node(flip_bit(data)), node(None)
    assert (verified.note, verified.bytes, verified.problems) == ("unchanged", len(data), ())
    assert changed.problems[0].endswith(f", recorded {item.digest[:12]}")
    assert gone.problems == ()
    assert gone.unchecked == f"s3://{s3_bucket}/crawls/2026-01-01.warc.gz does not exist"


def test_a_web_page_is_not_fetched_again(recorded):
    manifest = load_stage("crawl", recorded.config, recorded.version).manifest()
    item = Input("source", "https://a.example/", "0" * 64, 10)
    node = InputChecker(recorded.config, recorded.version, manifest).node(item)
    assert node.problems == ()
    assert node.unchecked.startswith("fetched from the web")
