"""Measures a fusion checkpoint on scenes, AltText templates and names held out of its training.

Each set is drawn from scenes of the split `eval`. Scores per set:
names kept      proper names of the AltText that match the VeC and appear complete in the caption
concepts kept   counts, colors, kinds, relation and ground of the VeC that appear in the caption
exact           captions identical to the expected one
"""

import itertools
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tools.demo_models.fusion_pairs import Pair, held_out_pairs, known_name, strange_name, unseen_name
from tools.demo_models.llm import FUSE_PROMPT
from vecap_tasks.demo.alttext import Namer, Wording
from vecap_tasks.demo.names import ProperName
from vecap_tasks.demo.scene import PLURALS, describe_group, parse

NEW_TOKENS = 64
_BATCH = 64
# Categories whose AltText does not match the image: the VeC is the expected caption.
_NAMELESS = ("mismatch", "file_name", "generic", "boilerplate", "url")


@dataclass(frozen=True, slots=True)
class Figures:
    """Counts of one held-out set."""

    title: str
    captions: int
    names: int
    names_kept: int
    concepts: int
    concepts_kept: int
    exact: int

    def row(self) -> str:
        """Return a row of the model card's table."""
        names = f"{100 * self.names_kept / self.names:.1f} %" if self.names else "none to keep"
        concepts = f"{100 * self.concepts_kept / self.concepts:.1f} %"
        return f"| {self.title} | {self.captions} | {names} | {concepts} | {100 * self.exact / self.captions:.1f} % |"


@dataclass(frozen=True, slots=True)
class FusionModel:
    """A checkpoint that fuses pairs greedily, in left-padded batches."""

    folder: Path

    def fuse(self, batch: Sequence[Pair]) -> list[str]:
        """Return one caption per pair, in order."""
        tokenizer = AutoTokenizer.from_pretrained(self.folder, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(self.folder, trust_remote_code=False).eval()
        captions: list[str] = []
        for start in range(0, len(batch), _BATCH):
            chats = [
                [{"role": "user", "content": FUSE_PROMPT.format(alttext=pair.alttext, vec=pair.vec)}]
                for pair in batch[start : start + _BATCH]
            ]
            inputs = tokenizer.apply_chat_template(
                chats, add_generation_prompt=True, return_tensors="pt", return_dict=True, padding=True
            )
            with torch.inference_mode():
                out = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
            captions += tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return captions


def count(title: str, batch: Sequence[Pair], captions: Sequence[str]) -> Figures:
    """Score captions against the pairs they were generated from."""
    names = [(name, caption) for pair, caption in zip(batch, captions, strict=True) for name in pair.names]
    concepts = [
        concept in _concepts_in_caption(pair, caption)
        for pair, caption in zip(batch, captions, strict=True)
        for concept in _concepts(pair.vec)
    ]
    return Figures(
        title,
        len(batch),
        len(names),
        sum(_is_kept(name, caption) for name, caption in names),
        len(concepts),
        sum(concepts),
        sum(pair.caption == caption for pair, caption in zip(batch, captions, strict=True)),
    )


def _is_kept(name: ProperName, caption: str) -> bool:
    plural = re.sub(rf"\b{name.kind}$", PLURALS[name.kind], name.text)
    return any(re.search(rf"(?<!\w){re.escape(text)}(?!\w)", caption) for text in (name.text, plural))


def _concepts(vec: str) -> list[str]:
    """Return the concepts of a VeC: each group's words, prefixed with its index, and relation and ground."""
    scene = parse(vec)
    if scene is None:
        return []
    concepts = [f"{i} {word}" for i, group in enumerate(scene.groups) for word in describe_group(group).split()]
    return [*concepts, *([scene.relation] if scene.relation else []), scene.ground]


def _concepts_in_caption(pair: Pair, caption: str) -> list[str]:
    """Return the concepts of a caption without its names; if unparsable, those of the VeC whose words it contains."""
    plain = caption
    for name in pair.names:
        proper = name.text.removesuffix(f" {name.kind}")
        plain = plain.replace(f" {proper} ", " ", 1)
    if parse(plain) is not None:
        return _concepts(plain)
    words = plain.split()
    return [concept for concept in _concepts(pair.vec) if set(re.sub(r"^\d ", "", concept).split()) <= set(words)]


def measure(folder: Path, captions: int = 600) -> str:
    """Return the scores of the checkpoint in `folder` as the Markdown table of its model card."""
    sets = {
        "known names, the web's mix of AltText": _draw(1, captions, known_name, "any"),
        "known names, templates not trained on": _draw(2, captions, known_name, "heldout"),
        "names and templates not trained on": _draw(3, captions, unseen_name, "heldout"),
        "names of random letters, templates not trained on": _draw(4, captions, strange_name, "heldout"),
        "AltText with nothing that fits": [
            pair
            for seed, category in enumerate(_NAMELESS, start=5)
            for pair in _draw(seed, captions // len(_NAMELESS), known_name, "any", category)
        ],
    }  # fmt: skip
    lines = ["| held-out set | captions | names kept | concepts kept | exact |", "| --- | --- | --- | --- | --- |"]
    model = FusionModel(folder)
    for title, batch in sets.items():
        lines.append(count(title, batch, model.fuse(batch)).row())
    return "\n".join(lines)


def _draw(seed: int, captions: int, namer: Namer, wording: Wording, category: str | None = None) -> list[Pair]:
    return list(itertools.islice(held_out_pairs(random.Random(seed), namer, wording, category), captions))
