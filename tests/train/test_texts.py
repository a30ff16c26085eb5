"""Text selection and tokenization."""

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
def test_alttext_is_chosen_with_the_configured_probability(probability):
    choices = [choose_text(0, uid, 5, 1, 2, probability) for uid in UIDS]
    assert abs(1 - np.mean(choices) - probability) < 0.01


def test_variants_are_uniform_and_independent_for_each_seed_and_epoch():
    choices = np.array([choose_text(3, uid, 0, 0, 4, 0.5) for uid in UIDS])
    assert np.abs(np.bincount(choices, minlength=4) / len(UIDS) - 0.25).max() < 0.015
    for seed, epoch in ((3, 1), (4, 0)):
        other = np.array([choose_text(seed, uid, epoch, 0, 4, 0.5) for uid in UIDS])
        assert abs((other == choices).mean() - 0.25) < 0.02


def test_mixed_chooses_between_alttext_and_the_variants():
    choices = np.array([choose_text(0, uid, 0, 1, 4, 0.4) for uid in UIDS])
    assert np.abs(np.bincount(choices, minlength=4) / len(UIDS) - [0.4, 0.2, 0.2, 0.2]).max() < 0.015
    only_alttext = {choose_text(0, uid, 0, 1, 1, 0.1) for uid in UIDS[:99]}
    only_vecap = {choose_text(0, uid, 0, 0, 1, 0.9) for uid in UIDS}
    assert only_alttext == only_vecap == {0}


def test_texts_are_padded_to_the_longest_and_truncated_to_the_context_length(tokenizer):
    texts = TokenizedTexts(tokenizer)
    texts.add(["a cat", "word " * 500])
    texts.add(["a red cat and a dog"])
    assert texts.take(np.array([0])).tolist() == [tokenizer("a cat")["input_ids"]]
    ids = texts.take(np.array([2, 0]))
    expected = tokenizer(["a red cat and a dog", "a cat"], padding=True)["input_ids"]
    assert ids.tolist() == expected
    assert ids.dtype == np.int32
    long = texts.take(np.array([1]))
    assert long.shape == (1, 24)
    assert long[0, 0] == tokenizer.bos_token_id
    assert long[0, -1] == tokenizer.eos_token_id
    assert (long[0] == tokenizer.eos_token_id).sum() == 1


def test_missing_special_tokens_are_added(home, tmp_path):
    """An EOS token with the legacy id 2 is replaced, because transformers would pool at another position."""
    config = configure(home).train.model
    backend = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "</s>": 2, "cat": 3}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    bare = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")
    converted = clip_tokenizer(bare, config)
    converted.save_pretrained(tmp_path / "saved")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "saved")
    for tokenizer in (converted, loaded):
        assert tokenizer.eos_token_id != 2
        ids = tokenizer(["A cat", "cat"], padding=True)["input_ids"]
        assert ids[0] == [tokenizer.bos_token_id, 1, 3, tokenizer.eos_token_id]
        assert ids[1] == [tokenizer.bos_token_id, 3, tokenizer.eos_token_id, tokenizer.pad_token_id]


def test_code_in_a_tokenizer_folder_does_not_run_and_does_not_prompt(home, tmp_path, monkeypatch):
    prompts = []
    monkeypatch.setattr("builtins.input", lambda prompt="": prompts.append(prompt) or "y")
    folder = tmp_path / "foreign"
    folder.mkdir()
    settings = {"tokenizer_class": "Foreign", "auto_map": {"AutoTokenizer": ["foreign.Slow", "foreign.Fast"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "foreign.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    config = configure(home, model__tokenizer=str(folder))
    with pytest.raises(ConfigError, match=r"train\.model\.tokenizer: .* requires custom Python code") as raised:
        load_tokenizer(config)
    assert "\n" not in str(raised.value)
    assert prompts == []
    assert not (tmp_path / "ran").exists()


def _wordlevel(**special):
    words = ["<pad>", "</s>", "<unk>", "a", "cat", "sat"]
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", **special)


def test_without_a_begin_token_token_ids_match_the_released_models(home):
    """As T5: text and EOS, a separate padding token, no added tokens."""
    config = configure(home, model__begin_token=False, model__context=8).train.model
    tokenizer = clip_tokenizer(_wordlevel(eos_token="</s>", pad_token="<pad>"), config)
    assert len(tokenizer) == 6
    assert tokenizer(["A cat", "cat"], padding=True)["input_ids"] == [[3, 4, 1], [4, 1, 0]]
    assert len(tokenizer(["a " * 20], truncation=True)["input_ids"][0]) == 8


def test_the_padding_token_may_be_eos_as_in_openai_s_tokenizer(home):
    config = configure(home).train.model
    tokenizer = clip_tokenizer(_wordlevel(bos_token="<s>", eos_token="<e>", pad_token="<e>"), config)
    texts = TokenizedTexts(tokenizer)
    texts.add(["a cat sat", "cat"])
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    assert tokenizer.pad_token_id == eos
    assert texts.take(np.array([0, 1])).tolist() == [[bos, 3, 4, 5, eos], [bos, 4, eos, eos, eos]]
