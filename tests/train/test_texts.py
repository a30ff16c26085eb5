"""Text selection and tokenization."""

import json
from collections import Counter

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tests.train.factories import configure
from vecap_tasks.config import SubCaptionConfig
from vecap_tasks.errors import ConfigError
from vecap_tasks.train.data.epoch import TextDraws, split_sentences
from vecap_tasks.train.data.tokenizer import TokenizedTexts, clip_tokenizer, load_tokenizer

UIDS = [f"{number:032x}" for number in range(20_000)]


@pytest.fixture
def tokenizer(home):
    return load_tokenizer(configure(home))


MIXED = {"alttext": 0.4, "vecap": 0.6}


def draws(weights, counts, seed=0, epoch=0, **settings):
    """Return the index of each sample's first text among all of its texts."""
    drawn = TextDraws(seed, weights, **settings)
    return np.array([drawn.draw(uid, epoch, counts)[0].variant for uid in UIDS])


@pytest.mark.parametrize("probability", [0.0, 0.2, 1.0])
def test_a_text_is_drawn_with_its_weight(probability):
    drawn = draws({"alttext": 3 * probability, "vecap": 3 * (1 - probability)}, [1, 1], epoch=5)
    assert abs(1 - np.mean(drawn) - probability) < 0.01


def test_variants_are_uniform_and_independent_for_each_seed_and_epoch():
    drawn = draws({"vecap": 1.0}, [4], seed=3)
    assert np.abs(np.bincount(drawn, minlength=4) / len(UIDS) - 0.25).max() < 0.015
    for seed, epoch in ((3, 1), (4, 0)):
        assert abs((draws({"vecap": 1.0}, [4], seed, epoch) == drawn).mean() - 0.25) < 0.02


def test_an_arm_draws_among_texts_and_their_variants():
    drawn = draws(MIXED, [1, 3])
    assert np.abs(np.bincount(drawn, minlength=4) / len(UIDS) - [0.4, 0.2, 0.2, 0.2]).max() < 0.015


def test_a_missing_text_is_replaced_by_the_first_one_listed():
    weights = {"vec": 0.2, "vecap": 0.3, "alttext": 0.5}
    assert set(draws(weights, [0, 0, 1])) == {0}
    counts = np.bincount(draws(weights, [1, 0, 1]), minlength=2) / len(UIDS)
    assert np.abs(counts - [0.5, 0.5]).max() < 0.015, "the weight of vecap goes to vec"
    assert set(draws({"alttext": 0.0, "vecap": 1.0}, [1, 2])) == {1, 2}, "weight 0"
    assert set(draws({"alttext": 0.0, "vecap": 1.0}, [1, 0])) == {0}, "unless there is no other"


def test_captions_of_one_image_are_of_different_texts_and_then_of_other_variants():
    for uid in UIDS[:200]:
        one, two, three, four = (draw.variant for draw in TextDraws(0, MIXED, 4).draw(uid, 1, [1, 2]))
        assert {one > 0, two > 0} == {False, True}
        assert {one, two, three, four} == {0, 1, 2}
        assert [draw.variant for draw in TextDraws(0, MIXED, 3).draw(uid, 1, [0, 1])] == [0, 0, 0]


def test_sub_captions_are_drawn_with_their_probability_for_their_texts():
    settings = SubCaptionConfig(kind="sentence", probability=0.25, texts=["vecap"])
    drawn = TextDraws(0, MIXED, sub_captions=settings)
    caption = "Two cats. A red car on grass! Is it day?"
    assert split_sentences(caption) == ["Two cats.", "A red car on grass!", "Is it day?"]
    assert split_sentences("\u732b\u304c\u4e8c\u5339\u3002\u8349\u306e\u4e0a\u3002") == [
        "\u732b\u304c\u4e8c\u5339\u3002",
        "\u8349\u306e\u4e0a\u3002",
    ]
    used = Counter(drawn.text(draw, [(), (caption,)]) for uid in UIDS for draw in drawn.draw(uid, 0, [0, 1]))
    shares = [used[text] / len(UIDS) for text in drawn.parts("vecap", caption)]
    assert np.abs(np.array(shares) - [0.75, 1 / 12, 1 / 12, 1 / 12]).max() < 0.015
    assert {drawn.text(draw, [(caption,), ()]) for uid in UIDS for draw in drawn.draw(uid, 0, [1, 0])} == {caption}


def test_a_sub_caption_of_tokens_keeps_bos_and_eos(tokenizer):
    texts = TokenizedTexts(tokenizer)
    texts.add(["a red cat and a dog", "a cat"])
    whole = tokenizer("a red cat and a dog")["input_ids"]
    ids = texts.take(np.array([0, 1, 0]), np.array([2, 20, 0]))
    assert ids[0].tolist() == [*whole[:3], whole[-1], *[tokenizer.pad_token_id] * (len(whole) - 4)]
    assert ids[1].tolist()[: len(tokenizer("a cat")["input_ids"])] == tokenizer("a cat")["input_ids"]
    assert ids[2].tolist() == whole


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
