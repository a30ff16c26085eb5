"""The stage quality: verdicts on a crawl's files, the quality gate and the report."""

import json
import shutil
import socket
import subprocess
import sys
from hashlib import sha256

import pyarrow.parquet as pq
import pytest

from tests.core.factories import flip_bit
from tests.quality.factories import Row, configure, give_crawl, run, stage, use_given
from vecap_tasks.core.schemas import VERDICTS
from vecap_tasks.errors import CorruptError, GateFailed, VecapError, format_error

FAILED = Row(status="failed_to_download", error_message="http_404")
PILLOW_ERRORS = Row(status="failed_to_resize", error_message="not_an_image: cannot identify")


@pytest.fixture(autouse=True)
def _prepared_stages(monkeypatch):
    use_given(monkeypatch)


def judged(folder, rows, **sections):
    """Run crawl and quality on *rows*; return the verdicts by row number, and the manifest."""
    config = configure(folder, **sections)
    give_crawl(folder, rows)
    run("crawl", config)
    manifest = run("quality", config)
    table = pq.read_table(stage("quality", config).store.path(f"{manifest.location}/verdicts"))
    assert table.schema.names == VERDICTS.names
    assert table["key"].to_pylist() == sorted(table["key"].to_pylist())
    return {int(row["uid"], 16): row for row in table.to_pylist()}, manifest


def test_every_row_has_a_verdict_and_the_counts_add_up(tmp_path):
    rows = [
        Row(),
        FAILED,
        Row(original_width=20, original_height=400),
        Row(original_width=900, original_height=100),
        Row(image=0, caption="The same beagle"),
        Row(caption=None),
        Row(caption="IMG_2041.jpg"),
        *(Row(caption=f"Beagle number {n} in the snow") for n in range(20)),
    ]
    verdicts, manifest = judged(tmp_path, rows)
    assert len(verdicts) == len(rows)
    assert [verdicts[n]["reasons"] for n in range(7)] == [
        [],
        ["not_downloaded"],
        ["too_small", "aspect"],
        ["aspect"],
        ["duplicate_image"],
        [],
        [],
    ]
    assert all(row["accepted"] == (not row["reasons"]) for row in verdicts.values())
    assert [verdicts[n]["alttext_problem"] for n in (0, 5, 6)] == [None, "missing", "file_name"]
    assert [verdicts[n]["alttext"] for n in (0, 5, 6)] == ["A beagle in the snow", None, None]
    assert manifest.counters == {
        "rows": 27,
        "accepted": 23,
        "refused": 4,
        "reason.not_downloaded": 1,
        "reason.too_small": 1,
        "reason.aspect": 2,
        "reason.duplicate_image": 1,
        "alttext.missing": 1,
        "alttext.file_name": 1,
    }


def test_rows_without_usable_alttext_are_rejected_only_if_required(tmp_path):
    rows = [Row(), Row(caption="image"), Row(caption=None)]
    verdicts, _ = judged(tmp_path, rows, quality={"rows": {"require_alttext": True}})
    assert [verdicts[n]["reasons"] for n in range(3)] == [[], ["no_alttext"], ["no_alttext"]]


def test_the_duplicate_with_usable_alttext_is_kept(tmp_path):
    rows = [
        Row(caption=None, image=1),
        Row(caption="image", image=1),
        Row(caption="A heron by the river", image=1),
        Row(caption="A heron again", image=1),
        Row(caption=None, image=2),
        Row(caption="", image=2),
        Row(caption="Alone"),
    ]
    verdicts, manifest = judged(tmp_path, rows)
    assert [n for n in verdicts if verdicts[n]["accepted"]] == [2, 4, 6]
    assert manifest.counters["reason.duplicate_image"] == 4


def test_a_duplicate_without_other_reasons_is_kept(tmp_path):
    rows = [Row(image=1, original_width=7), Row(image=1, original_width=64), Row(image=1)]
    verdicts, _ = judged(tmp_path, rows)
    assert [verdicts[n]["reasons"] for n in range(3)] == [["too_small", "aspect", "duplicate_image"], [], [
        "duplicate_image"
    ]]  # fmt: skip


def test_a_crawl_without_accepted_rows_fails_the_gate_with_counted_reasons(tmp_path):
    config = configure(tmp_path)
    give_crawl(tmp_path, [FAILED] * 30 + [PILLOW_ERRORS] * 10)
    run("crawl", config)
    with pytest.raises(GateFailed) as failed:
        run("quality", config)
    message = format_error(failed.value)
    quality = stage("quality", config)
    report = f"{quality.folder}/report/index.html"
    assert message == str(failed.value)
    assert message.startswith("quality gate failed for 2026-01-01: accepted_rows is 0, minimum 1")
    assert "40 rows: 30 http_404, 10 not_an_image; " in message
    assert f"{tmp_path}/store/{report}" in message
    assert "quality.gate" in message
    assert quality.manifest() is None
    page = quality.store.read(report).decode()
    assert "accepted_rows is 0" in page
    assert "http_404" in page
    assert quality.store.exists(f"{quality.folder}/report/data_docs/index.html")
    with pytest.raises(VecapError, match=r"stage quality of version .* is not finished"):
        stage("assemble", config).plan()
    with pytest.raises(GateFailed):  # a retry has the same result
        run("quality", config)


def test_an_empty_crawl_fails_the_gate(tmp_path):
    config = configure(tmp_path)
    give_crawl(tmp_path, [])
    run("crawl", config)
    with pytest.raises(GateFailed, match=r"rows is 0, minimum 1 .*; the crawl has no rows; see "):
        run("quality", config)


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        ({"min_accepted_rows": 7}, "accepted_rows is 6, minimum 7"),
        ({"min_download_share": 0.9}, "download_share is 0.8, minimum 0.9"),
        ({"min_accepted_share": 0.7}, "accepted_share is 0.6, minimum 0.7"),
        ({"max_duplicate_share": 0.2}, "duplicate_share is 0.25, maximum 0.2"),
    ],
)
def test_each_limit_can_fail_the_gate(tmp_path, gate, message):
    rows = [*(Row(image=n) for n in (1, 2, 3, 4, 5, 6, 6, 6)), FAILED, FAILED]
    with pytest.raises(GateFailed) as failed:
        judged(tmp_path, rows, quality={"gate": gate})
    assert message in str(failed.value)
    verdicts, _ = judged_again(tmp_path, quality={"gate": {}})
    assert sum(row["accepted"] for row in verdicts.values()) == 6


def judged_again(folder, **sections):
    """Run crawl and quality of *folder* again, in another store."""
    config = configure(folder, root=str(folder / "other"), **sections)
    run("crawl", config)
    manifest = run("quality", config)
    table = pq.read_table(stage("quality", config).store.path(f"{manifest.location}/verdicts"))
    return dict(enumerate(table.to_pylist())), manifest


def test_the_same_crawl_gives_the_same_bytes(tmp_path):
    rows = [Row(caption=f"Beagle {n} & friends", image=n // 2) for n in range(60)]
    _, first = judged(tmp_path, rows)
    _, second = judged_again(tmp_path, quality={"memory_limit": "200MB"})
    assert first.digest == second.digest
    pages = {entry.path for entry in first.attachments}
    assert "report/data_docs/index.html" in pages
    assert not any("/store/" in entry.path for entry in first.files)


def test_the_report_has_findings_and_escapes_text(tmp_path):
    rows = [Row(caption="<script>alert(1)</script>"), Row(caption="DSC0042.jpg"), Row(), FAILED]
    _, manifest = judged(tmp_path, rows)
    quality = stage("quality", configure(tmp_path))
    page = quality.store.read(manifest.file("report/index.html")).decode()
    found = json.loads(quality.store.read(manifest.file("report/measures.json")))
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "DSC0042.jpg" in page
    assert "Quality gate: passed, 0 warnings" in page
    assert found["measures"]["rows"] == 4
    assert found["measures"]["download_share"] == 0.75
    assert found["measures"]["alttext_share"] == 0.5
    assert found["measures"]["hosts"] == 3
    assert found["distributions"]["hosts"] == {"host0.example": 2, "host1.example": 1, "host2.example": 1}
    assert [reason["name"] for reason in found["refused"]] == ["http_404"]
    for entry in (*manifest.files, *manifest.attachments):
        data = quality.store.read(f"{manifest.location}/{entry.path}")
        assert sha256(data).hexdigest() == entry.sha256


def test_the_stage_uses_no_network_and_writes_no_other_files(tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("the stage opened a connection")

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.chdir(elsewhere)
    judged(tmp_path, [Row(), Row(image=3)])
    assert list(elsewhere.iterdir()) == []
    assert list((tmp_path / "store" / ".staging").iterdir()) == []


def test_great_expectations_is_imported_only_for_the_gate():
    code = (
        "import sys, vecap_tasks.quality.stage, vecap_tasks.assemble.stage;"
        "sys.exit(bool({'great_expectations', 'pandas', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_changed_threshold_changes_the_fingerprint(tmp_path):
    plain = stage("quality", configure(tmp_path)).fingerprint
    assert stage("quality", configure(tmp_path, quality={"rows": {"min_side": 33}})).fingerprint != plain
    assert stage("quality", configure(tmp_path, quality={"memory_limit": "2GB"})).fingerprint == plain
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize("name", ["00000.parquet", "duplicates.parquet"])
def test_a_corrupt_crawl_is_an_error(tmp_path, name):
    config = configure(tmp_path)
    give_crawl(tmp_path, [Row() for _ in range(3)])
    run("crawl", config)
    quality = stage("quality", config)
    flip_bit(quality.store, f"{quality.version.folder}/crawl/{name}")
    with pytest.raises(CorruptError, match=rf"crawl/{name} is corrupt: .*; restore it, or delete"):
        run("quality", config)
    assert quality.manifest() is None
