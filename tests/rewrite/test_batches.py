"""Batches of an interrupted shard: the next attempt resumes from them and gives the same bytes."""

import pytest

from tests.rewrite.server import Server
from vecap_tasks.core.executor import record_attempt
from vecap_tasks.core.manifest import Manifest
from vecap_tasks.errors import PermanentError, VecapError
from vecap_tasks.rewrite.batches import RejectedRequests
from vecap_tasks.rewrite.stage import Rewrite


@pytest.fixture
def rows(crawl_row):
    broken = crawl_row("A name", image=None)
    return [*(crawl_row(f"A Belvo {number} tulip", image=number) for number in range(80)), broken]


def finish(stage: Rewrite) -> Manifest:
    for shard in stage.plan():
        stage.run(shard)
    return stage.commit()


@pytest.mark.parametrize("batches", [2, 3, 6, 8])
def test_a_retry_resumes_finished_batches(sandbox, rows, tmp_path, batches: int) -> None:
    uninterrupted = finish(Rewrite(sandbox.config(shard_size=100), sandbox.write_crawl(sandbox.config(), rows)))
    sandbox.folder = tmp_path / "again"
    stage = Rewrite(sandbox.config(shard_size=100), sandbox.write_crawl(sandbox.config(), rows))
    left = iter([True] * (batches - 1))
    stage.should_continue = lambda: next(left, False)
    with pytest.raises(VecapError, match="rewrite 00000: task canceled; progress saved"):
        stage.run("00000")
    assert stage.receipts() == []
    retry = Rewrite(stage.config, stage.version)
    manifest = finish(retry)
    assert manifest.digest == uninterrupted.digest
    notes, whole = manifest.provenance["notes"], uninterrupted.provenance["notes"]
    assert notes["taken_over"] >= 16 * (batches - 2)  # the last batch of a model is smaller
    generated, needed = (sum(counts[f"{role}_captions"] for role in ("vlm", "llm")) for counts in (notes, whole))
    assert generated + notes["taken_over"] == needed
    assert stage.store.folders(f"{stage.folder}/_shards") == []


def test_an_attempt_that_another_overtook_leaves_no_files(sandbox, rows) -> None:
    config = sandbox.config(shard_size=100)
    slow = Rewrite(config, sandbox.write_crawl(config, rows))
    fast = Rewrite(config, slow.version)

    left = iter([True, False])

    def overtaken() -> bool:
        finish(fast)
        return next(left)  # stores another batch before the cancellation

    slow.should_continue = overtaken
    with pytest.raises(VecapError, match="task canceled"), record_attempt(slow, "00000", "run"):
        slow.run("00000")
    assert slow.store.folders(f"{slow.folder}/_shards") == []


def test_a_lost_store_does_not_hide_the_first_error(sandbox, rows, monkeypatch, caplog) -> None:
    stage = Rewrite(sandbox.config(shard_size=100), sandbox.write_crawl(sandbox.config(), rows))

    def lost(*names: str) -> None:
        raise OSError("no route to the store")

    def fail() -> None:
        monkeypatch.setattr(stage.store, "remove", lost)
        raise VecapError("the first failure")

    with pytest.raises(VecapError, match="the first failure"), record_attempt(stage, "00000", "run"):
        fail()
    assert "rewrite 00000: cannot clean up: OSError: no route to the store" in caplog.text


def test_texts_of_a_server_are_stored_in_batches(sandbox, rows) -> None:
    with Server() as server:
        served = {"backend": "openai", "model": "tiny", "server": {"urls": [server.url], "requests": 4}}
        config = sandbox.config(shard_size=100)
        served["retry_temperature"] = 0
        models = {role: getattr(config.rewrite, role).model_dump() | served for role in ("vlm", "llm")}
        config = sandbox.config(shard_size=100, **models)
        stage = Rewrite(config, sandbox.write_crawl(config, rows))
        left = iter([True] * 40)
        stage.should_continue = lambda: next(left, False)
        with pytest.raises(VecapError, match="task canceled"):
            stage.run("00000")
        before = len(server.requests)
        finish(Rewrite(config, stage.version))
        (receipt,) = stage.receipts()
        assert receipt.notes["taken_over"] >= 40
        generated = receipt.notes["vlm_captions"] + receipt.notes.get("llm_captions", 0)
        assert len(server.requests) - before == generated - 1  # the row without an image is not sent


@pytest.mark.parametrize(("problem", "permanent"), [("image_refused", True), ("server_failed", False)])
def test_rejected_requests_are_permanent_and_unanswered_ones_are_not(problem: str, permanent: bool) -> None:
    rejected = RejectedRequests("rewrite 00000", 0.9)
    rejected.check("vlm", [problem] * 18 + [None] * 2)
    with pytest.raises(VecapError, match="vlm: the server rejected 19 of 20 requests") as exc_info:
        rejected.check("vlm", [problem] * 19 + [None])
    assert isinstance(exc_info.value, PermanentError) == permanent
