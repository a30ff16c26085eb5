"""One changed byte, in any file that a model was made of or that MLflow keeps of it, is found and named."""

import gzip
import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import DEMO, REPOSITORY
from tests.train.factories import Texts, configure, give_evaluation, give_version, run
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
class ShardOutput:
    """A trained, evaluated and recorded model, and the folders by which the cases name its files."""

    config: Config
    version: Version
    model: str
    folders: dict[str, Path]

    def file(self, name: str) -> Path:
        """Return the file of *name*, whose first part names a folder."""
        folder, _, path = name.partition("/")
        (found,) = self.folders[folder].glob(path)
        return found


@pytest.fixture(scope="module")
def made(tmp_path_factory):
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
        evaluation = give_evaluation(config)
        version = give_version(config, [Texts() for _ in range(16)])
        run("train", config, version)
        run("evaluate", config, version)
        lineage.record_clip(config, version)
        with open_tracking(config) as tracking:
            client = tracking.client
            clip, versions = (client.get_experiment_by_name(f"vecap/demo/{name}") for name in ("clip", "versions"))
            (model,) = client.search_logged_models([clip.experiment_id])
            (recorded,) = client.search_runs([versions.experiment_id])
        folders = {
            "home": home,
            "version": home / "store" / version.folder,
            "evaluation": evaluation,
            "model": Path(model.artifact_location.removeprefix("file://")),
            "run": Path(recorded.info.artifact_uri.removeprefix("file://")),
        }
        yield ShardOutput(config, version, model.model_id, folders)


# A file, the kind of the node that tells of it, and how that names it: a folder with one digest is named as a whole.
CASES = [
    ("version/version.json", "version", "version.json"),
    ("version/crawl/manifest.json", "crawl", "crawl/manifest.json"),
    ("version/crawl/candidates.parquet", "crawl", "crawl/candidates.parquet"),
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


def test_what_nobody_touched_is_sound(made):
    tree = walk(made.config, made.model)
    assert [node for node in tree.walk() if node.problems or node.unchecked] == []


@pytest.mark.parametrize(("name", "kind", "says"), CASES, ids=[f"{name}-{says}" for name, _, says in CASES])
def test_one_changed_byte_is_found_and_named(made, name, kind, says):
    file = made.file(name)
    whole = file.read_bytes()
    try:
        file.write_bytes(flipped(whole))
        tree = walk(made.config, made.model)
        found = [node for node in tree.walk() if node.problems]
        assert {node.kind for node in found} == {kind}
        told = [f"{node.name}: {node.problems[0]}" for node in found]
        assert any(says in one for one in told)
        assert len(found) == 1 or name.startswith("evaluation/")  # a picture may be of several sets
        assert tree.complete
        if name.startswith("version/") and kind != "version":
            store = load_stage("assemble", made.config, made.version).store
            damaged = {damage.path for damage in verify_version(store, made.version).corruptions}
            assert str(file.relative_to(made.folders["home"] / "store")) in damaged
    finally:
        file.write_bytes(whole)


def test_no_byte_of_what_binds_a_version_can_be_changed_unseen(made):
    file = made.file("version/version.json")
    whole = file.read_bytes()
    try:
        for place in range(0, len(whole), 23):
            file.write_bytes(flipped(whole, place))
            version = Walker(made.config, load_stage("assemble", made.config, made.version).store)
            node = version.version("2026-01-01")
            assert node.problems, whole[max(0, place - 20) : place + 20]
    finally:
        file.write_bytes(whole)


def flipped(data: bytes, place: int | None = None) -> bytes:
    """Return *data* with one bit changed."""
    changed = bytearray(data)
    changed[len(data) // 2 if place is None else place] ^= 1
    return bytes(changed)


def test_what_is_gone_is_told_apart_from_damage(made, tmp_path, capsys):
    words = ["lineage", "--config", str(DEMO), "2026-01-01", "--set", f"rewrite.prompts={made.folders['home']}/prompts"]
    for name in ("vlm", "llm"):
        words += ["--set", f"rewrite.{name}.model={made.folders['home']}/models/{name}"]
    source, model = made.file("home/web/warc/2026-01-01.warc.gz"), made.folders["home"] / "models" / "vlm"
    aside = [(source, tmp_path / "source"), (model, tmp_path / "model")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VECAP_HOME", str(made.folders["home"]))
        assert main([*words, "--strict"]) == 0
        for place, kept in aside:
            shutil.move(place, kept)
        try:
            assert main(words) == 0
            assert main([*words, "--strict"]) == 3
            said = capsys.readouterr().out
            assert "? not checked: there is no " in said
            assert "2 things not checked" in said
            tar = made.file("version/assemble/00001.tar")
            whole = tar.read_bytes()
            tar.write_bytes(flipped(whole))
            assert main([*words, "--strict"]) == 1
            assert "is damaged, 1 problem" in capsys.readouterr().out
            tar.write_bytes(whole)
        finally:
            for place, kept in aside:
                shutil.move(kept, place)


def test_a_source_on_s3_is_read_again(made, s3_bucket):
    import boto3

    manifest = load_stage("crawl", made.config, made.version).manifest()
    data = gzip.compress(b"a crawl that lies in a bucket" * 100)
    item = Input("source", f"s3://{s3_bucket}/crawls/2026-01-01.warc.gz", hashlib.sha256(data).hexdigest(), len(data))
    client = boto3.client("s3")

    def node(body: bytes | None) -> Node:
        if body is None:
            client.delete_object(Bucket=s3_bucket, Key="crawls/2026-01-01.warc.gz")
        else:
            client.put_object(Bucket=s3_bucket, Key="crawls/2026-01-01.warc.gz", Body=body)
        return InputChecker(made.config, made.version, manifest).node(item)

    verified, changed, gone = node(data), node(flipped(data)), node(None)
    assert (verified.note, verified.bytes, verified.problems) == ("the same as used", len(data), ())
    assert changed.problems[0].endswith(f"now, {item.digest[:12]} was used")
    assert gone.problems == ()
    assert gone.unchecked == f"there is no s3://{s3_bucket}/crawls/2026-01-01.warc.gz any more"


def test_a_page_of_the_web_is_not_asked_again(made):
    manifest = load_stage("crawl", made.config, made.version).manifest()
    node = InputChecker(made.config, made.version, manifest).node(Input("source", "https://a.example/", "0" * 64, 10))
    assert node.problems == ()
    assert node.unchecked.startswith("it was fetched from the web")
