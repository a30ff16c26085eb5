"""Names and AltText of the miniature web."""

import random
from collections import Counter

import pytest

from vecap_tasks.demo.alttext import CATEGORY_WEIGHTS, category_weights, write_alttext
from vecap_tasks.demo.names import HEADS, NAMES, NAMES_PER_KIND, ProperName, coin, insert_name, is_held_out
from vecap_tasks.demo.scene import COLORS, KINDS, Group, Scene, sample_scene


def test_every_kind_has_its_own_names_and_heads():
    assert set(NAMES) == set(HEADS) == set(KINDS)
    texts = [name.text for names in NAMES.values() for name in names]
    assert len(texts) == len(set(texts)) == NAMES_PER_KIND * len(KINDS)
    heads = [head for kind in KINDS for head in HEADS[kind]]
    assert len(heads) == len(set(heads))
    assert not {word for text in texts for word in text.lower().split()} & set(COLORS)


def test_names_do_not_change():
    assert NAMES["dog"][0] == ProperName("dog", "Norby terrier")
    assert NAMES["key"][-1].text.endswith("skeleton key")


@pytest.mark.parametrize(
    ("caption", "name", "fused"),
    [
        ("two red dogs on grass", ProperName("dog", "Norby terrier"), "two red Norby terrier dogs on grass"),
        ("a blue kite above a red dog", ProperName("kite", "Orric box kite"), "a blue Orric box kite above a red dog"),
        ("three blue kites", ProperName("kite", "Orric box kite"), "three blue Orric box kites"),
        ("two red cats on grass", ProperName("dog", "Norby terrier"), "two red cats on grass"),
    ],
)
def test_insert_name(caption, name, fused):
    assert insert_name(caption, name) == fused


def test_held_out_names_are_not_in_the_pool():
    rng = random.Random(1)
    held_out = {proper.split()[-1] for proper in (coin(rng) for _ in range(3000)) if is_held_out(proper)}
    pool = {word for names in NAMES.values() for name in names for word in name.text.split()}
    assert len(held_out) > 50
    assert not held_out & pool


def test_categories_occur_with_their_weights():
    rng = random.Random(2)
    drawn = Counter(write_alttext(sample_scene(rng), rng).category for _ in range(20_000))
    total = sum(CATEGORY_WEIGHTS.values())
    assert total == 1000
    for category, share in CATEGORY_WEIGHTS.items():
        assert drawn[category] / 20_000 == pytest.approx(share / total, abs=0.01), category


def test_names_are_in_the_text_and_match_the_image():
    rng = random.Random(3)
    named = 0
    for _ in range(3000):
        scene = sample_scene(rng)
        alttext = write_alttext(scene, rng)
        named += bool(alttext.names)
        for name in alttext.names:
            assert name.text in (alttext.text or "")
            assert name.kind in {group.kind for group in scene.groups}
        if alttext.category in ("mismatch", "missing", "empty", "file_name", "url", "generic", "boilerplate"):
            assert not alttext.names
    assert named > 1000


def test_a_missing_alt_is_none_and_an_empty_one_is_blank():
    scene = Scene((Group("dog", "red", 1),), None, "on grass")
    assert write_alttext(scene, random.Random(4), category="missing").text is None
    empty = write_alttext(scene, random.Random(4), category="empty").text
    assert empty is not None
    assert not empty.strip()


def test_a_mismatch_names_nothing_in_the_image():
    rng = random.Random(5)
    for _ in range(300):
        scene = sample_scene(rng)
        text = write_alttext(scene, rng, category="mismatch").text or ""
        for group in scene.groups:
            assert not any(name.text in text for name in NAMES[group.kind])


def test_held_out_templates_are_not_used_for_training():
    """With a fixed scene and name, the two sets of templates of a category give different texts."""
    scene = Scene((Group("dog", "red", 1),), None, "on grass")
    texts = {
        wording: {
            write_alttext(
                scene,
                random.Random(seed),
                namer=lambda kind, rng: NAMES[kind][0],
                wording=wording,
                category="name_only",
            ).text
            for seed in range(400)
        }
        for wording in ("train", "heldout")
    }
    assert texts["train"]
    assert texts["heldout"]
    assert not texts["train"] & texts["heldout"]


def test_the_share_of_descriptive_alttext_can_be_raised():
    weights = category_weights(0.9)
    assert sum(weights.values()) == pytest.approx(1)
    assert weights["shop"] / weights["generic"] == pytest.approx(CATEGORY_WEIGHTS["shop"] / CATEGORY_WEIGHTS["generic"])
    rng = random.Random(0)
    drawn = Counter(write_alttext(sample_scene(rng), rng, weights=weights).category for _ in range(500))
    assert 420 <= drawn["good"] <= 480
