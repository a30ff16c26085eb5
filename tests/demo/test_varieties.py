"""Varieties of the miniature web: what an image shows and a name tells, but no caption of the VLM."""

import random
from collections import Counter
from typing import get_args

from vecap_tasks.demo.alttext import write_alttext
from vecap_tasks.demo.names import HEADS, NAMES, choose_name
from vecap_tasks.demo.scene import KINDS, describe, sample_scene
from vecap_tasks.demo.varieties import LOOKS, VARIETIES_PER_KIND, Look, varieties, with_variety


def test_every_kind_has_four_looks_that_differ_in_shape_marking_or_part():
    assert set(LOOKS) == set(KINDS)
    groups = ({"plain"}, {"tall", "squat"}, {"striped", "spotted", "banded"}, {"badge", "pennant"})
    assert set().union(*groups) == set(get_args(Look))
    for kind, looks in LOOKS.items():
        assert len(looks) == len(HEADS[kind]) == VARIETIES_PER_KIND
        assert len(set(looks)) == VARIETIES_PER_KIND, kind
        assert sum(not group.isdisjoint(looks) for group in groups) >= 3, kind


def test_varieties_are_equally_frequent_and_not_in_the_caption():
    rng = random.Random(1)
    drawn = Counter(variety for _ in range(4000) for variety in varieties(sample_scene(rng)))
    assert all(abs(count / drawn.total() - 0.25) < 0.02 for count in drawn.values()), drawn
    scene = sample_scene(rng)
    assert len({describe(with_variety(scene, variety)) for variety in range(VARIETIES_PER_KIND)}) == 1
    assert [varieties(with_variety(scene, variety))[0] for variety in range(VARIETIES_PER_KIND)] == [0, 1, 2, 3]


def test_names_in_the_alttext_are_of_the_varieties_in_the_image():
    rng = random.Random(2)
    named = 0
    for _ in range(2000):
        scene = sample_scene(rng)
        shown = {
            group.kind: HEADS[group.kind][variety]
            for group, variety in zip(scene.groups, varieties(scene), strict=True)
        }
        for name in write_alttext(scene, rng).names:
            named += 1
            assert name.text.endswith(shown[name.kind]), (name, scene)
    assert named > 1000


def test_every_variety_has_names():
    rng = random.Random(3)
    for kind in KINDS:
        for variety, head in enumerate(HEADS[kind]):
            name = choose_name(kind, rng, variety)
            assert name in NAMES[kind]
            assert name.text.endswith(head)
