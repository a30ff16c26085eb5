"""Measures a fusion checkpoint on scenes, AltText templates and names that its training never saw.

Each set is drawn from scenes of the split `eval`. What is counted, per set:
names kept      proper names of the AltText that fit the VeC and stand whole in the caption
concepts kept   of the VeC's counts, colors, kinds, relation and ground, those that stand in the caption
exact           captions that are word for word the caption wanted
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
# Categories whose AltText holds nothing that fits the picture: the VeC alone is the right caption.
_NAMELESS = ("mismatch", "file_name", "generic", "boilerplate", "url")


@dataclass(frozen=True, slots=True)
class Figures:
    """Counts of one held-out set; each `kept` is out of its total."""

    title: str
    captions: int
    names: int
    names_kept: int
    concepts: int
    concepts_kept: int
    exact: int

    def row(self) -> str:
        """A line of the model card's table."""
        names = f"{100 * self.names_kept / self.names:.1f} %" if self.names else "none to keep"
        concepts = f"{100 * self.concepts_kept / self.concepts:.1f} %"
        return f"| {self.title} | {self.captions} | {names} | {concepts} | {100 * self.exact / self.captions:.1f} % |"


@dataclass(frozen=True, slots=True)
class FusionModel:
    """A checkpoint that fuses pairs greedily, in batches padded on the left."""

    folder: Path

    def fuse(self, batch: Sequence[Pair]) -> list[str]:
        """One caption a pair, in order."""
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
    """Mark captions against the pairs that they were made from."""
    names = [(name, caption) for pair, caption in zip(batch, captions, strict=True) for name in pair.names]
    concepts = [
        concept in _concepts_said(pair, caption)
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
    """Count with its place, color with its place, kind with its place, relation, ground."""
    scene = parse(vec)
    if scene is None:
        return []
    found = [f"{place} {word}" for place, group in enumerate(scene.groups) for word in describe_group(group).split()]
    return [*found, *([scene.relation] if scene.relation else []), scene.ground]


def _concepts_said(pair: Pair, caption: str) -> list[str]:
    """The concepts of a caption once the names are taken out, or of the VeC's words that it holds one by one."""
    plain = caption
    for name in pair.names:
        said = name.text.removesuffix(f" {name.kind}")
        plain = plain.replace(f" {said} ", " ", 1)
    if parse(plain) is not None:
        return _concepts(plain)
    words = plain.split()
    return [one for one in _concepts(pair.vec) if set(re.sub(r"^\d ", "", one).split()) <= set(words)]


def measure(folder: Path, captions: int = 600) -> str:
    """The figures of the checkpoint in `folder`, as the model card prints them: a Markdown table."""
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
