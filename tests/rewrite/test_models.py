"""Loading checkpoints, and greedy text that depends on its own row alone."""

import shutil
from pathlib import Path

import pytest

from vecap_tasks.config import ModelConfig
from vecap_tasks.errors import VecapError
from vecap_tasks.rewrite.checkpoint import find_checkpoint
from vecap_tasks.rewrite.generation import Written
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
    together = [text for _, text in vlm.describe(seen(number) for number in range(45))]
    alone = [next(vlm.describe(iter([seen(number)])))[1] for number in (0, 20, 31, 32, 44)]
    assert [together[number] for number in (0, 20, 31, 32, 44)] == alone
    assert len({text.text for text in together if text}) > 10


def test_a_file_that_is_no_picture_gets_no_text_and_spoils_none(place, seen) -> None:
    vlm = vlm_of(place)
    mixed = list(vlm.describe(iter([seen(None), seen(1), seen(None), seen(2)])))
    assert [row.key for row, _ in mixed] == ["None", "1", "None", "2"]
    assert [text is None for _, text in mixed] == [True, False, True, False]
    assert mixed[1][1] == next(vlm.describe(iter([seen(1)])))[1]
    assert list(vlm.describe(iter([seen(None)]))) == [(seen(None).row, None)]


def test_a_pair_gets_the_same_caption_whatever_it_is_batched_with(place) -> None:
    llm = llm_of(place, batch_size=32)
    pairs = [(f"Name {number} " * (number % 7 + 1), "two red tulips " * (number % 3 + 1)) for number in range(50)]
    together = llm.fuse(pairs)
    assert list(together) != []
    assert set(together) == set(pairs)
    for pair in pairs[::9]:
        assert llm.fuse([pair])[pair] == together[pair]


def test_a_text_says_how_many_tokens_it_took_and_whether_it_ended(place, seen) -> None:
    texts = [text for _, text in vlm_of(place, max_new_tokens=7).describe(seen(number) for number in range(16))]
    assert all(isinstance(text, Written) and 1 <= text.tokens <= 7 for text in texts)
    assert any(not text.ended and text.tokens == 7 for text in texts if text)


def test_an_alttext_that_is_too_long_for_the_model_is_shortened_until_it_fits(place, tmp_path: Path) -> None:
    import json

    folder = shutil.copytree(place.llm, tmp_path / "short")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 300}))
    place.llm = folder
    llm = llm_of(place, max_new_tokens=12)
    assert len(llm.encode("x" * 100, "a cat")) < 288
    assert 200 < len(llm.encode("x " * 200, "a cat")) <= 288
    assert llm.encode("x", "cat " * 100) == []
    assert llm.fuse([("x", "cat " * 100)]) == {("x", "cat " * 100): None}


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
        ("nowhere", "there is no folder .*/nowhere; correct the path"),
        ("org/name", "no such model in the local hub cache; correct the path, or run `hf download org/name`"),
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


def test_a_model_without_a_chat_template_wants_one_beside_the_prompt(place, save_models, tmp_path: Path) -> None:
    _, save_llm = save_models
    place.llm = save_llm(tmp_path / "plain", chat_template=None)
    with pytest.raises(VecapError, match=r"has no chat template; put one beside the prompt, as fuse\.jinja"):
        llm_of(place)
    fused = llm_of(place, prompt="fuse-vicuna").fuse([("A Belvo tulip", "a red tulip")])
    assert fused["A Belvo tulip", "a red tulip"] is not None


def test_a_device_that_is_not_there_is_told(place) -> None:
    with pytest.raises(VecapError, match="device 'cuda:7' is not there"):
        llm_of(place, device="cuda:7")


def test_settings_that_only_say_how_stay_out_of_the_identity() -> None:
    settings = ModelConfig(model="m", prompt="p", device="cpu", threads=3)
    assert {"device", "threads"}.isdisjoint(settings.identity())
