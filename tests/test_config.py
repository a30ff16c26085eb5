"""A configuration is loaded and validated completely, and errors name the setting."""

from __future__ import annotations

import json
from inspect import get_annotations
from pathlib import Path

import pytest

from tests.conftest import DEMO
from vecap_tasks.config import Config, MixtureConfig, Runtime, Section, expand, expand_optional, load_config, read_yaml
from vecap_tasks.config.recorded import with_current_names
from vecap_tasks.errors import ConfigError


def test_the_demo_configuration_loads(home: Path) -> None:
    config = load_config(DEMO)
    assert config.dataset == "demo"
    assert config.resolve(config.root) == str(home / "store")
    assert config.resolve(config.crawl.source.paths[0], interval="2026-01-01") == str(
        home / "web" / "warc" / "2026-01-01.warc.gz"
    )


def test_paths_and_urls_are_not_part_of_the_identity(home: Path) -> None:
    identity = str(load_config(DEMO).identity())
    assert str(home) not in identity
    assert "127.0.0.1:" not in identity


def test_moving_and_scaling_do_not_change_the_identity(home: Path) -> None:
    here = load_config(DEMO)
    there = load_config(DEMO, ["root=s3://bucket/x", "dask.workers=64", "crawl.fetch.connections=500"])
    assert here.identity() == there.identity()
    assert here.identity() != load_config(DEMO, ["rewrite.vlm.max_new_tokens=7"]).identity()


@pytest.mark.parametrize("name", ["off", "disabled_rules"])
def test_a_recorded_configuration_that_disables_private_data_stays_readable(name: str) -> None:
    recorded = load_config(DEMO).model_dump(mode="json")
    recorded["rewrite"]["screen"].pop("disabled_rules")
    recorded["rewrite"]["screen"][name] = ["url", "private_data"]
    config = Config.model_validate(with_current_names(recorded))
    assert config.rewrite.screen.disabled_rules == ("url",)


DEVICES = ["rewrite.vlm.device={}", "rewrite.llm.device={}", "train.device={}", "evaluate.device={}"]
DEVICES += ["quality.clip={{model: m, device: {}}}"]


@pytest.mark.parametrize("setting", DEVICES)
def test_the_type_of_a_device_is_part_of_the_identity_but_not_its_number(home: Path, setting: str) -> None:
    names = ("cpu", "cuda", "cuda:1")
    cpu, first, second = (load_config(DEMO, [setting.format(name)]).identity() for name in names)
    assert cpu != first == second


@pytest.mark.parametrize("setting", DEVICES)
@pytest.mark.parametrize("name", ["auto", "GPU", "cuda:", "cuda:x"])
def test_an_invalid_device_error_names_valid_ones(home: Path, setting: str, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"demo\.yaml: \S+: .*name it: cpu, or cuda .*, not '{name}'$"):
        load_config(DEMO, [setting.format(f"'{name}'")])


# Why a `Runtime` field is not part of the fingerprint:
#   location  a path or URL; its content enters by digest or is recorded separately
#   spelling  another way to write fields that are in the fingerprint
#   load      request rates and timeouts; a later run retries what failed because of them
#   failure   whether a stage fails, not what it writes
#   record    what is logged, kept or promoted after the output exists
#   tested    a test compares the bytes: `test_quality_stage`, `test_assemble_stage`, `test_train_stage`, `test_model`
#   decided   it decides the `images` of a new version, which are in its fingerprint
#   resume    it changes low bits, but a run must be able to resume with another value (docs/train.md)
RUNTIME = {
    "AssembleConfig.copy_images": "decided",
    "AssembleConfig.memory_limit": "tested",
    "Aro.path": "location",
    "CaptionFiles.captions": "location",
    "CaptionFiles.images": "location",
    "CaptionLines.images": "location",
    "CaptionLines.path": "location",
    "CaptionTable.images": "location",
    "CaptionTable.path": "location",
    "CaptionTars.paths": "location",
    "ChoiceLines.path": "location",
    "ClassFolders.folders": "location",
    "ClassFolders.images": "location",
    "ClassTable.images": "location",
    "ClassTable.path": "location",
    "ClassTars.paths": "location",
    "ClipConfig.size": "spelling",
    "ClipConfig.init_from": "location",
    "ClipConfig.text_init_from": "location",
    "ClipConfig.vision_init_from": "location",
    "ClipConfig.tokenizer": "location",
    "Config.dask": "location",
    "Config.mlflow": "record",
    "Config.retention": "record",
    "Config.outage_timeout": "failure",
    "Config.root": "location",
    "Config.tune": "record",
    "EvaluateConfig.champion": "record",
    "EvaluateConfig.dataset": "location",
    "FetchConfig.connect_to": "location",
    "FetchConfig.connections": "load",
    "FetchConfig.connections_per_host": "load",
    "FetchConfig.dns_ttl": "load",
    "FetchConfig.host_delay": "load",
    "FetchConfig.max_crawl_delay": "load",
    "KarpathySet.images": "location",
    "KarpathySet.path": "location",
    "ModelConfig.price": "record",
    "ProbeFolders.test": "location",
    "ProbeFolders.train": "location",
    "ProbeTars.test": "location",
    "ProbeTars.train": "location",
    "QualityConfig.drift": "failure",
    "QualityConfig.memory_limit": "tested",
    "RewriteConfig.max_rejected": "failure",
    "RewriteConfig.prompts": "location",
    "CrawlConfig.limits": "failure",
    "CrawlConfig.memory_limit": "tested",
    "ServerConfig.api_key_env": "location",
    "ServerConfig.deadline": "load",
    "ServerConfig.requests": "load",
    "ServerConfig.latency_threshold": "load",
    "ServerConfig.max_attempts": "load",
    "ServerConfig.urls": "location",
    "SugarCrepe.path": "location",
    "TarSource.paths": "location",
    "TokenSet.images": "location",
    "TokenSet.path": "location",
    "TokenSet.split": "location",
    "TrainConfig.checkpoint_steps": "tested",
    "TrainConfig.checkpoints_kept": "tested",
    "TrainConfig.image_cache_bytes": "tested",
    "TrainConfig.launch": "resume",
    "TrainConfig.loader_threads": "tested",
    "TrainConfig.mixture": "location",
    "TrainConfig.activation_checkpointing": "tested",
    "VersionSource.root": "location",
    "Winoground.path": "location",
    "_Choices.images": "location",
    "_Classified.classes": "location",
    "_Classified.templates": "location",
}


def test_every_field_outside_the_fingerprint_has_a_documented_reason() -> None:
    found = {
        f"{section.__name__}.{name}"
        for section in sections(Section)
        for name in get_annotations(section)
        if name in section.model_fields and Runtime in section.model_fields[name].metadata
    }
    assert found == RUNTIME.keys()


def sections(base: type[Section]) -> set[type[Section]]:
    """Return all configuration sections."""
    found = {section for section in base.__subclasses__() if section.__module__.startswith("vecap_tasks.config.")}
    return found.union(*map(sections, found))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("crawl.source.kind=ftp", r"crawl\.source.*ftp.*'warc'.*'site'"),
        ("crawl.shard_size=0", r"crawl\.shard_size.*greater than or equal to 1, not 0"),
        ("crawl.image.quality=high", r"crawl\.image\.quality.*valid integer.*not 'high'"),
        ("crawl.fech.retries=1", r"demo\.yaml: unknown setting crawl\.fech; did you mean crawl\.fetch\?"),
        ("train.epoch=1", r"unknown setting train\.epoch; did you mean train\.epochs\?"),
        ("crawl.source.pathes=[a]", r"unknown setting crawl\.source\.pathes; did you mean crawl\.source\.paths\?"),
        ("trainn={}", r"unknown setting trainn; did you mean train\?"),
        ("dask.zzz=1", r"unknown setting dask\.zzz$"),
        ("root=ftp://x", r"root: must be a path, file://, s3://, gs:// or az://, not 'ftp://x'"),
        ("dataset=Über", r"dataset"),
        (
            "train.arms=[alttext, best]",
            r"train\.arms: arm best has no texts; use one of alttext, .*mixed, or add it to train\.texts",
        ),
        ("train.precision=auto", r"train\.precision.*'float32' or 'bfloat16', not 'auto'"),
        ("quality.gate.min_accepted_share=1.5", r"min_accepted_share"),
        ("dataset.name=x", r"dataset is a value"),
        ("nonsense", r"key=value"),
        ("dataset=[", r"not valid YAML"),
    ],
)
def test_an_invalid_value_is_a_one_line_error_that_names_the_setting(home: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        load_config(DEMO, [override])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("version", ["2026-01-01", "2026-01-02-r2", "2026-01-01T05:00:00", "2026-01-01 05:00:00"])
def test_an_unquoted_version_is_a_string(home: Path, version: str) -> None:
    file = home / "config.yaml"
    values = read_yaml(DEMO.read_text(encoding="utf-8"))
    values["crawl"]["retry_failed"] = {"version": "HERE"}
    values["train"]["mixture"] = {"name": "day", "sources": [{"kind": "version", "version": "HERE"}]}
    file.write_text(json.dumps(values).replace('"HERE"', version), encoding="utf-8")
    config = load_config(file)
    assert config.crawl.retry_failed is not None
    assert isinstance(config.train.mixture, MixtureConfig)
    assert config.crawl.retry_failed.version == config.train.mixture.sources[0].version == version
    overridden = load_config(DEMO, [f"crawl.retry_failed.version={version}"]).crawl.retry_failed
    assert overridden is not None
    assert overridden.version == version


@pytest.mark.parametrize("text", ["!!timestamp 2026-01-01", "!!set {a}", "!!binary aaaa", "!!int x", "2026-02-30: ["])
def test_yaml_that_is_not_json_is_an_error(home: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(DEMO, [f"dataset={text}"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no configuration"),
        (b"- a\n- b\n", "holds no configuration"),
        (b"a: [", "not valid YAML"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b"dataset: x\n", "root: Field required"),
    ],
)
def test_an_invalid_configuration_file_is_an_error(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_config(file)


def test_a_missing_configuration_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*no\.yaml: No such file"):
        load_config(tmp_path / "no.yaml")


def test_a_setting_whose_variables_are_empty_is_unset(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NONE", raising=False)
    config = load_config(DEMO)
    for text in (None, "", "${NONE:-}", "${NONE:-${NONE:-}}"):
        assert expand_optional(text) is None
        assert config.resolve_optional(text) is None
    assert expand_optional("tcp://${NONE:-a}:1") == "tcp://a:1"
    assert config.resolve_optional("${NONE:-/folder}") == "/folder"


def test_variables_are_expanded_with_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME", "value")
    monkeypatch.delenv("NONE", raising=False)
    assert expand("${SOME}/${NONE:-else}/${NONE:-}") == "value/else/"
    assert expand("${NONE:-a/${SOME}/${NONE:-b}}") == "a/value/b"
    assert expand("${SOME:-a/${NONE:-b}}") == "value"
    with pytest.raises(ConfigError, match=r"\$\{NONE\}, which is not set"):
        expand("${NONE}")
