"""Which text a sample is shown with, and how it becomes token ids."""

import json

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tests.train.factories import configure
from vecap_tasks.errors import ConfigError
from vecap_tasks.train.data.samples import choose_text
from vecap_tasks.train.data.tokenizer import TokenizedTexts, clip_tokenizer, load_tokenizer

UIDS = [f"{number:032x}" for number in range(20_000)]


@pytest.fixture
def tokenizer(home):
    return load_tokenizer(configure(home))


@pytest.mark.parametrize("probability", [0.0, 0.2, 1.0])
def test_share_of_alttext_is_the_probability(probability):
    drawn = [choose_text(0, uid, 5, 1, 2, probability) for uid in UIDS]
    assert abs(1 - np.mean(drawn) - probability) < 0.01


def test_variants_are_drawn_evenly_and_anew_in_each_epoch():
    drawn = np.array([choose_text(3, uid, 0, 0, 4, 0.5) for uid in UIDS])
    assert np.abs(np.bincount(drawn, minlength=4) / len(UIDS) - 0.25).max() < 0.015
    for seed, epoch in ((3, 1), (4, 0)):
        other = np.array([choose_text(seed, uid, epoch, 0, 4, 0.5) for uid in UIDS])
        assert abs((other == drawn).mean() - 0.25) < 0.02


def test_mixed_draws_between_alttext_and_the_variants():
    drawn = np.array([choose_text(0, uid, 0, 1, 4, 0.4) for uid in UIDS])
    assert np.abs(np.bincount(drawn, minlength=4) / len(UIDS) - [0.4, 0.2, 0.2, 0.2]).max() < 0.015
    alttext_alone, vecap_alone = (
        {choose_text(0, u, 0, 1, 1, 0.1) for u in UIDS[:99]},
        {choose_text(0, u, 0, 0, 1, 0.9) for u in UIDS},
    )
    assert alttext_alone == vecap_alone == {0}


def test_texts_are_padded_to_the_longest_of_a_batch_and_cut_at_the_context(tokenizer):
    texts = TokenizedTexts(tokenizer)
    texts.add(["a cat", "word " * 500])
    texts.add(["a red cat and a dog"])
    assert texts.take(np.array([0])).tolist() == [tokenizer("a cat")["input_ids"]]
    some = texts.take(np.array([2, 0]))
    padded = tokenizer(["a red cat and a dog", "a cat"], padding=True)["input_ids"]
    assert some.tolist() == padded
    assert some.dtype == np.int32
    long = texts.take(np.array([1]))
    assert long.shape == (1, 24)
    assert long[0, 0] == tokenizer.bos_token_id
    assert long[0, -1] == tokenizer.eos_token_id
    assert (long[0] == tokenizer.eos_token_id).sum() == 1


def test_a_tokenizer_without_marks_gets_them(home, tmp_path):
    """Also one whose end has the id 2, at which transformers would read the feature in another place."""
    config = configure(home).train.model
    backend = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "</s>": 2, "cat": 3}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    bare = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")
    made = clip_tokenizer(bare, config)
    made.save_pretrained(tmp_path / "saved")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "saved")
    for one in (made, loaded):
        assert one.eos_token_id != 2
        ids = one(["A cat", "cat"], padding=True)["input_ids"]
        assert ids[0] == [one.bos_token_id, 1, 3, one.eos_token_id]
        assert ids[1] == [one.bos_token_id, 3, one.eos_token_id, one.pad_token_id]


def test_code_in_a_tokenizers_folder_is_neither_run_nor_asked_about(home, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("builtins.input", lambda prompt="": asked.append(prompt) or "y")
    folder = tmp_path / "foreign"
    folder.mkdir()
    settings = {"tokenizer_class": "Foreign", "auto_map": {"AutoTokenizer": ["foreign.Slow", "foreign.Fast"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "foreign.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    config = configure(home, model__tokenizer=str(folder))
    with pytest.raises(ConfigError, match=r"train\.model\.tokenizer: .* requires custom Python code") as told:
        load_tokenizer(config)
    assert "\n" not in str(told.value)
    assert asked == []
    assert not (tmp_path / "ran").exists()


def _wordlevel(**special):
    words = ["<pad>", "</s>", "<unk>", "a", "cat", "sat"]
    backend = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", **special)


def test_without_a_begin_token_texts_are_those_of_the_released_models(home):
    """T5's marks: text and its end, padding of its own, no word added."""
    config = configure(home, model__begin_token=False, model__context=8).train.model
    made = clip_tokenizer(_wordlevel(eos_token="</s>", pad_token="<pad>"), config)
    assert len(made) == 6
    assert made(["A cat", "cat"], padding=True)["input_ids"] == [[3, 4, 1], [4, 1, 0]]
    assert len(made(["a " * 20], truncation=True)["input_ids"][0]) == 8


def test_padding_may_be_the_end_as_in_openai_s_tokenizer(home):
    """The end of the longest text must stay, and CLIP reads at the first end of the others."""
    config = configure(home).train.model
    made = clip_tokenizer(_wordlevel(bos_token="<s>", eos_token="<e>", pad_token="<e>"), config)
    texts = TokenizedTexts(made)
    texts.add(["a cat sat", "cat"])
    begin, end = made.bos_token_id, made.eos_token_id
    assert made.pad_token_id == end
    assert texts.take(np.array([0, 1])).tolist() == [[begin, 3, 4, 5, end], [begin, 4, end, end, end]]
