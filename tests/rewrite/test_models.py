"""Loading checkpoints, and greedy text that depends on its own row alone."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from vecap_tasks.config import ModelConfig, ServerConfig
from vecap_tasks.core.models import find_checkpoint
from vecap_tasks.errors import VecapError
from vecap_tasks.rewrite.backends.sampling_params import GREEDY, GeneratedText
from vecap_tasks.rewrite.llm import Llm
from vecap_tasks.rewrite.prompt import load_prompt
from vecap_tasks.rewrite.vlm import Vlm


def vlm_of(place, **changes) -> Vlm:
    config = place.config()
    settings = config.rewrite.vlm.model_copy(update=changes)
    return Vlm(find_checkpoint(config, settings.model), settings, load_prompt(settings.prompt))


def llm_of(place, **changes) -> Llm:
    config = place.config()
    settings = config.rewrite.llm.model_copy(update=changes)
    return Llm(find_checkpoint(config, settings.model), settings, load_prompt(settings.prompt), 512)


def test_a_picture_gets_the_same_text_whatever_it_is_batched_with(place, seen) -> None:
    vlm = vlm_of(place, batch_size=32)
    together = vlm.describe((seen(number), GREEDY) for number in range(45))
    some = (0, 20, 31, 32, 44)
    assert [together[number] for number in some] == [vlm.describe([(seen(number), GREEDY)])[0] for number in some]
    assert len({text.text for text in together}) > 10


def test_a_file_that_is_no_picture_gets_no_text_and_spoils_none(place, seen) -> None:
    vlm = vlm_of(place)
    mixed = vlm.describe([(seen(number), GREEDY) for number in (None, 1, None, 2)])
    assert [text.problem for text in mixed] == ["unreadable_image", None, "unreadable_image", None]
    assert mixed[1:2] == vlm.describe([(seen(1), GREEDY)])
    assert mixed[3:] == vlm.describe([(seen(2), GREEDY)])
    assert vlm.describe([(seen(None), GREEDY)]) == mixed[:1]


def test_what_stands_beside_every_picture_is_prepared_once_and_as_the_processor_would(place, seen) -> None:
    vlm = vlm_of(place)
    pictures = [seen(number).image for number in range(3)]
    text = [f"<|begin|><|user|><image>{load_prompt('describe').text}<|end|><|assistant|>"] * 3
    wanted = vlm._processor(
        text=text, images=[[one] for one in pictures], add_special_tokens=False, return_tensors="pt"
    )
    assert vlm._text_inputs.keys() == {"input_ids", "attention_mask"}
    made = vlm._prepare(pictures)
    assert made.keys() == wanted.keys()
    assert all(torch.equal(made[name], value) for name, value in wanted.items())


def test_a_pair_gets_the_same_caption_whatever_it_is_batched_with(place) -> None:
    llm = llm_of(place, batch_size=32)
    pairs = [(f"Name {number} " * (number % 7 + 1), "two red tulips " * (number % 3 + 1)) for number in range(50)]
    together = llm.fuse([(pair, GREEDY) for pair in pairs])
    assert [text.problem for text in together] == [None] * 50
    assert len({text.text for text in together}) > 10
    for number in range(0, 50, 9):
        assert llm.fuse([(pairs[number], GREEDY)]) == [together[number]]


def test_a_text_says_how_many_tokens_it_took_and_whether_it_ended(place, seen) -> None:
    texts = vlm_of(place, max_new_tokens=7).describe((seen(number), GREEDY) for number in range(16))
    assert all(isinstance(text, GeneratedText) and 1 <= text.tokens <= 7 for text in texts)
    assert any(not text.ended and text.tokens == 7 for text in texts)
    assert {text.prompt_tokens for text in texts} == {texts[0].prompt_tokens}
    assert texts[0].prompt_tokens > len(load_prompt("describe").text)  # a token a byte, and the picture's


def test_an_alttext_that_is_too_long_for_the_model_is_shortened_until_it_fits(place, tmp_path: Path) -> None:
    folder = shutil.copytree(place.llm, tmp_path / "short")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 300}))
    place.llm = folder
    llm = llm_of(place, max_new_tokens=12)
    assert len(llm.encode("x" * 100, "a cat")) < 288
    assert 200 < len(llm.encode("x " * 200, "a cat")) <= 288
    assert llm.encode("x", "cat " * 100) == []
    assert [text.problem for text in llm.fuse([(("x", "cat " * 100), GREEDY)])] == ["prompt_too_long"]


@pytest.mark.parametrize("role", ["vlm", "llm"])
def test_code_in_a_models_folder_is_neither_run_nor_asked_about(place, tmp_path: Path, monkeypatch, role: str) -> None:
    """An architecture that transformers lacks, with `auto_map` as the hub's models have it."""
    folder = shutil.copytree(getattr(place, role), tmp_path / "foreign")
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda prompt="": asked.append(prompt) or "y")
    kinds = ("AutoConfig", "AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoProcessor")
    config = json.loads((folder / "config.json").read_text())
    foreign = {"model_type": "foreign", "auto_map": {kind: f"foreign.{kind}" for kind in kinds}}
    (folder / "config.json").write_text(json.dumps(config | foreign))
    ran = tmp_path / "ran"
    (folder / "foreign.py").write_text(f"open({str(ran)!r}, 'w')\n")
    setattr(place, role, folder)
    with pytest.raises(VecapError, match=r"foreign: it requires custom Python code \(`auto_map`\), .* never") as told:
        (vlm_of if role == "vlm" else llm_of)(place)
    assert "\n" not in str(told.value)
    assert asked == []
    assert not ran.exists()


def test_a_revision_is_the_files_that_matter_and_nothing_else(place, tmp_path: Path) -> None:
    config = place.config()
    first = find_checkpoint(config, str(place.llm))
    copy = shutil.copytree(place.llm, tmp_path / "copy")
    (copy / "README.md").write_text("a model card")
    (copy / "figures.json").write_text("{}")
    assert find_checkpoint(config, str(copy)).digest == first.digest
    (copy / "generation_config.json").write_text("{}")
    assert find_checkpoint(config, str(copy)).digest != first.digest
    assert first.bytes > (place.llm / "model.safetensors").stat().st_size


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("nowhere", "folder .*/nowhere does not exist; correct the path"),
        ("org/name", "the local Hub cache has no such model; correct the path, or run `hf download org/name`"),
        ("empty", "/empty has no config.json"),
        ("weightless", "/weightless has no weights"),
    ],
)
def test_a_folder_that_is_no_model_is_told_in_one_line(place, tmp_path: Path, broken: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    shutil.copytree(place.llm, tmp_path / "weightless", ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(VecapError, match=message) as told:
        find_checkpoint(place.config(), broken)
    assert "\n" not in str(told.value)


def test_a_model_of_another_kind_or_cut_short_is_told_in_one_line(place, tmp_path: Path) -> None:
    text_model = place.llm
    place.vlm = text_model
    with pytest.raises(VecapError, match="cannot be loaded from") as told:
        vlm_of(place)
    assert "\n" not in str(told.value)
    place.llm = shutil.copytree(text_model, tmp_path / "short")
    weights = place.llm / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(VecapError, match="cannot be loaded from") as told:
        llm_of(place)
    assert "\n" not in str(told.value)


def test_weights_that_lack_a_layer_are_refused_and_not_made_up(place, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    place.llm = shutil.copytree(place.llm, tmp_path / "lacking")
    weights = load_file(place.llm / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, place.llm / "model.safetensors", {"format": "pt"})
    with pytest.raises(VecapError, match=r"1 weights are missing, such as model\.layers\.1\.mlp\.up_proj\.weight"):
        llm_of(place)


def test_a_model_without_a_chat_template_is_asked_in_plain_words_unless_the_prompt_brings_one(
    place, save_models, tmp_path: Path
) -> None:
    _, save_llm = save_models
    place.llm = save_llm(tmp_path / "plain", chat_template=None)
    fused = "Fuse into one caption; keep names and all concepts.\nAlt text: a\nDescription: b"
    assert len(llm_of(place).encode("a", "b")) == len(fused)
    assert len(llm_of(place, prompt="fuse-vicuna").encode("a", "b")) > 2 * len(fused)


def test_a_model_with_a_chat_template_of_its_own_is_asked_by_that(place) -> None:
    llm = llm_of(place, prompt="fuse-vicuna")
    said = llm._tokenizer.decode(llm.encode("a", "b"))
    assert said.startswith("<|begin|><|user|>You write captions")
    assert "USER:" not in said


def test_a_device_that_is_not_there_is_told(place) -> None:
    with pytest.raises(VecapError, match="device 'cuda:7' is not available"):
        llm_of(place, device="cuda:7")


@pytest.mark.parametrize("change", [{"device": "cuda"}, {"threads": 3}, {"batch_size": 3}, {"dtype": "bfloat16"}])
def test_what_rounding_follows_is_part_of_the_identity_of_a_model_that_is_loaded_here_alone(change) -> None:
    given = {"model": "m", "prompt": "p"}
    assert ModelConfig(**given, **change).identity() != ModelConfig(**given).identity()
    given |= {"backend": "openai", "server": ServerConfig(urls=("http://a.example/v1",))}
    assert ModelConfig(**given, **change).identity() == ModelConfig(**given).identity()
