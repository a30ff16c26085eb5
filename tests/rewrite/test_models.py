"""Loading checkpoints, and greedy text that depends only on its row."""

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


def vlm_of(sandbox, **changes) -> Vlm:
    config = sandbox.config()
    settings = config.rewrite.vlm.model_copy(update=changes)
    return Vlm(find_checkpoint(config, settings.model), settings, load_prompt(settings.prompt))


def llm_of(sandbox, **changes) -> Llm:
    config = sandbox.config()
    settings = config.rewrite.llm.model_copy(update=changes)
    return Llm(find_checkpoint(config, settings.model), settings, load_prompt(settings.prompt), 512)


def test_the_text_of_an_image_does_not_depend_on_its_batch(sandbox, image_input) -> None:
    vlm = vlm_of(sandbox, batch_size=32)
    together = vlm.describe((image_input(number), GREEDY) for number in range(45))
    some = (0, 20, 31, 32, 44)
    assert [together[number] for number in some] == [
        vlm.describe([(image_input(number), GREEDY)])[0] for number in some
    ]
    assert len({text.text for text in together}) > 10


def test_an_unreadable_image_gets_no_text_and_does_not_affect_others(sandbox, image_input) -> None:
    vlm = vlm_of(sandbox)
    mixed = vlm.describe([(image_input(number), GREEDY) for number in (None, 1, None, 2)])
    assert [text.problem for text in mixed] == ["unreadable_image", None, "unreadable_image", None]
    assert mixed[1:2] == vlm.describe([(image_input(1), GREEDY)])
    assert mixed[3:] == vlm.describe([(image_input(2), GREEDY)])
    assert vlm.describe([(image_input(None), GREEDY)]) == mixed[:1]


def test_shared_text_inputs_match_the_processor(sandbox, image_input) -> None:
    vlm = vlm_of(sandbox)
    images = [image_input(number).image for number in range(3)]
    text = [f"<|begin|><|user|><image>{load_prompt('describe').text}<|end|><|assistant|>"] * 3
    expected = vlm._processor(
        text=text, images=[[image] for image in images], add_special_tokens=False, return_tensors="pt"
    )
    assert vlm._text_inputs.keys() == {"input_ids", "attention_mask"}
    actual = vlm._prepare(images)
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], value) for name, value in expected.items())


def test_the_caption_of_a_pair_does_not_depend_on_its_batch(sandbox) -> None:
    llm = llm_of(sandbox, batch_size=32)
    pairs = [(f"Name {number} " * (number % 7 + 1), "two red tulips " * (number % 3 + 1)) for number in range(50)]
    together = llm.fuse([(pair, GREEDY) for pair in pairs])
    assert [text.problem for text in together] == [None] * 50
    assert len({text.text for text in together}) > 10
    for number in range(0, 50, 9):
        assert llm.fuse([(pairs[number], GREEDY)]) == [together[number]]


def test_a_text_has_its_token_count_and_whether_it_ended(sandbox, image_input) -> None:
    texts = vlm_of(sandbox, max_new_tokens=7).describe((image_input(number), GREEDY) for number in range(16))
    assert all(isinstance(text, GeneratedText) and 1 <= text.tokens <= 7 for text in texts)
    assert any(not text.ended and text.tokens == 7 for text in texts)
    assert {text.prompt_tokens for text in texts} == {texts[0].prompt_tokens}
    assert texts[0].prompt_tokens > len(load_prompt("describe").text)  # one token per byte, plus the image tokens


def test_a_too_long_alttext_is_cut_to_fit_the_model(sandbox, tmp_path: Path) -> None:
    folder = shutil.copytree(sandbox.llm, tmp_path / "short")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 300}))
    sandbox.llm = folder
    llm = llm_of(sandbox, max_new_tokens=12)
    assert len(llm.encode("x" * 100, "a cat")) < 288
    assert 200 < len(llm.encode("x " * 200, "a cat")) <= 288
    assert llm.encode("x", "cat " * 100) == []
    assert [text.problem for text in llm.fuse([(("x", "cat " * 100), GREEDY)])] == ["prompt_too_long"]


@pytest.mark.parametrize("role", ["vlm", "llm"])
def test_remote_code_in_a_model_folder_never_runs(sandbox, tmp_path: Path, monkeypatch, role: str) -> None:
    """An unknown architecture with `auto_map`, like models of the hub."""
    folder = shutil.copytree(getattr(sandbox, role), tmp_path / "foreign")
    requests: list[str] = []
    monkeypatch.setattr("builtins.input", lambda prompt="": requests.append(prompt) or "y")
    kinds = ("AutoConfig", "AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoProcessor")
    config = json.loads((folder / "config.json").read_text())
    foreign = {"model_type": "foreign", "auto_map": {kind: f"foreign.{kind}" for kind in kinds}}
    (folder / "config.json").write_text(json.dumps(config | foreign))
    ran = tmp_path / "ran"
    (folder / "foreign.py").write_text(f"open({str(ran)!r}, 'w')\n")
    setattr(sandbox, role, folder)
    with pytest.raises(
        VecapError, match=r"foreign: it requires custom Python code \(`auto_map`\), .* never"
    ) as exc_info:
        (vlm_of if role == "vlm" else llm_of)(sandbox)
    assert "\n" not in str(exc_info.value)
    assert requests == []
    assert not ran.exists()


def test_the_revision_depends_only_on_model_files(sandbox, tmp_path: Path) -> None:
    config = sandbox.config()
    first = find_checkpoint(config, str(sandbox.llm))
    copy = shutil.copytree(sandbox.llm, tmp_path / "copy")
    (copy / "README.md").write_text("a model card")
    (copy / "figures.json").write_text("{}")
    assert find_checkpoint(config, str(copy)).digest == first.digest
    (copy / "generation_config.json").write_text("{}")
    assert find_checkpoint(config, str(copy)).digest != first.digest
    assert first.bytes > (sandbox.llm / "model.safetensors").stat().st_size


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("nowhere", "folder .*/nowhere does not exist; correct the path"),
        ("org/name", "the local Hub cache has no such model; correct the path, or run `hf download org/name`"),
        ("empty", "/empty has no config.json"),
        ("weightless", "/weightless has no weights"),
    ],
)
def test_the_error_for_an_invalid_model_folder_is_one_line(sandbox, tmp_path: Path, broken: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    shutil.copytree(sandbox.llm, tmp_path / "weightless", ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(VecapError, match=message) as exc_info:
        find_checkpoint(sandbox.config(), broken)
    assert "\n" not in str(exc_info.value)


def test_the_error_for_an_incompatible_or_truncated_model_is_one_line(sandbox, tmp_path: Path) -> None:
    text_model = sandbox.llm
    sandbox.vlm = text_model
    with pytest.raises(VecapError, match="cannot be loaded from") as exc_info:
        vlm_of(sandbox)
    assert "\n" not in str(exc_info.value)
    sandbox.llm = shutil.copytree(text_model, tmp_path / "short")
    weights = sandbox.llm / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(VecapError, match="cannot be loaded from") as exc_info:
        llm_of(sandbox)
    assert "\n" not in str(exc_info.value)


def test_missing_weights_are_an_error(sandbox, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    sandbox.llm = shutil.copytree(sandbox.llm, tmp_path / "lacking")
    weights = load_file(sandbox.llm / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, sandbox.llm / "model.safetensors", {"format": "pt"})
    with pytest.raises(VecapError, match=r"1 weights are missing, such as model\.layers\.1\.mlp\.up_proj\.weight"):
        llm_of(sandbox)


def test_the_prompt_template_is_used_if_the_model_has_none(sandbox, save_models, tmp_path: Path) -> None:
    _, save_llm = save_models
    sandbox.llm = save_llm(tmp_path / "plain", chat_template=None)
    fused = "Fuse into one caption; keep names and all concepts.\nAlt text: a\nDescription: b"
    assert len(llm_of(sandbox).encode("a", "b")) == len(fused)
    assert len(llm_of(sandbox, prompt="fuse-vicuna").encode("a", "b")) > 2 * len(fused)


def test_the_chat_template_of_the_model_takes_precedence(sandbox) -> None:
    llm = llm_of(sandbox, prompt="fuse-vicuna")
    prompt = llm._tokenizer.decode(llm.encode("a", "b"))
    assert prompt.startswith("<|begin|><|user|>You write captions")
    assert "USER:" not in prompt


def test_a_missing_device_is_an_error(sandbox) -> None:
    with pytest.raises(VecapError, match="device 'cuda:7' is not available"):
        llm_of(sandbox, device="cuda:7")


@pytest.mark.parametrize("change", [{"device": "cuda"}, {"threads": 3}, {"batch_size": 3}, {"dtype": "bfloat16"}])
def test_rounding_settings_are_part_of_the_identity_of_local_models_only(change) -> None:
    settings = {"model": "m", "prompt": "p"}
    assert ModelConfig(**settings, **change).identity() != ModelConfig(**settings).identity()
    settings |= {"backend": "openai", "server": ServerConfig(urls=("http://a.example/v1",))}
    assert ModelConfig(**settings, **change).identity() == ModelConfig(**settings).identity()
