"""The shipped VLM, loaded like LLaVA-1.5: captions of held-out images, single and in batches."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlavaForConditionalGeneration

from tools.demo_models.captions import PROMPTS, Encoder, caption_loss, prompt_text
from tools.demo_models.measure import as_crawled, captions, held_out, load, mark
from tools.demo_models.pool import GRID, IGNORED, answer, make_pool
from tools.demo_models.tower import Answers, answers_loss, pixels, train_tower
from tools.demo_models.vlm import Schedule, new_model, new_processor, save, train
from vecap_tasks.demo.draw import draw
from vecap_tasks.demo.scene import KINDS, Group, Scene, describe, parse, sample_scene, split

SHIPPED = Path(__file__).parents[2] / "vecap_tasks" / "demo" / "models" / "vlm"


@pytest.fixture(scope="module")
def shipped():
    torch.set_num_threads(1)
    return load(SHIPPED)


def test_captions_of_held_out_scenes_are_right(shipped) -> None:
    scenes = held_out(200, seed=31)
    texts: list[str] = []
    for first in range(0, 200, 40):
        texts += captions(*shipped, [as_crawled(scene) for scene in scenes[first : first + 40]])
    figures = mark(scenes, texts, 1.0)
    for attribute in ("object", "color", "count", "relation", "ground"):
        assert getattr(figures, attribute) >= 0.9, figures


def test_a_caption_is_the_same_alone_and_in_a_left_padded_batch(shipped) -> None:
    model, processor = shipped
    images = [as_crawled(scene) for scene in held_out(24, seed=32)]
    texts = [prompt_text(processor, PROMPTS[index % len(PROMPTS)]) for index in range(24)]
    batch = processor(text=texts, images=images, padding=True, return_tensors="pt")
    assert (batch["attention_mask"][:, 0] == 0).any(), "no row is padded, so the test is vacuous"
    width = batch["input_ids"].shape[1]
    with torch.inference_mode():
        batched = model.generate(**batch)[:, width:]
        for row, (text, image) in enumerate(zip(texts, images, strict=True)):
            single = processor(text=[text], images=[image], return_tensors="pt")
            unbatched = model.generate(**single)[0, single["input_ids"].shape[1] :]
            assert batched[row, : len(unbatched)].tolist() == unbatched.tolist()
            assert set(batched[row, len(unbatched) :].tolist()) <= {processor.tokenizer.pad_token_id}


def test_captions_do_not_depend_on_the_wording_of_the_prompt(shipped) -> None:
    scenes = held_out(32, seed=33)
    images = [as_crawled(scene) for scene in scenes]
    unseen = "Please tell me in a few words what this photo shows."
    figures = mark(scenes, captions(*shipped, images, unseen), 1.0)
    assert figures.parsed >= 0.9


def test_any_image_gets_a_caption_that_ends(shipped) -> None:
    model, processor = shipped
    noise = random.Random(1).randbytes(300 * 200 * 3)
    images = [
        Image.frombytes("RGB", (300, 200), noise),
        Image.new("RGB", (40, 700), "red"),
        Image.new("L", (64, 64), 128).convert("RGB"),
    ]
    text = [prompt_text(processor, PROMPTS[0])] * len(images)
    inputs = processor(text=text, images=images, padding=True, return_tensors="pt")
    with torch.inference_mode():
        tokens = model.generate(**inputs)[:, inputs["input_ids"].shape[1] :]
    assert (tokens == processor.tokenizer.eos_token_id).any(1).all()


def test_checkpoint_is_small_complete_and_a_llava_model() -> None:
    config = json.loads((SHIPPED / "config.json").read_text())
    assert config["architectures"] == ["LlavaForConditionalGeneration"]
    assert config["vision_config"]["model_type"] == "clip_vision_model"
    assert config["text_config"]["model_type"] == "llama"
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 12_000_000
    generation = json.loads((SHIPPED / "generation_config.json").read_text())
    assert generation["do_sample"] is False
    card = (SHIPPED / "README.md").read_text()
    assert "tools.demo_models.measure" in card


def test_shipped_preprocessing_equals_that_of_training(shipped) -> None:
    _, processor = shipped
    image = draw(sample_scene(random.Random(6), "eval"), 96)
    values = processor.image_processor(image, return_tensors="pt")["pixel_values"]
    assert torch.allclose(values[0], torch.from_numpy(np.array(image)).permute(2, 0, 1) / 127.5 - 1)
    assert processor.apply_chat_template([{"role": "user", "content": "Hello."}], add_generation_prompt=True) == (
        "USER: Hello. ASSISTANT:"
    )


def test_the_tokenizer_round_trips_every_caption(shipped) -> None:
    tokenizer = shipped[1].tokenizer
    for scene in held_out(300, seed=34):
        tokens = tokenizer.encode(describe(scene), add_special_tokens=False)
        assert tokenizer.decode(tokens) == describe(scene)
    odd = "Ünïcode – 猫\n\ttabs"
    assert tokenizer.decode(tokenizer.encode(odd, add_special_tokens=False)) == odd


def test_labels_encode_the_location_of_objects() -> None:
    scene = Scene((Group("cat", "red", 1), Group("car", "blue", 3)), "to the right of", "on grass", 5)
    kinds, _, groups, counts, relations, _ = answer(scene).reshape(-1, GRID, GRID)
    left, right = kinds[:, : GRID // 2], kinds[:, GRID // 2 :]
    assert set(left[left >= 0]) <= {KINDS.index("car"), len(KINDS)}
    assert set(right[right >= 0]) <= {KINDS.index("cat"), len(KINDS)}
    assert {KINDS.index("car"), KINDS.index("cat")} <= set(kinds.flatten())
    cat = kinds == KINDS.index("cat")
    assert set(groups[cat]) == {0}
    assert set(counts[cat]) == {0}
    assert set(relations[cat]) == {1}
    assert set(relations[kinds == KINDS.index("car")]) == {0}
    assert (groups[kinds == len(KINDS)] == IGNORED).all()


@pytest.mark.exhaustive
def test_pools_do_not_depend_on_workers_and_use_one_split() -> None:
    serial, parallel = make_pool(600, "train", 3, 1), make_pool(600, "train", 3, 2)
    assert serial.scenes == parallel.scenes
    assert (serial.pixels == parallel.pixels).all()
    assert {split(scene) for scene in serial.scenes} == {"train"}


def test_training_loss_equals_the_models_loss(tmp_path: Path) -> None:
    processor = new_processor()
    model = new_model(processor.tokenizer).eval()
    pool = make_pool(4, "train", 1, 1)
    batch = Encoder(processor, GRID * GRID)([describe(scene) for scene in pool.scenes], random.Random(1))
    images = pixels(pool, torch.arange(4).numpy())
    with torch.no_grad():
        features = model.model.vision_tower(images).last_hidden_state[:, 1:]
        loss = caption_loss(model, features, batch)
        labels = batch.tokens.masked_fill(~batch.caption_mask, IGNORED)
        expected = model(input_ids=batch.tokens, pixel_values=images, labels=labels).loss
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    save(model, processor, tmp_path / "saved")
    loaded, _ = load(tmp_path / "saved")
    assert isinstance(loaded, LlavaForConditionalGeneration)
    assert all(torch.equal(weight, loaded.state_dict()[name]) for name, weight in model.state_dict().items())


@pytest.mark.exhaustive
def test_a_few_tower_steps_reduce_the_loss_and_are_repeatable() -> None:
    torch.set_num_threads(1)
    pool = make_pool(256, "train", 2, 1)
    right = torch.from_numpy(pool.answers[:64])
    losses = []
    for _ in range(2):
        model = new_model(new_processor().tokenizer)
        tower = model.model.vision_tower
        heads = Answers(tower.config.hidden_size)
        with torch.no_grad():
            before = answers_loss(heads(tower(pixels(pool, torch.arange(64).numpy())).last_hidden_state[:, 1:]), right)
        train_tower(tower, heads, pool, pool, steps=12, seed=1)
        with torch.no_grad():
            after = answers_loss(heads(tower(pixels(pool, torch.arange(64).numpy())).last_hidden_state[:, 1:]), right)
        assert float(after) < 0.9 * float(before)
        losses.append(float(after))
    assert losses[0] == losses[1]


@pytest.mark.exhaustive
def test_training_runs_all_phases_and_resumes_after_finished_ones(tmp_path: Path) -> None:
    schedule = Schedule(images=128, tower_steps=2, frozen_steps=2, joint_steps=2, threads=1)
    train(tmp_path / "one", schedule, tmp_path / "work")
    (tmp_path / "work" / "joint.pt").unlink()
    train(tmp_path / "one", schedule, tmp_path / "work")
    train(tmp_path / "two", schedule, None)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert weights[0] == weights[1]
    assert len(captions(*load(tmp_path / "one"), [Image.new("RGB", (64, 64))])) == 1


def test_scores_count_errors() -> None:
    scene = parse("two red cats to the left of a blue car on grass")
    assert scene is not None
    texts = [
        "two red cats to the left of a blue car on grass",
        "a blue car to the right of two red cats on grass",
        "two red dogs above a green car in snow",
        "three red cats to the left of a blue car on grass",
        "nothing to be seen",
    ]
    figures = mark([scene] * 5, texts, 2.0)
    assert (figures.object, figures.color, figures.count) == (0.6, 0.6, 0.6)
    assert (figures.relation, figures.ground, figures.whole, figures.parsed) == (0.6, 0.6, 0.2, 0.8)
    assert figures.images_per_second == 2.5
