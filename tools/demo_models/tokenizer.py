"""Tokenizer of the small VLM: a byte-level BPE in which every caption word is one token."""

from collections.abc import Iterable
from itertools import chain
from typing import Final

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from vecap_tasks.demo.scene import COLORS, GROUNDS, KINDS, NUMBERS, PLURALS, RELATIONS

PAD, BEGIN, END, IMAGE = "<pad>", "<s>", "</s>", "<image>"
VOCABULARY: Final = 768
CONTEXT: Final = 1024
# Repetitions of each caption word in the training text, so that it is merged into one token first.
_EMPHASIS: Final = 100


def train_tokenizer(prompts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Train on caption words and prompts; other text falls back to bytes."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, BEGIN, END, IMAGE],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    phrases = (*COLORS, *KINDS, *PLURALS.values(), *NUMBERS, *RELATIONS, *GROUNDS, "a", "an")
    words = [f" {word}" for phrase in phrases for word in phrase.split()]
    backend.train_from_iterator(chain(words * _EMPHASIS, prompts, ["USER: ASSISTANT:"] * _EMPHASIS), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=[IMAGE],
        padding_side="left",
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
