"""`vecap versions`, `note`, `verify` and `gc` on versions of every state, and commands with a version that is named."""

from __future__ import annotations

import json
import shlex
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.test_mistakes import run
from tests.conftest import DEMO
from tests.core.factories import create_version
from vecap_tasks.cli.__main__ import build_parser
from vecap_tasks.cli.options import named_version
from vecap_tasks.cli.run import _print_published, _StageOutcome
from vecap_tasks.core.manifest import read_manifest
from vecap_tasks.core.store import Store
from vecap_tasks.core.version import Deletion, Version, register, tombstone

Output = pytest.CaptureFixture[str]
CONFIG = "dataset: demo\nroot: store\ncrawl:\n  source: {kind: folder, path: .}\n"


@pytest.fixture
def store(home: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The store of `own.yaml` in the working directory."""
    monkeypatch.chdir(home)
    (home / "own.yaml").write_text(f"{CONFIG}mlflow: {{tracking_uri: sqlite:///mlflow.db}}\n", encoding="utf-8")
    return Store(str(home / "store"))


def change(store: Store, version: Version, stage: str, **values: object) -> None:
    """Replace fields of the manifest of a stage."""
    manifest = read_manifest(store, f"{version.folder}/{stage}")
    assert manifest is not None
    store.put(f"{version.folder}/{stage}/manifest.json", replace(manifest, **values).to_json())


def listed(capfd: Output) -> dict[str, dict]:
    code, output, errors = run("versions --config own.yaml --json", capfd)
    assert code == 0, errors
    return {item["version"]: item for item in json.loads(output)}


def test_each_state_is_listed(store: Store, capfd: Output) -> None:
    create_version(store, "2026-01-01", "a")
    create_version(store, "2026-01-02", "a", stages=("crawl", "quality"), captions=False)
    create_version(store, "2026-01-03", "a", stages=("crawl",))
    store.put("demo/2026-01-03/quality/report/findings.json", b"{}")
    create_version(store, "2026-01-04", "a", stages=("crawl", "quality"))
    broken = create_version(store, "2026-01-05", "a")
    store.put(f"{broken.folder}/crawl/manifest.json", b"{")
    tombstone(store, create_version(store, "2026-01-06", "a"), Deletion("2026-02-01", "old", None))
    found = listed(capfd)
    assert {name: item["state"] for name, item in found.items()} == {
        "2026-01-01": "published",
        "2026-01-02": "complete",
        "2026-01-03": "rejected",
        "2026-01-04": "unfinished",
        "2026-01-05": "corrupt",
    }
    assert "2026-01-05/crawl/manifest.json is not a manifest" in found["2026-01-05"]["error"]
    code, output, _ = run("versions --config own.yaml", capfd)
    assert code == 0
    assert [line.split()[0] for line in output.splitlines()] == [
        *("version", "2026-01-01", "2026-01-02", "2026-01-03", "2026-01-05", "1"),
    ]
    assert output.splitlines()[-1] == "1 unfinished; --all shows them"
    _, output, _ = run("versions --config own.yaml --all", capfd)
    assert "2026-01-04" in output


def test_sizes_and_times_are_those_of_the_own_stages(store: Store, capfd: Output) -> None:
    first = create_version(store, "2026-01-01", "a")
    second = create_version(store, "2026-01-01", "b", reused={"crawl": first, "quality": first})
    for version in (first, second):
        notes = {"vlm_prompt_tokens": 1000, "vlm_tokens": 50, "llm_tokens": 7, "vlm_cost_millionths": 1_500_000}
        provenance = {"created": "2026-02-03T04:05:06+00:00", "seconds": 61.5, "notes": notes}
        change(store, version, "rewrite", provenance=provenance)
        change(store, version, "assemble", provenance=provenance | {"notes": {}, "seconds": 1})
    change(store, first, "crawl", provenance={"created": "2026-02-03T04:05:06+00:00", "seconds": 100})
    sizes = {
        (version.name, stage): sum(entry.bytes for entry in manifest.files)
        for version in (first, second)
        for stage in ("crawl", "quality", "rewrite", "assemble")
        if (manifest := read_manifest(store, f"{version.folder}/{stage}"))
    }
    for name in ("2026-01-01", "2026-01-01-r2"):  # nothing but manifests is read
        for stage in store.folders(f"demo/{name}"):
            store.remove(f"demo/{name}/{stage}/00000.parquet")
    found = listed(capfd)
    assert found["2026-01-01"]["bytes"] == sum(sizes["2026-01-01", stage] for stage in store.folders(first.folder))
    assert found["2026-01-01-r2"]["bytes"] == sizes["2026-01-01-r2", "rewrite"] + sizes["2026-01-01-r2", "assemble"]
    assert [found[name]["seconds"] for name in found] == [162.5, 62.5]
    for item in found.values():
        assert (item["prompt_tokens"], item["tokens"], item["cost"], item["trained"]) == (1000, 57, 1.5, False)
        assert item["created"].startswith("20")
    assert found["2026-01-01-r2"]["changes"] == [{"key": "crawl.settings", "a": "a", "b": "b"}]
    _, output, _ = run("versions --config own.yaml", capfd)
    head, one, two = output.splitlines()
    assert head.split() == (
        [
            "version",
            "created",
            "state",
            "crawled",
            "accepted",
            "captioned",
            "assembled",
            "size",
            "time",
            "tokens",
            "cost",
            "trained",
            "digest",
            "note",
        ]
    )
    assert [part for part in (" 2:42  ", "1,057", "1.5000", "no") if part in one] == [
        " 2:42  ",
        "1,057",
        "1.5000",
        "no",
    ]
    assert two.endswith("crawl.settings 'a' -> 'b'")


def test_the_creation_of_an_old_version_is_that_of_its_first_stage(store: Store, capfd: Output) -> None:
    version = create_version(store, "2026-01-01", "a")
    body = json.loads(store.read(f"{version.folder}/version.json"))
    for name in ("created", "seal"):  # as release 0.1.0 wrote it
        del body[name]
    store.put(f"{version.folder}/version.json", json.dumps(body).encode())
    change(store, version, "crawl", provenance={"created": "2025-02-03T04:05:06+00:00"})
    assert listed(capfd)["2026-01-01"]["created"] == "2025-02-03T04:05:06+00:00"


def test_a_note_is_written_replaced_and_removed(store: Store, capfd: Output) -> None:
    create_version(store, "2026-01-01", "a")
    for text, expected in (("the\n first", "the first"), ("another", "another"), ("", "")):
        assert run(f"note --config own.yaml --version 2026-01-01 '{text}'", capfd)[0] == 0
        assert listed(capfd)["2026-01-01"]["note"] == expected
        assert store.folders("demo") == ["2026-01-01", "_notes"]
    code, _, errors = run("note --config own.yaml --version 2026-01-02 x", capfd)
    assert (code, "no version 2026-01-02" in errors) == (1, True)


def test_a_version_without_work_is_not_reported_as_verified_and_can_be_deleted(store: Store, capfd: Output) -> None:
    register(store, "demo", "2026-02-30", "a", {"crawl": {}})  # release 0.1.0 registered it
    assert run("verify --config own.yaml --all", capfd)[1] == "2026-02-30: nothing to verify: no stage is finished\n"
    assert listed(capfd)["2026-02-30"]["state"] == "unfinished"
    code, output, _ = run("gc --config own.yaml --keep-days 0 --delete", capfd)
    assert code == 0
    assert output.startswith("unfinished demo/2026-02-30 ")
    assert listed(capfd) == {}
    assert store.tree("demo") == []


COMMANDS = (
    *("run", "crawl", "quality", "rewrite", "assemble", "train", "evaluate", "show", "verify", "quarantine"),
    *("note", "lineage", "diff", "compare"),
)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_version_that_does_not_exist_is_never_replaced_by_another(
    demo_config: object, store: Store, capfd: Output, command: str
) -> None:
    for settings in "ab":
        create_version(store, "2026-01-01", settings)
    before = store.tree()
    name = "2026-01-01-r3"
    options = {
        "note": f"--version {name} text",
        "lineage": name,
        "diff": f"2026-01-01 {name}",
        "compare": f"{name}/mixed-0 2026-01-01/mixed-0",
    }.get(command, f"--version {name}")
    code, output, errors = run(f"{command} --config {DEMO} {options}", capfd)
    assert (code, output) == (1, "")
    assert errors.splitlines()[-1].startswith("vecap: ")
    assert f"no version {name}; its versions are: 2026-01-01, 2026-01-01-r2" in errors
    assert store.tree() == before


@pytest.mark.parametrize(
    "command",
    [
        "note --version 2026-01-01 text",
        "verify --version 2026-01-01",
        "lineage 2026-01-01",
        "diff 2026-01-01 2026-01-02",
    ],
)
def test_a_newer_revision_of_the_version_that_is_named_is_mentioned(store: Store, capfd: Output, command: str) -> None:
    def hints() -> list[str]:
        name, _, options = command.partition(" ")
        _, _, errors = run(f"{name} --config own.yaml {options}", capfd)
        return [line for line in errors.splitlines() if "newer revision" in line]

    create_version(store, "2026-01-01", "a")
    create_version(store, "2026-01-02", "a", stages=("crawl",))  # diff reads no tables
    assert hints() == []
    create_version(store, "2026-01-01", "b", stages=("crawl",))
    says = "2026-01-01 has the newer revision 2026-01-01-r2 (unfinished); name 2026-01-01-r2 to use it"
    assert hints() == [says]
    create_version(store, "2026-01-01", "c")
    create_version(store, "2026-01-01", "d", stages=("crawl",))
    assert hints() == ["2026-01-01 has the newer revision 2026-01-01-r3; name 2026-01-01-r3 to use it"]
    named_version(store, "demo", "2026-01-01", "2026-01-01-r3")  # of `diff 2026-01-01 2026-01-01-r3`
    assert capfd.readouterr().err == ""


def test_a_version_that_lacks_a_stage_names_the_revision_to_use(store: Store, capfd: Output) -> None:
    create_version(store, "2026-01-01", "a", stages=("crawl",))
    export = "export --config own.yaml --version 2026-01-01 --format hf --out out"
    says = "vecap: version 2026-01-01 cannot be exported: its stage quality is not finished; "
    assert run(export, capfd)[2] == f"{says}run `vecap quality --version 2026-01-01` first\n"
    create_version(store, "2026-01-01", "b", stages=("crawl",))
    finish = "finish its newer revision with `vecap run --version 2026-01-01-r2`, and use that"
    assert run(export, capfd)[2] == f"{says}{finish}\n"
    create_version(store, "2026-01-01", "c")
    assert run(export, capfd)[2] == f"{says}use its newer revision 2026-01-01-r3, which is published\n"


def test_a_run_ends_with_the_published_version_and_the_next_commands(store: Store, capfd: Output) -> None:
    version = create_version(store, "2026-01-01", "a")
    change(store, version, "assemble", counters={"samples": 1191})
    manifest = read_manifest(store, f"{version.folder}/assemble")
    assert manifest is not None
    outcomes = {"assemble": _StageOutcome(manifest, 1, 1.0)}
    arguments = Namespace(config="my photos/vecap.yaml")
    options = "--config 'my photos/vecap.yaml' --version 2026-01-01"
    _print_published(arguments, version, outcomes)
    shown, errors = capfd.readouterr()
    assert shown == ""
    assert errors == (
        f"published 2026-01-01: 1,191 samples; next: vecap show {options}, "
        f"vecap export {options} --format FORMAT --out DIR\n"
    )
    build_parser().parse_args(shlex.split(f"show {options}"))
    build_parser().parse_args(shlex.split(f"export {options} --format hf --out DIR"))
    _print_published(arguments, version, outcomes | {"train": outcomes["assemble"]})
    assert capfd.readouterr().err == "published 2026-01-01: 1,191 samples\n"
