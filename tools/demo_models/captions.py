"""Second phase: the projector and the language model learn to describe in one sentence what the tower sees.

The tower is frozen at first; then all parts train together, including the tower's patch heads.
"""

import logging
import time
from dataclasses import dataclass
from random import Random
from typing import Final

import torch
from numpy import intp
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from tools.demo_models.optimizer import Optimizer
from tools.demo_models.pool import Pool
from tools.demo_models.tower import BATCH, Answers, answers_loss, batches, pixels
from vecap_tasks.demo.scene import describe

log = logging.getLogger("vecap.recipe.vlm")

FROZEN_RATE: Final = 1.5e-3
JOINT_RATE: Final = 5e-4
_ANSWERS_WEIGHT: Final = 0.3
_LOG_EVERY: Final = 50

# The prompt varies and the answer does not: any request for a short description gets this sentence.
PROMPTS: Final = (
    "Describe the image concisely, 20 words.",
    "Describe the image concisely.",
    "Describe the image in one sentence of at most 20 words: the objects with their number and colour, how they "
    "stand to each other, and the background.",
    "Describe what can be seen in this image in one plain sentence of at most 20 words.",
    "What is in this image?",
    "What do you see? Answer briefly.",
    "Write a short caption for this picture.",
    "Describe this picture in one sentence.",
    "Name the objects with their number and colour, how they stand to each other, and the setting.",
    "Caption:",
)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A batch of prompts with captions: token ids int64 (n, length), and a mask of the caption tokens."""

    tokens: Tensor
    caption_mask: Tensor


class Encoder:
    """Encodes captions as token ids, each with a random prompt, padded on the right."""

    def __init__(self, processor: LlavaProcessor, patches: int) -> None:
        tokenizer = processor.tokenizer
        self._end, self._pad = tokenizer.eos_token_id, tokenizer.pad_token_id
        self._encode = tokenizer.encode
        texts = [prompt_text(processor, prompt).replace("<image>", "<image>" * patches) for prompt in PROMPTS]
        self._prompts = [tokenizer.encode(text, add_special_tokens=False) for text in texts]

    def __call__(self, captions: list[str], rng: Random) -> Encoded:
        """Encode prompts and captions; the end token is the last caption token."""
        prompts = [rng.choice(self._prompts) for _ in captions]
        answers = [[*self._encode(f" {caption}", add_special_tokens=False), self._end] for caption in captions]
        length = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True))
        tokens = torch.full((len(captions), length), self._pad)
        caption_mask = torch.zeros((len(captions), length), dtype=torch.bool)
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            end = len(prompt) + len(answer)
            tokens[row, :end] = torch.tensor(prompt + answer)
            caption_mask[row, len(prompt) : end] = True
        return Encoded(tokens, caption_mask)


def prompt_text(processor: LlavaProcessor, prompt: str) -> str:
    """Return the chat template's text for one image and a prompt."""
    content = [{"type": "image"}, {"type": "text", "text": prompt}]
    text: str = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return text


def caption_loss(model: LlavaForConditionalGeneration, features: Tensor, batch: Encoded) -> Tensor:
    """Return the mean cross-entropy of the caption tokens; `features` (n, patches, width) come from the tower.

    Computes logits only for the caption tokens, a sixth of all tokens.
    """
    inner = model.model
    projected = inner.multi_modal_projector(features)
    embedded = inner.language_model.embed_tokens(batch.tokens).to(projected.dtype)
    image_positions = (batch.tokens == model.config.image_token_id)[:, :, None].expand_as(embedded)
    embedded = embedded.masked_scatter(image_positions, projected)
    hidden = inner.language_model(inputs_embeds=embedded, use_cache=False).last_hidden_state
    caption_mask = batch.caption_mask[:, 1:]
    logits = model.lm_head(hidden[:, :-1][caption_mask]).float()
    return functional.cross_entropy(logits, batch.tokens[:, 1:][caption_mask])


def train_captions(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    heads: Answers | None,
    pool: Pool,
    steps: int,
    seed: int,
) -> None:
    """Train in place: all parts with `heads`, or all but the vision tower without."""
    tower = model.model.vision_tower
    trained: tuple[nn.Module, ...] = (model.model.multi_modal_projector, model.model.language_model)
    if heads is not None:
        trained = (*trained, tower, heads)
    optimizer = Optimizer(trained, FROZEN_RATE if heads is None else JOINT_RATE, steps)
    encoder = Encoder(processor, (tower.config.image_size // tower.config.patch_size) ** 2)
    rng, noise = Random(seed), torch.Generator().manual_seed(seed)
    model.train()
    start = time.monotonic()
    for step, chosen in zip(range(1, steps + 1), batches(len(pool.pixels), BATCH, seed), strict=False):
        batch = encoder([describe(pool.scenes[index]) for index in chosen], rng)
        with torch.autocast("cpu", torch.bfloat16):
            with torch.set_grad_enabled(heads is not None):
                features = tower(pixels(pool, chosen, noise)).last_hidden_state[:, 1:]
            loss = caption_loss(model, features, batch)
            if heads is not None:
                loss = loss + _ANSWERS_WEIGHT * _answers(heads, features, pool, chosen)
        optimizer.step(loss)
        if step % _LOG_EVERY == 0 or step == steps:
            seconds = time.monotonic() - start
            log.info("caption step %d of %d loss %.4f %.0f s", step, steps, float(loss.detach()), seconds)


def _answers(heads: Answers, features: Tensor, pool: Pool, chosen: NDArray[intp]) -> Tensor:
    return answers_loss(heads(features), torch.from_numpy(pool.answers[chosen]))
