"""Image rules and group rules: flat images, placeholders, opt-outs, scores, host caps and releases."""

import json
from collections import Counter

import pyarrow as pa
import pytest
from pydantic import ValidationError

from tests.quality.factories import crawled, judge
from vecap_tasks.config import QualityConfig
from vecap_tasks.core.releases import Released
from vecap_tasks.core.schemas import SCORES

SCORE = "clip_l14_similarity_score"


def captions(count):
    return [f"A heron, seen for the {n}th time" for n in range(count)]


def reasons(found):
    return [row["reasons"] for row in found]


def test_flat_images_are_rejected_unless_disabled():
    rows = crawled(captions(2), phash=["0123456789abcdef", None])
    assert reasons(judge(rows)) == [[], ["flat"]]
    assert reasons(judge(rows, rows={"reject_flat": False})) == [[], []]


def test_opt_outs_have_their_own_reason():
    status = ["failed_to_download"] * 3
    rows = crawled(captions(3), status=status, error_message=["opt_out: noai", "robots", "http_404"])
    assert reasons(judge(rows)) == [["opted_out"], ["opted_out"], ["not_downloaded"]]


def test_an_image_with_many_alttexts_is_a_placeholder():
    """Rows 0-3 have one image with four AltTexts, rows 4-7 one image with one AltText, row 8 a distinct image."""
    texts = [*captions(4), *["A beagle"] * 4, "An oak"]
    hashes = ["aa" * 8] * 4 + ["bb" * 8] * 4 + ["cc" * 8]
    found = judge(crawled(texts, phash=hashes), rows={"max_alttexts_per_image": 3})
    assert reasons(found) == [["placeholder"]] * 4 + [[]] * 5
    assert reasons(judge(crawled(texts, phash=hashes), rows={"max_alttexts_per_image": 4})) == [[]] * 9


def test_source_scores_are_checked_against_their_limits():
    scores = [json.dumps({SCORE: value}) for value in (0.1, 0.2, 0.3, 0.4)] + [None, "{}", '{"other": 1}', "no JSON"]
    rows = crawled(captions(8), scores=scores)
    rejected = [f"score:{SCORE}"]
    found = judge(rows, rows={"scores": {SCORE: {"min": 0.2, "max": 0.3}}})
    assert reasons(found) == [rejected, [], [], rejected, rejected, rejected, rejected, rejected]
    kept = judge(rows, rows={"scores": {SCORE: {"min": 0.2, "keep_missing": True}}})
    assert reasons(kept) == [rejected, *[[]] * 7]


@pytest.mark.parametrize(("fraction", "kept"), [(0.3, 3), (0.5, 5), (1.0, 10), (0.01, 1)])
def test_the_top_fraction_of_scores_is_kept(fraction, kept):
    scores = [json.dumps({"s": (n * 7) % 10 / 10}) for n in range(10)]
    found = judge(crawled(captions(10), scores=scores), rows={"scores": {"s": {"top_fraction": fraction}}})
    accepted = sorted((n * 7) % 10 for n, row in enumerate(found) if row["accepted"])
    assert accepted == list(range(10 - kept, 10))


def test_the_top_fraction_counts_only_downloaded_rows():
    scores = [json.dumps({"s": n}) for n in range(4)]
    status = ["success", "success", "failed_to_download", "failed_to_download"]
    found = judge(crawled(captions(4), scores=scores, status=status), rows={"scores": {"s": {"top_fraction": 0.5}}})
    assert [row["accepted"] for row in found] == [False, True, False, False]


def test_a_score_without_a_limit_is_a_configuration_error():
    with pytest.raises(ValidationError, match="a score needs a limit"):
        QualityConfig.model_validate({"rows": {"scores": {"s": {}}}})


def test_clip_similarity_rejects_only_rows_with_usable_alttext():
    rows = crawled(["A heron", "A beagle", "IMG_1234.jpg", None])
    lines = [
        {"key": row["key"], "uid": row["uid"], "sha256": row["sha256"], "text_md5": "-", "scored_by": "-"}
        | {"similarity": value}
        for row, value in zip(rows, (0.1, 0.4, 0.0, None), strict=True)
    ]
    table = pa.Table.from_pylist(lines, schema=SCORES)
    found = judge(rows, scores=table, clip={"model": "none", "min_similarity": 0.3})
    assert reasons(found) == [["score:clip_similarity"], [], [], []]
    assert reasons(judge(rows, scores=table, clip={"model": "none", "top_fraction": 0.5}))[:2] == [
        ["score:clip_similarity"],
        [],
    ]
    assert reasons(judge(rows, scores=table, clip={"model": "none"})) == [[]] * 4


def urls_of(counts):
    return [f"https://{host}.example/{n}.jpg" for host, count in counts.items() for n in range(count)]


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        ({"max_host_rows": 3}, {"big": 3, "mid": 3, "one": 1}),
        ({"max_host_share": 0.25}, {"big": 4, "mid": 4, "one": 1}),
        ({"max_host_rows": 5, "max_host_share": 0.375}, {"big": 5, "mid": 5, "one": 1}),
        ({"max_host_share": 0.001}, {"big": 1, "mid": 1, "one": 1}),
    ],
)
def test_host_caps_do_not_depend_on_the_row_order(rules, kept):
    urls = urls_of({"big": 10, "mid": 5, "one": 1})
    rows = crawled(captions(16), url=urls)
    found = judge(rows, rows=rules)
    hosts = {row["uid"]: url.split("/")[2].split(".")[0] for row, url in zip(rows, urls, strict=True)}
    chosen = {row["uid"] for row in found if row["accepted"]}
    assert Counter(hosts[uid] for uid in chosen) == kept
    assert all(row["reasons"] == ["host_cap"] for row in found if not row["accepted"])
    reordered = [dict(row, key=f"{n:09d}") for n, row in enumerate(reversed(rows))]
    assert {row["uid"] for row in judge(reordered, rows=rules) if row["accepted"]} == chosen


def test_rejected_rows_do_not_count_toward_a_host_cap():
    rows = crawled(captions(4), phash=[None, "11" * 8, None, "22" * 8], url=urls_of({"a": 4}))
    assert reasons(judge(rows, rows={"max_host_rows": 2})) == [["flat"], [], ["flat"], []]


def test_a_release_waives_its_reasons_but_never_a_missing_image():
    rows = crawled(
        captions(4),
        phash=[None, None, "11" * 8, None],
        original_width=[64, 8, 8, None],
        status=["success", "success", "success", "failed_to_download"],
    )
    uids = tuple(row["uid"] for row in rows)
    config = {"rows": {"min_side": 16, "max_aspect": 100}}
    assert reasons(judge(rows, **config)) == [["flat"], ["too_small", "flat"], ["too_small"], ["not_downloaded"]]
    by_reason = judge(rows, released=Released(reasons=("flat", "not_downloaded")), **config)
    assert reasons(by_reason) == [[], ["too_small"], ["too_small"], ["not_downloaded"]]
    assert [row["released"] for row in by_reason] == [["flat"], ["flat"], None, None]
    by_uid = judge(rows, released=Released(uids=uids[1:]), **config)
    assert reasons(by_uid) == [["flat"], [], [], ["not_downloaded"]]
    assert [row["accepted"] for row in by_uid] == [False, True, True, False]
    assert [row["released"] for row in by_uid] == [None, ["too_small", "flat"], ["too_small"], None]
