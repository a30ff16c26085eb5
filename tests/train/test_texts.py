"""Which text a sample is shown with, and how it becomes token ids."""

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tests.train.given import configure
from vecap_tasks.train.data import Place, Sample
from vecap_tasks.train.texts import ArmTexts, takes_alttext
from vecap_tasks.train.tokenizer import clip_tokenizer, load_tokenizer

NOWHERE = Place("", 0, 0)


def sample(number, alttext="old words", vecap="new words"):
    return Sample(f"{number:032x}", alttext, "seen", vecap, NOWHERE)


@pytest.fixture
def tokenizer(home):
    return load_tokenizer(configure(home))


def test_mixed_draws_by_seed_uid_and_epoch_alone(tokenizer):
    samples = [sample(number) for number in range(200)]
    texts = ArmTexts(samples, "mixed", tokenizer, seed=3, probability=0.5)
    turned = ArmTexts(samples[::-1], "mixed", tokenizer, seed=3, probability=0.5)
    numbers = np.arange(200)
    one = texts.take(numbers, 0)
    assert (turned.take(numbers[::-1], 0) == one).all()
    assert (texts.take(numbers, 1) != one).any(axis=1).mean() > 0.3, "drawn anew in each epoch"
    other = ArmTexts(samples, "mixed", tokenizer, seed=4, probability=0.5)
    assert (other.take(numbers, 0) != one).any(axis=1).mean() > 0.3


@pytest.mark.parametrize("probability", [0.0, 0.2, 1.0])
def test_share_of_alttext_is_the_probability(probability):
    drawn = [takes_alttext(0, f"{number:032x}", 5, probability) for number in range(20_000)]
    assert abs(np.mean(drawn) - probability) < 0.01


def test_mixed_takes_the_other_text_where_one_is_empty(tokenizer):
    samples = [sample(number, alttext="") for number in range(50)] + [sample(50 + n, vecap="") for n in range(50)]
    ids = ArmTexts(samples, "mixed", tokenizer, seed=0, probability=0.5).take(np.arange(100), 0)
    said = tokenizer.batch_decode(ids, skip_special_tokens=True)
    assert [text.strip() for text in said] == ["new words"] * 50 + ["old words"] * 50


def test_a_long_text_is_cut_and_still_ends(tokenizer):
    ids = ArmTexts([sample(0, vecap="word " * 500)], "vecap", tokenizer, seed=0, probability=0.5).take(np.array([0]), 0)
    assert ids.shape == (1, 24)
    assert ids[0, 0] == tokenizer.bos_token_id
    assert ids[0, -1] == tokenizer.eos_token_id
    assert (ids[0] == tokenizer.eos_token_id).sum() == 1


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
