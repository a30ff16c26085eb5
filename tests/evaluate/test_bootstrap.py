"""Bootstrap intervals and comparisons on answers with known distributions."""

from dataclasses import replace

import numpy as np
import pytest

from vecap_tasks.config import BootstrapConfig
from vecap_tasks.evaluate.bootstrap import arm_rounds, difference, interval, resample
from vecap_tasks.evaluate.metrics import Answers, figures_of, read_answers, write_answers
from vecap_tasks.evaluate.report import format_main, format_markdown, format_table
from vecap_tasks.evaluate.results import Results, SetSize, summarize

SETTINGS = BootstrapConfig(rounds=2000)
NO_LABELS = np.empty(0, np.int32)


def answered(hits, image=None, *, task="text_to_image", label=NO_LABELS):
    hits = np.asarray(hits, bool)
    image = np.arange(len(hits)) if image is None else np.asarray(image)
    return Answers("", "d", task, image.astype(np.int32), label, np.stack([hits] * 3, axis=1))


def drawn(seed, count, p):
    return np.random.default_rng(seed).random(count) < p


def test_interval_coverage_is_the_confidence_level():
    covered = 0
    for seed in range(200):
        values = resample([[answered(drawn(seed, 150, 0.3))]], BootstrapConfig(rounds=300))["text_to_image_1"]
        bounds = interval(values[:, 0], 0.9)
        covered += bounds.low <= 0.3 <= bounds.high
    assert 170 <= covered <= 193  # 180 expected


def test_images_are_resampled_with_all_their_captions():
    image = np.repeat(np.arange(100), 5)
    correlated = answered(np.repeat(drawn(1, 100, 0.5), 5), image)  # all captions of an image have the same answer
    single = answered(drawn(1, 100, 0.5))
    wide, narrow = (resample([[answers]], SETTINGS)["text_to_image_1"][:, 0] for answers in (correlated, single))
    np.testing.assert_allclose(wide, narrow)


def test_uneven_numbers_of_captions_are_weighted_as_in_the_metric():
    image = np.repeat(np.arange(50), np.arange(50) % 4 + 1)
    answers = answered(drawn(2, len(image), 0.4), image)
    values = resample([[answers]], SETTINGS)["text_to_image_1"][:, 0]
    assert values.mean() == pytest.approx(figures_of([answers])["text_to_image_1"], abs=0.01)


def test_a_paired_difference_is_significant_although_intervals_overlap():
    base = drawn(3, 400, 0.5)
    better = base | drawn(4, 400, 0.05)
    values = resample([[answered(base)], [answered(better)]], SETTINGS)["text_to_image_1"]
    observed = better.mean() - base.mean()
    found = difference(observed, values[:, 1] - values[:, 0], 0.95)
    assert 0 < found.low < found.difference < found.high
    assert found.p < 0.01
    assert interval(values[:, 1], 0.95).low < interval(values[:, 0], 0.95).high, "the intervals overlap"
    same = difference(0.0, values[:, 0] - values[:, 0], 0.95)
    assert (same.low, same.high, same.p) == (0, 0, 1)


def test_p_values_are_calibrated_without_a_difference():
    small = 0
    for seed in range(200):
        pair = [[answered(drawn([seed, side], 100, 0.5))] for side in range(2)]
        values = resample(pair, BootstrapConfig(rounds=300))["text_to_image_1"]
        observed = pair[0][0].hits[:, 0].mean() - pair[1][0].hits[:, 0].mean()
        small += difference(observed, values[:, 0] - values[:, 1], 0.95).p < 0.1
    assert 8 <= small <= 34  # 20 expected


def test_mean_per_class_averages_over_classes():
    label = np.array([0] * 90 + [1] * 10, np.int32)
    answers = answered(label == 1, task="zero_shot", label=label)
    figures = figures_of([answers])
    assert figures["zero_shot_top1"] == pytest.approx(0.1)
    assert figures["zero_shot_mean_per_class"] == pytest.approx(0.5)
    values = resample([[answers]], SETTINGS)
    assert values["zero_shot_top1"].std() > 0.02
    np.testing.assert_allclose(values["zero_shot_mean_per_class"][values["zero_shot_top1"][:, 0] > 0], 0.5)


def test_seeds_are_resampled_in_the_same_way_for_all_arms():
    values = np.tile([[0.1, 0.3, 0.2, 0.4]], (500, 1))  # two arms with two seeds, equal in all rounds
    rounds = arm_rounds(values, [[0, 1], [2, 3]], SETTINGS)
    assert set(np.round(rounds[:, 0], 6)) == {0.1, 0.2, 0.3}
    np.testing.assert_allclose(rounds[:, 1] - rounds[:, 0], 0.1)


def test_the_chunk_size_does_not_change_results(monkeypatch):
    answers = answered(drawn(5, 50, 0.5))
    expected = resample([[answers]], SETTINGS)["text_to_image_1"]
    monkeypatch.setattr("vecap_tasks.evaluate.bootstrap._MAX_WEIGHTS", 333)
    np.testing.assert_array_equal(resample([[answers]], SETTINGS)["text_to_image_1"], expected)


def test_answers_to_different_queries_are_not_compared():
    with pytest.raises(ValueError, match="have different queries"):
        resample([[answered([True, False])], [answered([True, False], [0, 0])]], SETTINGS)


def test_answers_round_trip_through_parquet(tmp_path):
    label = np.array([2, 0], np.int32)
    written = (answered([True, False, True], [0, 0, 1]), answered([False, True], task="zero_shot", label=label))
    assert write_answers(written, tmp_path / "a.parquet") == 5
    read = read_answers((tmp_path / "a.parquet").read_bytes(), "here")
    for found, expected in zip(read, written, strict=True):
        assert (found.set, found.digest, found.task) == (expected.set, expected.digest, expected.task)
        for name in ("image", "label", "hits"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


@pytest.fixture
def results():
    runs = {(arm, seed): [answered(drawn([index, seed], 300, 0.2 + 0.3 * index))]
            for index, arm in enumerate(("alttext", "vecap")) for seed in (0, 1)}  # fmt: skip
    sizes = [SetSize("", "retrieval", 300, 300, 0, "d")]
    chance = dict.fromkeys(("text_to_image_1", "text_to_image_5", "text_to_image_10"), 0.01)
    return summarize(runs, sizes, chance, {}, SETTINGS)


def test_the_table_is_aligned_and_has_the_chance_level(results):
    head, rule, *arms, chance, _, caption = format_table(results).splitlines()
    assert head.split()[:3] == ["arm", "T2I", "R@1"]
    assert set(rule) == {"-"}
    assert {len(arm) for arm in arms} == {len(head)}
    assert chance.split() == ["chance", "1.0", "1.0", "1.0"]
    assert caption == "Percent, mean ± standard deviation over 2 seeds. Retrieval over 300 images and 300 captions."


def test_the_table_of_the_main_metrics_says_where_the_last_arm_differs(results):
    head, _, *arms, chance, _, seen = format_main(results).splitlines()
    assert head.split() == ["arm", "T2I", "R@1"]
    assert [arm.split()[0] for arm in arms] == ["alttext", "vecap"]
    low, high = (100 * value for value in results.arms[1].intervals["text_to_image_1"])
    assert f"({low:.1f} to {high:.1f})" in arms[1]
    assert chance.split() == ["chance", "1.0"]
    assert seen.endswith("vecap against alttext: above in T2I R@1.")
    swapped = replace(results, arms=results.arms[::-1], comparisons=())
    assert format_main(swapped).endswith("alttext against vecap: no difference beyond the intervals.")
    assert not format_main(replace(results, arms=results.arms[:1])).endswith("intervals.")


def test_the_report_compares_arms(results):
    (comparison,) = [found for found in results.comparisons if found.metric == "text_to_image_1"]
    assert (comparison.arm, comparison.other) == ("alttext", "vecap")
    assert comparison.high < 0
    page = format_markdown(results)
    assert "| alttext − vecap | -" in page
    assert "p ≤ 0.01" in page
    assert Results.from_json(results.to_json().encode(), "here") == results
