"""Writes the dataset card (README.md with Hugging Face front matter) and the sample sheet (first samples as PNG)."""

from __future__ import annotations

import io
import json
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from PIL import Image

from vecap_tasks.core.store import Store
from vecap_tasks.core.tar import read_samples

if TYPE_CHECKING:
    from matplotlib.axes import Axes


SHEET_SAMPLES = 8
_COLUMNS = 2
_SAMPLE_INCHES = (7.0, 1.6)
_LINE_CHARS = 52
_MAX_LINES = 3  # per text
_SHEET_TEXTS = (("alttext", "AltText", "#8a5a00"), ("vec", "VeC", "#1f5fa8"), ("vecap", "VeCap", "#1b7837"))
_REWRITTEN = ("alttext_rewritten", "Rewritten", "#7b3294")  # if the version has it
_REWRITTEN_SCALE = 1.3  # height with the rewritten AltText
# License identifiers of Hugging Face; any other license is `other` with its name.
_LICENSES = frozenset(
    {"apache-2.0", "mit", "unknown", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0"}
)
_ORIGINS = {
    "llm": "the LLM fused AltText and VeC",
    "vec": "the VeC: the AltText was unusable, or screening rejected the LLM's text",
    "alttext": "the cleaned AltText: screening rejected the VLM's text",
}
_TEXTS = {
    "alttext": 'AltText as crawled, with noise; white space is normalized; `""` if it is missing or has private data',
    "vec": 'visual concepts from the VLM; `""` if it has no usable text',
    "vecap": "caption that fuses AltText and VeC; never empty",
    "alttext_rewritten": 'AltText rewritten by the LLM without the VeC; `""` if none',
}


def write_sheet(store: Store, tar: str, path: Path) -> None:
    """Draw the first samples of the shard *tar* as the PNG *path*. Raises CorruptError if the tar is corrupt."""
    # Not pyplot, which has global state and can require a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with store.local(tar) as local, local.open("rb") as stream:
        samples = list(islice(read_samples(stream, tar), SHEET_SAMPLES))
    texts = [json.loads(sample.members["json"]) for sample in samples]
    rewritten = any(values.get(_REWRITTEN[0]) for values in texts)
    sheet_texts, height = ((*_SHEET_TEXTS, _REWRITTEN), _REWRITTEN_SCALE) if rewritten else (_SHEET_TEXTS, 1.0)
    rows = -(-len(samples) // _COLUMNS)
    figure = Figure(figsize=(_COLUMNS * _SAMPLE_INCHES[0], rows * _SAMPLE_INCHES[1] * height), dpi=100)
    FigureCanvasAgg(figure)
    for number, (sample, values) in enumerate(zip(samples, texts, strict=True)):
        left = (number % _COLUMNS) / _COLUMNS
        bottom = 1 - (number // _COLUMNS + 1) / rows
        image_axes = figure.add_axes((left + 0.005, bottom + 0.05 / rows, 0.105, 0.9 / rows))
        image_axes.set_axis_off()
        image_axes.imshow(Image.open(io.BytesIO(sample.members["jpg"])).convert("RGB"))
        text_axes = figure.add_axes((left + 0.12, bottom, 0.5 - 0.12, 1 / rows))
        text_axes.set_axis_off()
        text_axes.set_ylim(1 - height, 1)
        _write_texts(text_axes, values, sheet_texts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # characters without a font on this machine
        figure.savefig(path, format="png", metadata={"Software": None})


def _write_texts(axes: Axes, values: Mapping[str, Any], sheet_texts: Sequence[tuple[str, str, str]]) -> None:
    top = 0.94
    for name, title, color in sheet_texts:
        text = str(values[name])
        lines = textwrap.wrap(text, _LINE_CHARS, max_lines=_MAX_LINES, placeholder=" …") or ["—"]
        # Web text is not parsed as math or markup.
        axes.text(0, top, title, color=color, fontsize=10, fontweight="bold", va="top", parse_math=False)
        axes.text(0.13, top, "\n".join(lines), fontsize=10, va="top", parse_math=False)
        top -= 0.07 + 0.14 * len(lines)


@dataclass(frozen=True, slots=True)
class TextProvenance:
    """The model and prompt of a text; `revision` is a digest of the model files, `prompt` is name@digest."""

    text: str  # VeC, VeCap or AltText rewritten
    model: str
    revision: str
    prompt: str


@dataclass(frozen=True, slots=True)
class CardData:
    """The content of a card. Mappings are by text (alttext, vec, vecap, alttext_rewritten) or by stage."""

    dataset: str
    interval: str
    license: str
    shards: int
    samples: int
    images: int  # distinct
    left_out: int  # accepted rows without a caption
    with_text: Mapping[str, int]
    words: Mapping[str, float]  # mean over the samples that have the text
    variants: int  # maximum per text
    origins: Mapping[str, int]  # vecap_from -> samples
    provenance: tuple[TextProvenance, ...]
    counters: Mapping[str, Mapping[str, int]]
    digests: Mapping[str, str]
    kept: tuple[str, ...] = ()  # columns of the source


def write_card(data: CardData) -> str:
    """Return the card as Markdown. Deterministic."""
    return "\n".join([_front_matter(data), _body(data)])


def _front_matter(data: CardData) -> str:
    token = data.license.split(" ", 1)[0].lower()
    license = {"license": token} if token in _LICENSES else {"license": "other", "license_name": data.license}
    metadata = {
        "pretty_name": f"{data.dataset} {data.interval}",
        **license,
        "task_categories": ["zero-shot-image-classification", "image-to-text"],
        "size_categories": [_size(data.samples)],
        "tags": ["webdataset", "clip", "vecap", "synthetic-captions"],
        "configs": [{"config_name": "default", "data_files": "*.tar"}],
    }
    return f"---\n{yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)}---"


def _size(samples: int) -> str:
    """Return Hugging Face's size category: n<1K, 1K<n<10K, 10K<n<100K, 100K<n<1M …"""
    if samples < 1_000:
        return "n<1K"
    if samples >= 10**12:
        return "n>1T"
    zeros = len(str(samples)) - 1
    low, high = ("1" + "0" * (power % 3) + "KMBT"[power // 3 - 1] for power in (zeros, zeros + 1))
    return f"{low}<n<{high}"


def _body(data: CardData) -> str:
    crawl, quality, rewrite = (data.counters[name] for name in ("crawl", "quality", "rewrite"))
    last = f"{data.shards - 1:05d}"
    rejected = ", ".join(_format_counters(quality, "reason.")) or "none"
    problems = ", ".join(_format_counters(quality, "alttext.")) or "none"
    texts = "\n".join(
        f"| `{name}` | {description} | {data.with_text[name]} | {data.words[name]:.1f} |"
        for name, description in _TEXTS.items()
        if data.with_text[name] or name != "alttext_rewritten"  # optional
    )
    origins = "\n".join(f"| `{name}` | {_ORIGINS.get(name, name)} | {n} |" for name, n in data.origins.items())
    writers = "\n".join(f"| {w.text} | `{w.model}` | `{w.revision}` | `{w.prompt}` |" for w in data.provenance)
    digests = "\n".join(f"| {stage} | `{value}` |" for stage, value in data.digests.items())
    return f"""
# {data.dataset}, crawl of {data.interval}

{data.samples} image-text samples from one crawl, with {data.images} distinct images, in {data.shards} shards.
Each sample has these texts:

| field | content | samples with it | mean words |
| --- | --- | ---: | ---: |
{texts}

{_variants(data.variants)}

The method is VeCLIP (Lai et al., ECCV 2024): a vision-language model (VLM) describes the image (VeC), a language model
(LLM) fuses the VeC with the AltText (VeCap), and CLIP is trained on a mix of AltText and VeCap. Models, prompts and
rules are this project's own.

## Files

- `00000.tar` …: webdataset shards with shuffled samples. A sample is `<key>.jpg`, `<key>.txt` (the VeCap)
  and `<key>.json` (`uid`, `url`, `sha256`, `width`, `height`, `alttext`, `vec`, `vecap`, `vecap_from`,
  `alttext_rewritten`, `key`, and the lists `vec_variants`, `vecap_variants`, `alttext_rewritten_variants`).
{_kept(data.kept)}- `00000.parquet` …: the values of the `.json` files, one row per sample, in the same order.
- `sizes.json`: number of samples in each tar.

`uid` identifies an image URL with its AltText and is the same in every crawl. `sha256` is the hash of the downloaded
image; the tar has a resized JPEG.

## Loading

```python
import webdataset as wds
samples = wds.WebDataset("{{00000..{last}}}.tar", shardshuffle=False).decode("pil").to_tuple("jpg", "json")

from datasets import load_dataset
samples = load_dataset("webdataset", data_files="*.tar", split="train", streaming=True)
```

```sh
# Draws AltText or VeCap for each sample and epoch; tune the probabilities.
# --json-text-key requires an open_clip newer than 3.3.0; without it, open_clip trains on the .txt (VeCap).
python -m open_clip_train.main --dataset-type webdataset --train-data '{{00000..{last}}}.tar' \\
    --train-num-samples {data.samples} --json-text-key "alttext;vecap" --json-text-key-probs 0.5 0.5
```

## From crawl to sample

| rows | |
| --- | ---: |
| found on pages | {crawl.get("candidates", 0)} |
| downloaded | {crawl.get("success", 0)} |
| accepted | {quality.get("accepted", 0)} |
| captioned by a model | {rewrite.get("captioned", 0)} |
| left out (no caption) | {data.left_out} |
| samples | {data.samples} |

Rejected rows by reason (a row can have several): {rejected}.
AltText withheld from the LLM by problem: {problems}.

| `vecap_from` | caption source | samples |
| --- | --- | ---: |
{origins}

## Provenance

| text | model | revision | prompt |
| --- | --- | --- | --- |
{writers}

| stage | manifest digest |
| --- | --- |
{digests}

## License and limits

License: {data.license}, as configured by the operator of the pipeline. The images and the AltText belong to their
source pages (`url`).

- AltText is as crawled. It contains file names, shop texts, other languages and names of people.
- Texts with email addresses or with numbers of telephones, accounts or identity documents are left out, as far as rules
  find them. Images and names of people are not filtered.
- VeC and VeCap are generated by models. Screening rejects malformed texts, not wrong ones: captions can hallucinate.
- Images with identical bytes are deduplicated. Near-duplicates are removed only if `quality.rows` enables it.
- No filter for unsafe images is applied.
"""


def _kept(columns: Sequence[str]) -> str:
    if not columns:
        return ""
    names = ", ".join(f"`{name}`" for name in columns)
    return f"  `kept` is a JSON object with columns of the source: {names}.\n"


def _variants(count: int) -> str:
    if count < 2:
        return "Each model generated one text per sample; the lists `…_variants` contain that text."
    return (
        f"Models generated up to {count} texts per sample. Each field has the first accepted text, and the list "
        "`…_variants` has all accepted texts."
    )


def _format_counters(counters: Mapping[str, int], prefix: str) -> list[str]:
    counts = [(name.removeprefix(prefix), n) for name, n in counters.items() if name.startswith(prefix)]
    return [f"{n} {name}" for name, n in sorted(counts, key=lambda item: (-item[1], item[0]))]
