"""Trains the small fusion LLM from scratch: a Llama with its own tokenizer, on one CPU core.

    python -m tools.demo_models.llm --out DIR              # train; about an hour on one core
    python -m tools.demo_models.llm --measure DIR          # print held-out scores of a checkpoint

The checkpoint is a plain transformers folder: AutoTokenizer and AutoModelForCausalLM load it, and its chat template
formats the prompt, as for Vicuna. The same seed and package versions give the same weights.
"""

import argparse
import itertools
import logging
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tools.demo_models.fusion_pairs import Pair, pairs, prose

log = logging.getLogger("vecap.recipe.llm")

FUSE_PROMPT = "Fuse into one caption; keep names and all concepts.\nAlt text: {alttext}\nDescription: {vec}"
PAD, BEGIN, SYSTEM, USER, ASSISTANT, END = SPECIAL = (
    "<|pad|>",
    "<|begin|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
)
CHAT_TEMPLATE = (
    "<|begin|>{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] | trim }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SEED = 11
VOCABULARY = 2048
CONTEXT = 1024
BATCH, WARM_UP = 192, 100
# Batches are cut from this many at once, sorted by length, to reduce padding.
_SORTED_BATCHES = 8
_IGNORED = -100


@dataclass(frozen=True, slots=True)
class Cycle:
    """A training cycle with its own optimizer; the learning rate decays to zero after `schedule` steps."""

    steps: int
    schedule: int
    peak_rate: float
    framed: bool


CYCLES = (Cycle(1000, 1000, 2e-3, framed=False), Cycle(500, 900, 1.5e-3, framed=True))


def train_tokenizer(examples: int = 60_000) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer trained on prompts and captions; it round-trips any text."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?[A-Za-z]+| ?\d| ?[^\sA-Za-z\d]+|\s"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    drawn = itertools.islice(pairs(random.Random(SEED)), examples)
    texts = itertools.chain(
        (FUSE_PROMPT.format(alttext=pair.alttext, vec=pair.vec) + "\n" + pair.caption for pair in drawn), prose()
    )
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=[SYSTEM, USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Return the untrained model: 4 layers of width 192, tied embeddings."""
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    # At this width, plain matrix products train faster on a CPU than fused attention.
    model.set_attn_implementation("eager")
    return model


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of a prompt (including the chat template) and of the answer (including the end token)."""

    prompt: list[int]
    answer: list[int]


def encode(tokenizer: PreTrainedTokenizerFast, batch: Sequence[Pair]) -> list[Encoded]:
    """Encode pairs for training; text that looks like a special token is encoded as plain text."""
    prompts = [FUSE_PROMPT.format(alttext=pair.alttext, vec=pair.vec) for pair in batch]
    texts = [*prompts, *(pair.caption for pair in batch)]
    ids = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    begin, user, assistant, end = tokenizer.convert_tokens_to_ids([BEGIN, USER, ASSISTANT, END])
    return [
        Encoded([begin, user, *prompt, end, assistant], [*answer, end])
        for prompt, answer in zip(ids[: len(batch)], ids[len(batch) :], strict=True)
    ]


def batches(
    tokenizer: PreTrainedTokenizerFast, rng: random.Random, framed: bool
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield batches forever: ids and labels, int64 (BATCH, length), right-padded, with prompts ignored."""
    stream = pairs(rng, framed)
    while True:
        drawn = encode(tokenizer, list(itertools.islice(stream, BATCH * _SORTED_BATCHES)))
        drawn.sort(key=lambda example: len(example.prompt) + len(example.answer))
        chunks = [drawn[start : start + BATCH] for start in range(0, len(drawn), BATCH)]
        rng.shuffle(chunks)
        for batch in chunks:
            length = min(max(len(example.prompt) + len(example.answer) for example in batch), CONTEXT)
            ids = torch.full((len(batch), length), tokenizer.pad_token_id)
            labels = torch.full((len(batch), length), _IGNORED)
            for row, example in enumerate(batch):
                tokens = torch.tensor((example.prompt + example.answer)[:length])
                ids[row, : len(tokens)] = tokens
                labels[row, len(example.prompt) : len(tokens)] = tokens[len(example.prompt) :]
            yield ids, labels


def loss_of(model: LlamaForCausalLM, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy of the answer tokens; only their positions go through the output layer."""
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    targets = labels[:, 1:]
    kept = targets != _IGNORED
    logits = model.lm_head(hidden[kept])
    return torch.nn.functional.cross_entropy(logits.float(), targets[kept])


def rate_at(step: int, cycle: Cycle) -> float:
    """Return the learning rate: linear warm-up, then cosine decay to zero."""
    if step < WARM_UP:
        return cycle.peak_rate * (step + 1) / WARM_UP
    share = (step - WARM_UP) / max(1, cycle.schedule - WARM_UP)
    return cycle.peak_rate * 0.5 * (1 + math.cos(math.pi * share))


def train(out: Path, first: int = 0) -> None:
    """Train tokenizer and model and write the checkpoint to `out`; `first` > 0 continues it from that cycle."""
    if first:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(out, trust_remote_code=False)
        model = LlamaForCausalLM.from_pretrained(out, trust_remote_code=False, attn_implementation="eager")
    else:
        tokenizer = train_tokenizer()
        model = new_model(tokenizer)
        tokenizer.save_pretrained(out)
    for number, cycle in enumerate(CYCLES[first:], start=first):
        stream = batches(tokenizer, random.Random(SEED + 1 + number), cycle.framed)
        run_cycle(model, cycle, itertools.islice(stream, cycle.steps), out)


def run_cycle(
    model: LlamaForCausalLM, cycle: Cycle, stream: Iterator[tuple[torch.Tensor, torch.Tensor]], out: Path
) -> None:
    """Train on the batches of `stream`; saves to `out` every hundred steps and at the end."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=cycle.peak_rate, betas=(0.9, 0.98), weight_decay=0.05)
    started = time.monotonic()
    model.train()
    for step, (ids, labels) in enumerate(stream):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, cycle)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(model, ids, labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 20 == 0 or step == cycle.steps - 1:
            log.info("step %d of %d loss %.4f %.0f s", step, cycle.steps, loss.item(), time.monotonic() - started)
        if step % 100 == 99 or step == cycle.steps - 1:
            model.save_pretrained(out)


def main() -> None:
    """Train or measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument("--out", type=Path, help="folder to write the trained checkpoint to")
    choice.add_argument("--measure", type=Path, help="checkpoint folder to measure on held-out scenes")
    parser.add_argument("--cycle", type=int, default=0, help="with --out: continue training from this cycle")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    if arguments.measure is not None:
        from tools.demo_models.measure_llm import measure

        print(measure(arguments.measure))
    else:
        train(arguments.out, arguments.cycle)


if __name__ == "__main__":
    main()
