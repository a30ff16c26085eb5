"""Readers of evaluation sets, model responses, prompts and captions, one function per kind of input."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pyarrow as pa

from benchmarks.fuzz_outcome import Outcome, PropertyError, text_of, work_folder, write_input
from vecap_tasks.errors import retry_after_seconds


def evaluation(data: bytes) -> Outcome:
    from vecap_tasks.config import CaptionTable, ClassTable, KarpathySet, TokenSet
    from vecap_tasks.evaluate.sets import captions, classes

    kind, _, body = data.partition(b"\n")
    name = kind.decode("latin-1")
    path = write_input("input.json" if name.endswith("json") else "input.txt", body)
    images = work_folder() / "images"
    common = {"name": "a", "path": "x", "images": "x"}
    table = CaptionTable(kind="csv", **common)
    readers: dict[str, tuple[Callable[[], Any], ...]] = {
        "captions.csv": (
            lambda: captions.read_caption_table(table, path, images),
            lambda: captions.read_caption_table(table.model_copy(update={"quotes": False}), path, images),
        ),
        "labels.csv": (
            lambda: classes.read_class_table(
                ClassTable(kind="csv", classes="x", templates="x", **common), path, images, ("cat", "dog"), ("a {}",)
            ),
        ),
        "tokens.txt": (lambda: captions.read_tokens(TokenSet(kind="tokens", **common), path, images, None),),
        "karpathy.json": (lambda: captions.read_karpathy(KarpathySet(kind="karpathy", **common), path, images),),
        "names.txt": (lambda: classes.read_names(path, None),),
        "names.json": (lambda: classes.read_names(path, None), lambda: classes.read_names(path, "en")),
        "templates.txt": (lambda: classes.read_templates(path, None),),
    }
    outcome = Outcome()
    for read in readers.get(name, readers["captions.csv"]):
        found = outcome.whole(read)
        if found is not None:
            outcome.rows += len(getattr(found, "images", found))
            json.dumps(
                getattr(found, "captions", found if isinstance(found, tuple) else ()), ensure_ascii=False
            ).encode()
    return outcome


def answer(data: bytes) -> Outcome:
    """Parse a server's response as text and as an error, screen the text, and store it as a caption."""
    from vecap_tasks.rewrite.backends.openai_errors import InvalidResponse, Response, ServerError, classify
    from vecap_tasks.rewrite.backends.sampling_params import flat
    from vecap_tasks.rewrite.screen import screen_vec

    outcome = Outcome()
    status, kind, retry, text = (data.decode("utf-8", "replace").split("\n", 3) + [""] * 4)[:4]
    wait = retry_after_seconds(retry)
    reply = Response(
        int(status) if status.isascii() and status.isdecimal() and len(status) < 4 else 200, kind, wait, text
    )
    error: ServerError = reply.error
    classify(error)
    pa.array([str(error)])
    try:
        generated = reply.completion()
    except InvalidResponse:
        outcome.refused["invalid_response"] += 1
        return outcome
    if generated.problem:
        outcome.refused[generated.problem] += 1
        return outcome
    json.dumps(flat(generated), ensure_ascii=False).encode()
    pa.array([generated.tokens], pa.int32())
    screened = screen_vec(generated.text, generated.ended, "Describe the image.")
    pa.array([screened.text, generated.text])
    outcome.rows += screened.text is not None
    outcome.refused.update([screened.problem] if screened.problem else [])
    return outcome


_TOKENS = ("<s>", "</s>", "<|im_end|>", "▁<img>")
_LIMIT = 1000  # characters of an AltText in a prompt


@lru_cache(maxsize=1)
def prompts() -> list[Any]:
    """Return the prompts with placeholders."""
    from vecap_tasks.rewrite.prompt import load_prompt

    return [load_prompt(name) for name in ("fuse", "fuse-vicuna", "rewrite")]


def prompt(data: bytes) -> Outcome:
    """Clean an AltText and a VeC, and fill the prompts."""
    from vecap_tasks.rewrite.sanitize import clean

    outcome = Outcome()
    alttext, _, vec = text_of(data).partition("\f")
    cleaned, described = clean(alttext, _TOKENS, _LIMIT), clean(vec, (), _LIMIT)
    for text in (cleaned, described):
        if len(text) > _LIMIT or "\n" in text or clean(text, _TOKENS, _LIMIT // 2) is None:
            raise PropertyError("the cleaned text is too long or has line breaks")
    for item in prompts():
        filled = item.fill(alttext=cleaned, vec=described)
        filled.encode()
        if "<alttext>" in item.text and filled.count("</alttext>") != item.text.count("</alttext>"):
            raise PropertyError("the data closes its delimiter")
        outcome.rows += 1
    return outcome


def screening(data: bytes) -> Outcome:
    """Screen a generated text as VeC and as VeCap, with its AltText and VeC as the stage passes them."""
    from vecap_tasks.rewrite.screen import screen_vec, screen_vecap

    outcome = Outcome()
    alttext, vec, text, *_ = (text_of(data).split("\f") + [""] * 3)[:4]
    text = " ".join(text.split())
    for screened in (
        screen_vec(text, True, "Describe."),
        screen_vecap(text, True, "Fuse.", alttext, " ".join(vec.split())),
    ):
        outcome.rows += screened.text is not None
        outcome.refused.update([screened.problem] if screened.problem else [])
    return outcome
