"""Batches of a shard that was cut short: the next try takes them over, and makes the same bytes."""

import pytest

from tests.rewrite.server import Server
from vecap_tasks.core.manifest import Manifest
from vecap_tasks.core.worker_deaths import record_attempt
from vecap_tasks.errors import PermanentError, VecapError
from vecap_tasks.rewrite.batches import RejectedRequests
from vecap_tasks.rewrite.stage import Rewrite


@pytest.fixture
def rows(given):
    broken = given("A name", image=None)
    return [*(given(f"A Belvo {number} tulip", image=number) for number in range(80)), broken]


def finish(stage: Rewrite) -> Manifest:
    for shard in stage.plan():
        stage.run(shard)
    return stage.commit()


@pytest.mark.parametrize("batches", [2, 3, 6, 8])
def test_what_a_try_finished_is_not_written_again(place, rows, tmp_path, batches: int) -> None:
    undisturbed = finish(Rewrite(place.config(shard_size=100), place.lay_down(place.config(), rows)))
    place.folder = tmp_path / "again"
    stage = Rewrite(place.config(shard_size=100), place.lay_down(place.config(), rows))
    left = iter([True] * (batches - 1))
    stage.wanted = lambda: next(left, False)
    with pytest.raises(VecapError, match="rewrite 00000: nobody waits for it any more; what is done is kept"):
        stage.run("00000")
    assert stage.receipts() == []
    next_try = Rewrite(stage.config, stage.version)
    manifest = finish(next_try)
    assert manifest.digest == undisturbed.digest
    notes, whole = manifest.provenance["notes"], undisturbed.provenance["notes"]
    assert notes["taken_over"] >= 16 * (batches - 1)  # the row without a picture may have been one
    asked, needed = (sum(made[f"{role}_captions"] for role in ("vlm", "llm")) for made in (notes, whole))
    assert asked + notes["taken_over"] == needed
    assert stage.store.folders(f"{stage.folder}/_shards") == []


def test_a_try_that_another_overtook_leaves_nothing(place, rows) -> None:
    config = place.config(shard_size=100)
    slow = Rewrite(config, place.lay_down(config, rows))
    fast = Rewrite(config, slow.version)

    left = iter([True, False])

    def overtaken() -> bool:
        finish(fast)
        return next(left)  # so it keeps another batch before it knows

    slow.wanted = overtaken
    with pytest.raises(VecapError, match="nobody waits for it"), record_attempt(slow, "00000", "run"):
        slow.run("00000")
    assert slow.store.folders(f"{slow.folder}/_shards") == []


def test_a_store_that_is_lost_does_not_hide_what_failed_first(place, rows, monkeypatch, caplog) -> None:
    stage = Rewrite(place.config(shard_size=100), place.lay_down(place.config(), rows))

    def lost(*names: str) -> None:
        raise OSError("no route to the store")

    def fail() -> None:
        monkeypatch.setattr(stage.store, "remove", lost)
        raise VecapError("the first failure")

    with pytest.raises(VecapError, match="the first failure"), record_attempt(stage, "00000", "run"):
        fail()
    assert "rewrite 00000: cannot clean up: OSError: no route to the store" in caplog.text


def test_answers_of_a_server_are_kept_in_batches_too(place, rows) -> None:
    with Server() as server:
        served = {"backend": "openai", "model": "tiny", "server": {"urls": [server.url], "requests": 4}}
        config = place.config(shard_size=100)
        served["retry_temperature"] = 0
        models = {role: getattr(config.rewrite, role).model_dump() | served for role in ("vlm", "llm")}
        config = place.config(shard_size=100, **models)
        stage = Rewrite(config, place.lay_down(config, rows))
        left = iter([True] * 40)
        stage.wanted = lambda: next(left, False)
        with pytest.raises(VecapError, match="nobody waits for it"):
            stage.run("00000")
        before = len(server.asked)
        finish(Rewrite(config, stage.version))
        (receipt,) = stage.receipts()
        assert receipt.notes["taken_over"] >= 40
        asked = receipt.notes["vlm_captions"] + receipt.notes.get("llm_captions", 0)
        assert len(server.asked) - before == asked - 1  # the row without a picture is not sent


@pytest.mark.parametrize(("problem", "permanent"), [("image_refused", True), ("server_failed", False)])
def test_what_a_server_refuses_is_not_tried_again_and_what_it_did_not_answer_is(problem: str, permanent: bool) -> None:
    rejected = RejectedRequests("rewrite 00000", 0.9)
    rejected.check("vlm", [problem] * 18 + [None] * 2)
    with pytest.raises(VecapError, match="vlm: the server refused 19 of 20 requests") as told:
        rejected.check("vlm", [problem] * 19 + [None])
    assert isinstance(told.value, PermanentError) == permanent
