"""From a folder of images to captions and training samples: sections, checks before the run, and kept columns."""

import json
import shutil

import pyarrow.parquet as pq
import pytest
import yaml

from tests.rewrite.conftest import jpeg, save_llm, save_vlm
from vecap_tasks.cli.__main__ import main
from vecap_tasks.cli.config import config_problems
from vecap_tasks.config import load_config
from vecap_tasks.core.manifest import Manifest
from vecap_tasks.core.open_version import check_stages, open_version, run_checks, select_stages
from vecap_tasks.core.stage import load_stage
from vecap_tasks.core.store import Store
from vecap_tasks.core.tar import read_samples
from vecap_tasks.core.version import DATASET_STAGES
from vecap_tasks.errors import ConfigError, OutageError, PermanentError, VecapError

DAY = "2026-01-01"
NAMES = ("beagle", "heron", "bridge", "lamp")


@pytest.fixture
def write_config(home):
    """Return a function that writes a configuration of a folder and the given sections, and loads it."""

    def write(**sections):
        source = {"kind": "folder", "path": "photos", "keep_columns": ["sku", "file_name"]}
        values = {"dataset": "own", "root": "store", "crawl": {"source": source}, **sections}
        (home / "own.yaml").write_text(yaml.safe_dump(values))
        return load_config(home / "own.yaml")

    return write


@pytest.fixture
def photos(home):
    folder = home / "photos"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        (folder / f"{name}.jpg").write_bytes(jpeg(number))
    rows = [f"{name}.jpg,A large {name} in the old town,S{number}" for number, name in enumerate(NAMES)]
    (folder / "captions.csv").write_text("\n".join(["file_name,caption,sku", *rows]))
    return folder


def run(config, version, *stages):
    manifests = []
    for name in stages:
        stage = load_stage(name, config, version)
        for part in stage.pending_preparations():
            stage.prepare(part)
        for shard in stage.plan():
            stage.run(shard)
        manifests.append(stage.commit())
    return manifests


def test_a_source_is_enough_to_crawl_and_filter(home, write_config, photos):
    config = write_config()
    stages = select_stages(config, None, None)
    assert stages == ("crawl", "quality")
    store = Store(config.resolve(config.root))
    check_stages(config, store, DAY, stages)
    version = open_version(config, store, DAY)
    crawled, filtered = run(config, version, *stages)
    assert filtered.counters["rows"] == 4
    assert open_version(config, store, DAY).name == DAY
    shutil.rmtree(photos)
    check_stages(config, store, DAY, stages)  # finished stages need no source

    save_vlm(home / "vlm")
    save_llm(home / "llm")
    models = {
        role: {"model": role, "prompt": prompt, "max_new_tokens": 4, "batch_size": 2}
        for role, prompt in (("vlm", "describe"), ("llm", "fuse"))
    }
    captioned = write_config(rewrite=models)
    assert select_stages(captioned, None, None) == DATASET_STAGES
    check_stages(captioned, store, DAY, DATASET_STAGES)
    revision = open_version(captioned, store, DAY)
    assert revision.name == f"{DAY}-r2"
    manifests = dict(zip(DATASET_STAGES, run(captioned, revision, *DATASET_STAGES), strict=True))
    assert manifests["crawl"].digest == crawled.digest, "the crawl is reused"
    expected = {(f"S{number}", f"{name}.jpg") for number, name in enumerate(NAMES)}
    for stage in ("crawl", "rewrite", "assemble"):
        table = pq.read_table(store.path(manifests[stage].files_ending("00000.parquet")[0]))
        assert {tuple(json.loads(kept).values()) for kept in table["kept"].to_pylist()} == expected
    with store.open(manifests["assemble"].file("00000.tar")) as tar:
        samples = [json.loads(sample.members["json"]) for sample in read_samples(tar, "00000.tar")]
    assert {tuple(json.loads(sample["kept"]).values()) for sample in samples} == expected


def test_all_problems_are_reported_before_a_stage_starts(home, write_config, capsys):
    model = {"prompt": "nonsense", "max_new_tokens": 4, "batch_size": 2}
    captions = {"kind": "csv", "name": "x", "path": "/no/x.csv", "images": "/no"}
    write_config(
        rewrite={"vlm": model | {"model": "/no/vlm"}, "llm": model | {"model": "/no/llm"}},
        train={"model": {"tokenizer": "./none"}, "batch_size": 1_000_000},
        evaluate={"dataset": "/no/set", "retrieval": [captions]},
    )
    assert main(["run", "--config", str(home / "own.yaml"), "--version", DAY]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    wanted = ("photos does not", "/no/vlm", "/no/llm", "nonsense", "/none", "a step needs", "/no/set", "/no/x.csv")
    assert len(lines) == len(wanted)
    for line, words in zip(lines, wanted, strict=True):
        assert line.startswith("vecap: ")
        assert words in line
    assert not (home / "store").exists()


def test_a_problem_that_a_retry_solves_is_not_an_error_of_the_configuration(home, write_config, photos):
    config = write_config()

    def fail(error):
        raise error

    outage = ("crawl.source.paths", lambda: fail(OutageError("no answer for 900 s")))
    with pytest.raises(VecapError, match=r"own\.yaml:\d+: crawl\.source\.paths: no answer for 900 s") as temporary:
        run_checks(config, [outage])
    assert not isinstance(temporary.value, PermanentError)
    with pytest.raises(ConfigError, match=r"no answer.*no model"):
        run_checks(config, [outage, ("rewrite", lambda: fail(PermanentError("no model")))])


def test_a_finished_training_is_not_checked_again(home, write_config, photos, monkeypatch):
    save_vlm(home / "vlm")
    save_llm(home / "llm")
    models = {role: {"model": role, "prompt": prompt} for role, prompt in (("vlm", "describe"), ("llm", "fuse"))}
    config = write_config(rewrite=models, train={"model": {"tokenizer": str(home / "llm")}, "batch_size": 1_000_000})
    store = Store(config.resolve(config.root))
    version = open_version(config, store, DAY)
    with pytest.raises(ConfigError, match="a step needs"):
        check_stages(config, store, DAY, ("train",))
    stage = load_stage("train", config, version)
    manifest = Manifest(config.dataset, DAY, "train", stage.fingerprint, {}, (), (), {}, (), stage.folder, {})
    store.create(f"{stage.folder}/manifest.json", manifest.to_json())
    check_stages(config, store, DAY, ("train",))


@pytest.mark.parametrize(("sections", "missing"), [(("train",), "rewrite"), (("rewrite", "evaluate"), "train")])
def test_config_check_finds_the_missing_sections_that_a_run_finds(demo_config, sections, missing):
    removed = {name: None for name in ("rewrite", "train", "evaluate") if name not in sections}
    problems = config_problems(demo_config.model_copy(update=removed))
    assert [problem for problem in problems if f"needs the section `{missing}`" in problem]


@pytest.mark.parametrize(
    ("first", "last", "sections", "stages"),
    [
        (None, None, (), "crawl quality"),
        (None, "crawl", (), "crawl"),
        ("quality", None, (), "quality"),
        (None, None, ("rewrite",), "crawl quality rewrite assemble"),
        ("rewrite", None, ("rewrite", "train"), "rewrite assemble train"),
        (None, None, ("train", "evaluate"), "crawl quality rewrite assemble train evaluate"),
        ("train", None, ("rewrite",), "train"),
        ("rewrite", "assemble", ("rewrite", "train", "evaluate"), "rewrite assemble"),
    ],
)
def test_stages_are_selected_by_sections_and_options(demo_config, first, last, sections, stages):
    removed = {name: None for name in ("rewrite", "train", "evaluate") if name not in sections}
    assert select_stages(demo_config.model_copy(update=removed), first, last) == tuple(stages.split())


def test_missing_sections_are_all_named(home, write_config, photos):
    config = write_config()
    with pytest.raises(ConfigError) as error:
        check_stages(config, Store(config.resolve(config.root)), DAY, ("train", "evaluate"))
    assert [problem.split("`")[1] for problem in error.value.args] == ["rewrite", "train", "evaluate"]
    with pytest.raises(ConfigError, match="no stage to run: train comes after crawl"):
        select_stages(config, "train", "crawl")


def test_all_invalid_settings_are_reported(home, write_config, capsys):
    with pytest.raises(ConfigError, match="min_accepted_share"):
        write_config(quality={"gate": {"min_accepted_share": 2}}, assemble={"shardsize": 3})
    assert main(["crawl", "--config", str(home / "own.yaml"), "--version", DAY]) == 1
    first, second = capsys.readouterr().err.strip().splitlines()
    assert "min_accepted_share" in first
    assert "did you mean assemble.shard_size?" in second
