"""Images of scenes: determined by their scene, in its colors, with every object where the caption states."""

import random
import subprocess
import sys
import time

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vecap_tasks.demo.draw import DRAWINGS, draw, layout, sprite
from vecap_tasks.demo.pen import PAINTS
from vecap_tasks.demo.scene import COLORS, GROUNDS, KINDS, Group, Scene, sample_scene


def pixels(image: Image.Image) -> NDArray[np.float32]:
    return np.asarray(image, dtype=np.float32)


@pytest.mark.parametrize("size", [96, 256, 320])
def test_image_is_rgb_of_the_requested_size(size: int) -> None:
    image = draw(sample_scene(random.Random(1)), size)
    assert (image.mode, image.size) == ("RGB", (size, size))


def test_same_scene_gives_the_same_pixels_in_another_process() -> None:
    code = (
        "import hashlib, random; from vecap_tasks.demo.draw import draw; "
        "from vecap_tasks.demo.scene import sample_scene; rng = random.Random(4); "
        "print(hashlib.sha256(b''.join(draw(sample_scene(rng), 160).tobytes() for _ in range(12))).hexdigest())"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert runs[0] == runs[1] != ""


def test_layout_seed_moves_objects() -> None:
    group = (Group("cat", "red", 2),)
    first, second = (draw(Scene(group, None, "on grass", seed), 96) for seed in (1, 2))
    assert np.abs(pixels(first) - pixels(second)).mean() > 5


def test_relation_holds_for_every_pair_of_objects() -> None:
    rng = random.Random(2)
    for _ in range(400):
        scene = sample_scene(rng)
        first = [placement for placement in layout(scene) if placement.group == 0]
        second = [placement for placement in layout(scene) if placement.group == 1]
        assert [len(first), len(second)][: len(scene.groups)] == [group.count for group in scene.groups]
        for a in first:
            for b in second:
                holds = {
                    "to the left of": a.x < b.x - 0.2,
                    "to the right of": a.x > b.x + 0.2,
                    "above": a.y < b.y - 0.2,
                    "below": a.y > b.y + 0.2,
                }
                assert holds[str(scene.relation)], scene


def test_objects_are_large_inside_the_image_and_separate() -> None:
    rng = random.Random(3)
    for _ in range(400):
        placements = layout(sample_scene(rng))
        for index, placement in enumerate(placements):
            assert placement.side * 96 >= 26
            assert placement.x - placement.side / 2 >= 0
            assert placement.x + placement.side / 2 <= 1.0001
            for other in placements[:index]:
                distance = max(abs(placement.x - other.x), abs(placement.y - other.y))
                assert distance > 0.6 * max(placement.side, other.side)


@pytest.mark.parametrize("color", COLORS)
def test_every_object_shows_its_color(color: str) -> None:
    for kind in KINDS:
        drawn = pixels(sprite(kind, color, 96))
        solid = drawn[drawn[:, :, 3] > 250][:, :3]
        share = (np.abs(solid - PAINTS[color].base).max(1) < 40).mean()
        assert share > 0.25, (kind, share)


def test_every_kind_has_a_drawing() -> None:
    assert set(DRAWINGS) == set(KINDS)


def test_all_kinds_look_different() -> None:
    shapes = np.stack([pixels(sprite(kind, "red", 28)) for kind in KINDS])
    for index in range(len(KINDS)):
        for other in range(index):
            difference = np.abs(shapes[index] - shapes[other]).mean()
            assert difference > 8, (KINDS[index], KINDS[other], difference)


def test_every_object_is_visible_on_every_ground() -> None:
    for ground in GROUNDS:
        for color in COLORS:
            with_object = pixels(draw(Scene((Group("cup", color, 1),), None, ground, 7), 96))
            placement = layout(Scene((Group("cup", color, 1),), None, ground, 7))[0]
            other = "black" if color == "white" else "white"
            with_other = pixels(draw(Scene((Group("cup", other, 1),), None, ground, 7), 96))
            # The images differ where the object is; it must contrast with its surroundings.
            inside = np.abs(with_object - with_other).max(2) > 25
            assert inside.sum() > 0.2 * (placement.side * 96) ** 2
            contrast = np.abs(with_object[inside].mean(0) - with_object[~inside].mean(0)).max()
            assert contrast > 20, (ground, color)


def test_drawing_is_fast_enough_for_a_crawl() -> None:
    rng = random.Random(5)
    scenes = [sample_scene(rng) for _ in range(40)]
    for scene in scenes:
        draw(scene, 96)
    start = time.process_time()
    for scene in scenes:
        draw(scene, 96)
    assert (time.process_time() - start) / len(scenes) < 0.010
