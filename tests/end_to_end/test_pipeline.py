"""From a crawl to a table of arms, as a person runs it; killed on the way; fed with rubbish."""

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
    found = sorted([*folder.glob("*/manifest.json"), *folder.glob("*/*/manifest.json")])
    return {str(path.parent.relative_to(folder)): json.loads(path.read_bytes())["digest"] for path in found}


def test_every_stage_is_there_and_counts_add_up(undisturbed: Place) -> None:
    stages = {name.partition("/")[0] for name in digests(undisturbed)}
    assert stages == {"crawl", "quality", "rewrite", "assemble", "train", "evaluate"}
    listed = json.loads(undisturbed.here("versions", "--json").stdout)
    (row,) = listed
    assert row["crawled"] == IMAGES
    counters = json.loads(undisturbed.here("crawl", "--version", INTERVAL, "--json").stdout)[0]["counters"]
    failed = sum(count for name, count in counters.items() if name.startswith("error."))
    assert counters["success"] + failed == counters["candidates"] == IMAGES
    assert counters["failed_to_download"] + counters["failed_to_resize"] == failed
    assert IMAGES > row["downloaded"] > row["accepted"] >= row["captioned"] >= row["assembled"] > 0


def test_a_second_run_finds_everything_done(undisturbed: Place) -> None:
    before = digests(undisturbed)
    done = undisturbed.here("run", "--version", INTERVAL, "--json")
    assert done.returncode == 0, done.stderr
    assert [stage["shards_run"] for stage in json.loads(done.stdout)] == [0] * 6
    said = undisturbed.here("assemble", "--version", INTERVAL).stdout
    digest = before["assemble"][:12]
    assert f"version {INTERVAL} ({digest}) is already complete; nothing to do" in said
    assert digests(undisturbed) == before


def link_stages(source: Place, place: Place, *names: str) -> Path:
    """Link what *source* has of the interval into the empty *place*, and return the version's folder there."""
    version = place.home / "store" / "demo" / INTERVAL
    version.mkdir(parents=True)
    for name in names:
        (version / name).symlink_to(source.home / "store" / "demo" / INTERVAL / name)
    return version


def finish(place: Place, undisturbed: Place) -> None:
    done = place.vecap("run", "--version", INTERVAL)
    assert done.returncode == 0, done.stderr
    assert digests(place) == digests(undisturbed)


def test_killed_while_it_captions_it_ends_with_the_same_bytes(undisturbed: Place, place: Place) -> None:
    """`tests/faults` has every other moment."""
    version = link_stages(undisturbed, place, "crawl", "quality", "version.json")
    assert place.vecap_until("rewrite", version / "rewrite" / "_shards" / "00000.json", "--version", INTERVAL)
    done = place.vecap("rewrite", "--version", INTERVAL)
    assert done.returncode == 0, done.stderr
    assert digests(place)["rewrite"] == digests(undisturbed)["rewrite"]
    assert place.here("verify", "--version", INTERVAL).returncode == 0


@pytest.mark.exhaustive
def test_killed_in_every_stage_it_ends_with_the_same_bytes(undisturbed: Place, place: Place) -> None:
    version = place.home / "store" / "demo" / INTERVAL
    moments = [
        version / "crawl" / "candidates.parquet",
        version / "crawl" / "_shards" / "00001.json",
        version / "crawl" / "manifest.json",
        version / "quality" / "verdicts.parquet",
        version / "quality" / "manifest.json",
        version / "rewrite" / "manifest.json",
        version / "assemble" / "00000.tar",
    ]
    killed = [place.vecap_until("run", moment, "--version", INTERVAL) for moment in moments]
    assert all(killed)
    finish(place, undisturbed)
    assert place.here("verify", "--version", INTERVAL).returncode == 0


@pytest.mark.exhaustive
def test_killed_while_training_and_evaluating(undisturbed: Place, place: Place) -> None:
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


def test_a_changed_byte_is_found_and_named(undisturbed: Place, place: Place) -> None:
    import shutil

    shutil.copytree(undisturbed.home / "store", place.home / "store")
    assert place.here("verify", "--version", INTERVAL).returncode == 0
    damaged = place.home / "store" / "demo" / INTERVAL / "rewrite" / "00000.parquet"
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    for command in (("verify", "--version", INTERVAL), ("lineage", INTERVAL)):
        answer = place.here(*command)
        assert answer.returncode == 1
        assert "rewrite/00000.parquet" in answer.stdout.replace("\n", "")


@pytest.mark.exhaustive
def test_another_prompt_makes_a_revision_and_downloads_nothing(undisturbed: Place, place: Place) -> None:
    import shutil

    shutil.copytree(undisturbed.home / "store", place.home / "store")
    for stage in ("crawl", "quality", "rewrite", "assemble"):
        done = place.here(stage, "--version", INTERVAL, "--set", "rewrite.llm.max_new_tokens=48", "--json")
        assert done.returncode == 0, done.stderr
        (outcome,) = json.loads(done.stdout)
        assert outcome["version"] == f"{INTERVAL}-r2"
        assert bool(outcome["shards_run"]) == (stage in ("rewrite", "assemble"))
    compared = place.here("diff", INTERVAL, f"{INTERVAL}-r2", "--json")
    changed = json.loads(compared.stdout)
    assert [setting["key"] for setting in changed["settings"]] == ["rewrite.llm.max_new_tokens"]
    assert changed["added"] == changed["gone"] == 0
    assert {length["text"] for length in changed["lengths"]} == {"alttext", "vec", "vecap"}
    assert all(length["mean_a"] > 0 and length["median_b"] > 0 for length in changed["lengths"])
    assert all(count["a"] == count["b"] for count in changed["counts"] if count["what"] == "rejected")
    whole = place.here("verify", "--all")
    assert whole.returncode == 0
    assert [line.split()[:2] for line in whole.stdout.splitlines()] == [
        [f"{INTERVAL}:", "OK:"],
        [f"{INTERVAL}-r2:", "OK:"],
    ]


def test_unfinished_work_is_listed_and_goes_once_it_is_old(place: Place) -> None:
    assert place.here("crawl", "--version", INTERVAL).returncode == 0
    assert "1 unfinished; --all shows them" in place.here("versions").stdout
    assert "unfinished" in place.here("versions", "--all").stdout.splitlines()[1]
    asked = ("gc", "--keep-days", "2")
    assert place.here(*asked).stdout == "nothing to delete under this policy\n"
    store = place.home / "store"
    for file in store.rglob("*"):
        os.utime(file, (file.stat().st_atime, file.stat().st_mtime - 3 * 86_400))
    assert f"unfinished demo/{INTERVAL}" in place.here(*asked).stdout
    assert (store / "demo" / INTERVAL / "crawl" / "manifest.json").exists(), "the dry run changes nothing"
    gone = json.loads(place.here(*asked, "--delete", "--json").stdout)
    assert [removal["what"] for removal in gone["removals"]] == ["unfinished"]
    assert gone["bytes"] > 0
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
def test_bad_input_is_one_line_and_leaves_nothing(place: Place, override: str, message: str) -> None:
    done = place.here("run", "--version", INTERVAL, "--set", override)
    assert done.returncode == 1
    said = done.stderr.strip().splitlines()[-1]
    assert said.startswith("vecap: ")
    assert message in said
    assert "Traceback" not in done.stderr
    assert not list(place.home.rglob("manifest.json"))


def test_a_warc_cut_short(place: Place, web: Place, tmp_path: Path) -> None:
    whole = (web.home / "web" / "warc" / f"{INTERVAL}.warc.gz").read_bytes()
    (tmp_path / "cut.warc.gz").write_bytes(whole[: len(whole) * 2 // 3])
    done = place.here("crawl", "--version", INTERVAL, "--set", f"crawl.source.paths=[{tmp_path / 'cut.warc.gz'}]")
    assert done.returncode == 1
    assert "cut.warc.gz" in done.stderr.strip().splitlines()[-1]
    assert not list(place.home.rglob("manifest.json"))


def test_a_crawl_without_a_usable_row_is_refused_with_the_reasons_counted(place: Place, tmp_path: Path) -> None:
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
    done = place.here("run", "--version", INTERVAL, "--set", f"crawl.source.paths=[{tmp_path / 'none.warc.gz'}]")
    assert done.returncode == 1
    said = done.stderr.strip().splitlines()[-1]
    assert "7 http_404" in said
    assert json.loads(place.here("versions", "--json").stdout)[0]["digest"] is None
    assert "no published version" in place.here("versions").stdout
