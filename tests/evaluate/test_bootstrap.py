"""Intervals and comparisons: what the bootstrap says of answers whose truth is known."""

import numpy as np
import pytest

from vecap_tasks.config import BootstrapConfig
from vecap_tasks.evaluate.bootstrap import arm_rounds, difference, interval, resample
from vecap_tasks.evaluate.metrics import Answers, figures_of, read_answers, write_answers
from vecap_tasks.evaluate.report import format_markdown, format_table
from vecap_tasks.evaluate.results import Results, SetSize, summarize

SETTINGS = BootstrapConfig(rounds=2000)
NONE = np.empty(0, np.int32)


def answered(hits, image=None, *, task="text_to_image", label=NONE):
    hits = np.asarray(hits, bool)
    image = np.arange(len(hits)) if image is None else np.asarray(image)
    return Answers("", "d", task, image.astype(np.int32), label, np.stack([hits] * 3, axis=1))


def drawn(seed, count, p):
    return np.random.default_rng(seed).random(count) < p


def test_an_interval_covers_as_often_as_it_says():
    covered = 0
    for seed in range(200):
        values = resample([[answered(drawn(seed, 150, 0.3))]], BootstrapConfig(rounds=300))["text_to_image_1"]
        ends = interval(values[:, 0], 0.9)
        covered += ends.low <= 0.3 <= ends.high
    assert 170 <= covered <= 193  # 180 expected


def test_images_are_drawn_with_all_their_captions():
    image = np.repeat(np.arange(100), 5)
    alike = answered(np.repeat(drawn(1, 100, 0.5), 5), image)  # the captions of an image stand and fall together
    single = answered(drawn(1, 100, 0.5))
    wide, narrow = (resample([[one]], SETTINGS)["text_to_image_1"][:, 0] for one in (alike, single))
    np.testing.assert_allclose(wide, narrow)


def test_uneven_numbers_of_captions_are_weighed_as_the_figure_is():
    image = np.repeat(np.arange(50), np.arange(50) % 4 + 1)
    one = answered(drawn(2, len(image), 0.4), image)
    values = resample([[one]], SETTINGS)["text_to_image_1"][:, 0]
    assert values.mean() == pytest.approx(figures_of([one])["text_to_image_1"], abs=0.01)


def test_a_paired_difference_is_narrower_than_two_intervals():
    base = drawn(3, 400, 0.5)
    better = base | drawn(4, 400, 0.05)
    values = resample([[answered(base)], [answered(better)]], SETTINGS)["text_to_image_1"]
    observed = better.mean() - base.mean()
    found = difference(observed, values[:, 1] - values[:, 0], 0.95)
    assert 0 < found.low < found.difference < found.high
    assert found.p < 0.01
    assert interval(values[:, 1], 0.95).low < interval(values[:, 0], 0.95).high, "the intervals themselves overlap"
    same = difference(0.0, values[:, 0] - values[:, 0], 0.95)
    assert (same.low, same.high, same.p) == (0, 0, 1)


def test_p_is_small_as_often_as_it_says_where_there_is_no_difference():
    small = 0
    for seed in range(200):
        pair = [[answered(drawn([seed, side], 100, 0.5))] for side in range(2)]
        values = resample(pair, BootstrapConfig(rounds=300))["text_to_image_1"]
        observed = pair[0][0].hits[:, 0].mean() - pair[1][0].hits[:, 0].mean()
        small += difference(observed, values[:, 0] - values[:, 1], 0.95).p < 0.1
    assert 8 <= small <= 34  # 20 expected


def test_mean_per_class_is_over_classes():
    label = np.array([0] * 90 + [1] * 10, np.int32)
    one = answered(label == 1, task="zero_shot", label=label)
    figures = figures_of([one])
    assert figures["zero_shot_top1"] == pytest.approx(0.1)
    assert figures["zero_shot_mean_per_class"] == pytest.approx(0.5)
    values = resample([[one]], SETTINGS)
    assert values["zero_shot_top1"].std() > 0.02
    np.testing.assert_allclose(values["zero_shot_mean_per_class"][values["zero_shot_top1"][:, 0] > 0], 0.5)


def test_seeds_are_drawn_too_and_the_same_for_all_arms():
    values = np.tile([[0.1, 0.3, 0.2, 0.4]], (500, 1))  # of two arms with two seeds, the same in every round
    rounds = arm_rounds(values, [[0, 1], [2, 3]], SETTINGS)
    assert set(np.round(rounds[:, 0], 6)) == {0.1, 0.2, 0.3}
    np.testing.assert_allclose(rounds[:, 1] - rounds[:, 0], 0.1)


def test_more_rounds_at_once_change_nothing(monkeypatch):
    one = answered(drawn(5, 50, 0.5))
    whole = resample([[one]], SETTINGS)["text_to_image_1"]
    monkeypatch.setattr("vecap_tasks.evaluate.bootstrap._CELLS", 333)
    np.testing.assert_array_equal(resample([[one]], SETTINGS)["text_to_image_1"], whole)


def test_answers_to_other_queries_are_not_compared():
    with pytest.raises(ValueError, match="answered other queries"):
        resample([[answered([True, False])], [answered([True, False], [0, 0])]], SETTINGS)


def test_answers_are_read_as_they_were_written(tmp_path):
    label = np.array([2, 0], np.int32)
    written = (answered([True, False, True], [0, 0, 1]), answered([False, True], task="zero_shot", label=label))
    assert write_answers(written, tmp_path / "a.parquet") == 5
    read = read_answers((tmp_path / "a.parquet").read_bytes(), "here")
    for one, other in zip(read, written, strict=True):
        assert (one.set, one.digest, one.task) == (other.set, other.digest, other.task)
        for name in ("image", "label", "hits"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.fixture
def results():
    runs = {(arm, seed): [answered(drawn([place, seed], 300, 0.2 + 0.3 * place))]
            for place, arm in enumerate(("alttext", "vecap")) for seed in (0, 1)}  # fmt: skip
    sizes = [SetSize("", "retrieval", 300, 300, 0, "d")]
    return summarize(
        runs, sizes, dict.fromkeys(("text_to_image_1", "text_to_image_5", "text_to_image_10"), 0.01), SETTINGS
    )


def test_table_lines_up_and_tells_chance(results):
    head, rule, *arms, chance, _, caption = format_table(results).splitlines()
    assert head.split()[:3] == ["arm", "T2I", "R@1"]
    assert set(rule) == {"-"}
    assert {len(arm) for arm in arms} == {len(head)}
    assert chance.split() == ["chance", "1.0", "1.0", "1.0"]
    assert caption == "Percent, mean ± standard deviation over 2 seeds. Retrieval over 300 images and 300 captions."


def test_the_page_says_which_arm_is_better(results):
    (one,) = [found for found in results.comparisons if found.metric == "text_to_image_1"]
    assert (one.arm, one.other) == ("alttext", "vecap")
    assert one.high < 0
    page = format_markdown(results)
    assert "| alttext − vecap | -" in page
    assert "p ≤ 0.01" in page
    assert Results.from_json(results.to_json().encode(), "here") == results
