"""From a crawl to a table of arms with `vecap`: complete runs, killed runs, and invalid input."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Place
from tests.installation import IMAGES, INTERVAL

pytestmark = pytest.mark.slow


def digests(place: Place) -> dict[str, str]:
    """Return the digest of every stage of the interval, by its folder."""
    folder = place.home / "store" / "demo" / INTERVAL
    manifests = sorted([*folder.glob("*/manifest.json"), *folder.glob("*/*/manifest.json")])
    return {str(path.parent.relative_to(folder)): json.loads(path.read_bytes())["digest"] for path in manifests}


def test_every_stage_is_complete_and_counts_add_up(undisturbed: Place) -> None:
    stages = {name.partition("/")[0] for name in digests(undisturbed)}
    assert stages == {"crawl", "quality", "rewrite", "assemble", "train", "evaluate"}
    versions = json.loads(undisturbed.run_in_process("versions", "--json").stdout)
    (row,) = versions
    assert row["crawled"] == IMAGES
    counters = json.loads(undisturbed.run_in_process("crawl", "--version", INTERVAL, "--json").stdout)[0]["counters"]
    failed = sum(count for name, count in counters.items() if name.startswith("error."))
    assert counters["success"] + failed == counters["candidates"] == IMAGES
    assert counters["failed_to_download"] + counters["failed_to_resize"] == failed
    assert IMAGES > row["downloaded"] > row["accepted"] >= row["captioned"] >= row["assembled"] > 0


def test_a_second_run_has_nothing_to_do(undisturbed: Place) -> None:
    before = digests(undisturbed)
    result = undisturbed.run_in_process("run", "--version", INTERVAL, "--json")
    assert result.returncode == 0, result.stderr
    assert [stage["shards_run"] for stage in json.loads(result.stdout)] == [0] * 6
    output = undisturbed.run_in_process("assemble", "--version", INTERVAL).stdout
    digest = before["assemble"][:12]
    assert f"version {INTERVAL} ({digest}) is already complete; nothing to do" in output
    assert digests(undisturbed) == before


def link_stages(source: Place, place: Place, *names: str) -> Path:
    """Link the stages *names* of the interval from *source* into the empty *place*; return the version's folder."""
    version = place.home / "store" / "demo" / INTERVAL
    version.mkdir(parents=True)
    for name in names:
        (version / name).symlink_to(source.home / "store" / "demo" / INTERVAL / name)
    return version


def finish(place: Place, undisturbed: Place) -> None:
    result = place.vecap("run", "--version", INTERVAL)
    assert result.returncode == 0, result.stderr
    assert digests(place) == digests(undisturbed)


def test_a_run_killed_during_captioning_ends_with_the_same_bytes(undisturbed: Place, place: Place) -> None:
    """`tests/faults` covers all other moments."""
    version = link_stages(undisturbed, place, "crawl", "quality", "version.json")
    assert place.vecap_until("rewrite", version / "rewrite" / "_shards" / "00000.json", "--version", INTERVAL)
    result = place.vecap("rewrite", "--version", INTERVAL)
    assert result.returncode == 0, result.stderr
    assert digests(place)["rewrite"] == digests(undisturbed)["rewrite"]
    assert place.run_in_process("verify", "--version", INTERVAL).returncode == 0


@pytest.mark.exhaustive
def test_a_run_killed_in_every_stage_ends_with_the_same_bytes(undisturbed: Place, place: Place) -> None:
    version = place.home / "store" / "demo" / INTERVAL
    moments = [
        version / "crawl" / "_candidates" / "index.json",
        version / "crawl" / "_shards" / "00001.json",
        version / "crawl" / "manifest.json",
        version / "quality" / "verdicts" / "00000.parquet",
        version / "quality" / "manifest.json",
        version / "rewrite" / "manifest.json",
        version / "assemble" / "00000.tar",
    ]
    killed = [place.vecap_until("run", moment, "--version", INTERVAL) for moment in moments]
    assert all(killed)
    finish(place, undisturbed)
    assert place.run_in_process("verify", "--version", INTERVAL).returncode == 0


@pytest.mark.exhaustive
def test_a_run_killed_during_training_and_evaluation_ends_with_the_same_bytes(undisturbed: Place, place: Place) -> None:
    version = link_stages(undisturbed, place, "crawl", "quality", "rewrite", "assemble", "version.json")
    source = undisturbed.home / "store" / "demo" / INTERVAL
    train, evaluate = (next(source.glob(f"{stage}/*")).relative_to(source) for stage in ("train", "evaluate"))
    moments = [
        version / train / "_shards" / "alttext-0.json",
        version / train / "manifest.json",
        version / evaluate / "_shards" / "alttext-0.json",
    ]
    for moment in moments:
        assert place.vecap_until("run", moment, "--version", INTERVAL)
    finish(place, undisturbed)


def test_a_changed_byte_is_detected_and_the_file_is_named(undisturbed: Place, place: Place) -> None:
    import shutil

    shutil.copytree(undisturbed.home / "store", place.home / "store")
    assert place.run_in_process("verify", "--version", INTERVAL).returncode == 0
    corrupt = place.home / "store" / "demo" / INTERVAL / "rewrite" / "00000.parquet"
    data = bytearray(corrupt.read_bytes())
    data[len(data) // 2] ^= 1
    corrupt.write_bytes(data)
    for command in (("verify", "--version", INTERVAL), ("lineage", INTERVAL)):
        result = place.run_in_process(*command)
        assert result.returncode == 1
        assert "rewrite/00000.parquet" in result.stdout.replace("\n", "")


@pytest.mark.exhaustive
def test_another_prompt_creates_a_revision_and_downloads_nothing(undisturbed: Place, place: Place) -> None:
    import shutil

    shutil.copytree(undisturbed.home / "store", place.home / "store")
    for stage in ("crawl", "quality", "rewrite", "assemble"):
        result = place.run_in_process(stage, "--version", INTERVAL, "--set", "rewrite.llm.max_new_tokens=48", "--json")
        assert result.returncode == 0, result.stderr
        (outcome,) = json.loads(result.stdout)
        assert outcome["version"] == f"{INTERVAL}-r2"
        assert bool(outcome["shards_run"]) == (stage in ("rewrite", "assemble"))
    result = place.run_in_process("diff", INTERVAL, f"{INTERVAL}-r2", "--json")
    changed = json.loads(result.stdout)
    assert [setting["key"] for setting in changed["settings"]] == ["rewrite.llm.max_new_tokens"]
    assert changed["added"] == changed["gone"] == 0
    assert {length["text"] for length in changed["lengths"]} == {"alttext", "vec", "vecap"}
    assert all(length["mean_a"] > 0 and length["median_b"] > 0 for length in changed["lengths"])
    assert all(count["a"] == count["b"] for count in changed["counts"] if count["what"] == "rejected")
    verified = place.run_in_process("verify", "--all")
    assert verified.returncode == 0
    assert [line.split()[:2] for line in verified.stdout.splitlines()] == [
        [f"{INTERVAL}:", "OK:"],
        [f"{INTERVAL}-r2:", "OK:"],
    ]


def test_unfinished_work_is_listed_and_deleted_once_it_is_old(place: Place) -> None:
    assert place.run_in_process("crawl", "--version", INTERVAL).returncode == 0
    assert "1 unfinished; --all shows them" in place.run_in_process("versions").stdout
    assert "unfinished" in place.run_in_process("versions", "--all").stdout.splitlines()[1]
    command = ("gc", "--keep-days", "2")
    assert place.run_in_process(*command).stdout == "nothing to delete under this policy\n"
    store = place.home / "store"
    for file in store.rglob("*"):
        os.utime(file, (file.stat().st_atime, file.stat().st_mtime - 3 * 86_400))
    assert f"unfinished demo/{INTERVAL}" in place.run_in_process(*command).stdout
    assert (store / "demo" / INTERVAL / "crawl" / "manifest.json").exists(), "the dry run changes nothing"
    deleted = json.loads(place.run_in_process(*command, "--delete", "--json").stdout)
    assert [removal["what"] for removal in deleted["removals"]] == ["unfinished"]
    assert deleted["bytes"] > 0
    assert not [file for file in store.rglob("*") if file.is_file()]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("crawl.source.paths=[/no/such.warc.gz]", "/no/such.warc.gz"),
        ("crawl.source.kind=ftp", "crawl.source"),
        ("rewrite.vlm.model=/no/such/model", "/no/such/model"),
        ("train.epochs=many", "train.epochs"),
        ("rewrite.llm.prompt=nonsense", "nonsense"),
    ],
)
def test_invalid_input_is_reported_in_one_line_and_leaves_no_files(place: Place, override: str, message: str) -> None:
    result = place.run_in_process("run", "--version", INTERVAL, "--set", override)
    assert result.returncode == 1
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("vecap: ")
    assert message in line
    assert "Traceback" not in result.stderr
    assert not list(place.home.rglob("manifest.json"))


def test_a_truncated_warc_fails_the_crawl(place: Place, web: Place, tmp_path: Path) -> None:
    content = (web.home / "web" / "warc" / f"{INTERVAL}.warc.gz").read_bytes()
    (tmp_path / "truncated.warc.gz").write_bytes(content[: len(content) * 2 // 3])
    result = place.run_in_process(
        "crawl", "--version", INTERVAL, "--set", f"crawl.source.paths=[{tmp_path / 'truncated.warc.gz'}]"
    )
    assert result.returncode == 1
    assert "truncated.warc.gz" in result.stderr.strip().splitlines()[-1]
    assert not list(place.home.rglob("manifest.json"))


def test_a_crawl_without_usable_rows_is_rejected_with_counted_reasons(place: Place, tmp_path: Path) -> None:
    page = (
        b"<html><body>"
        + b"".join(b'<img src="/none-%d.jpg" alt="a red car">' % n for n in range(7))
        + b"</body></html>"
    )
    http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + page
    head = (
        "WARC/1.1\r\nWARC-Type: response\r\nWARC-Target-URI: http://nowhere.example/\r\n"
        "WARC-Date: 2026-01-01T00:00:00Z\r\nWARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-000000000001>\r\n"
        f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(http)}\r\n\r\n"
    )
    (tmp_path / "none.warc.gz").write_bytes(gzip.compress(head.encode() + http + b"\r\n\r\n"))
    result = place.run_in_process(
        "run", "--version", INTERVAL, "--set", f"crawl.source.paths=[{tmp_path / 'none.warc.gz'}]"
    )
    assert result.returncode == 1
    line = result.stderr.strip().splitlines()[-1]
    assert "7 http_404" in line
    assert json.loads(place.run_in_process("versions", "--json").stdout)[0]["digest"] is None
    assert "  rejected  " in place.run_in_process("versions").stdout
