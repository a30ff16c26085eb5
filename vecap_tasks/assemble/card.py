"""The dataset card (README.md with Hugging Face front matter) and the sample sheet, a picture of its first samples."""

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


SAMPLES = 8
_COLUMNS = 2
_INCHES = (7.0, 1.6)  # of one sample
_WIDTH = 52  # characters of a line
_LINES = 3  # of a text
_SHEET_TEXTS = (("alttext", "AltText", "#8a5a00"), ("vec", "VeC", "#1f5fa8"), ("vecap", "VeCap", "#1b7837"))
_REWRITTEN = ("alttext_rewritten", "Rewritten", "#7b3294")  # where a version has it
_TALLER = 1.3  # times, for that one more text
# Identifiers that Hugging Face knows; any other license is `other` with its name.
_LICENSES = frozenset(
    {"apache-2.0", "mit", "unknown", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0"}
)
_ORIGINS = {
    "llm": "the LLM fused AltText and VeC",
    "vec": "the VeC stands in: there was no usable AltText, or what the LLM wrote was refused",
    "alttext": "the cleaned AltText stands in: what the VLM wrote was refused",
}
_TEXTS = {
    "alttext": 'AltText as crawled, noise included; only white space is folded; `""` where the page gives none',
    "vec": 'what the VLM says it sees; `""` where it wrote nothing usable',
    "vecap": "the caption: AltText and VeC fused; never empty",
    "alttext_rewritten": 'the AltText as the LLM rewrote it, having seen nothing else; `""` where there is none',
}


def write_sheet(store: Store, tar: str, path: Path) -> None:
    """Draw the first samples of the training shard *tar* into the PNG *path*. Raises CorruptError for a broken tar."""
    # The figure is used without pyplot: nothing here may depend on a display or on a backend's global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with store.local(tar) as local, local.open("rb") as stream:
        samples = list(islice(read_samples(stream, tar), SAMPLES))
    texts = [json.loads(sample.members["json"]) for sample in samples]
    rewritten = any(values.get(_REWRITTEN[0]) for values in texts)
    shown, height = ((*_SHEET_TEXTS, _REWRITTEN), _TALLER) if rewritten else (_SHEET_TEXTS, 1.0)
    rows = -(-len(samples) // _COLUMNS)
    figure = Figure(figsize=(_COLUMNS * _INCHES[0], rows * _INCHES[1] * height), dpi=100)
    FigureCanvasAgg(figure)
    for number, (sample, values) in enumerate(zip(samples, texts, strict=True)):
        left = (number % _COLUMNS) / _COLUMNS
        bottom = 1 - (number // _COLUMNS + 1) / rows
        picture = figure.add_axes((left + 0.005, bottom + 0.05 / rows, 0.105, 0.9 / rows))
        picture.set_axis_off()
        picture.imshow(Image.open(io.BytesIO(sample.members["jpg"])).convert("RGB"))
        words = figure.add_axes((left + 0.12, bottom, 0.5 - 0.12, 1 / rows))
        words.set_axis_off()
        words.set_ylim(1 - height, 1)
        _write_texts(words, values, shown)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a script that no font of this machine has shows as boxes
        figure.savefig(path, format="png", metadata={"Software": None})


def _write_texts(axes: Axes, values: Mapping[str, Any], shown: Sequence[tuple[str, str, str]]) -> None:
    top = 0.94
    for name, title, color in shown:
        text = str(values[name])
        lines = textwrap.wrap(text, _WIDTH, max_lines=_LINES, placeholder=" …") or ["—"]
        # Text from the web is shown as it is: no mathematics, no markup.
        axes.text(0, top, title, color=color, fontsize=10, fontweight="bold", va="top", parse_math=False)
        axes.text(0.13, top, "\n".join(lines), fontsize=10, va="top", parse_math=False)
        top -= 0.07 + 0.14 * len(lines)


@dataclass(frozen=True, slots=True)
class Writer:
    """What wrote a text: `revision` is a digest of the model's files, `prompt` is name@digest."""

    writes: str  # VeC, VeCap or AltText rewritten
    model: str
    revision: str
    prompt: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What a card states. Mappings are by text (alttext, vec, vecap, alttext_rewritten) or by stage (crawl, quality,
    rewrite)."""

    dataset: str
    interval: str
    license: str
    shards: int
    samples: int
    images: int  # distinct ones
    left_out: int  # accepted rows without a caption
    with_text: Mapping[str, int]
    words: Mapping[str, float]  # mean, of the samples that have the text
    variants: int  # the most that a text has
    origins: Mapping[str, int]  # vecap_from -> samples
    writers: tuple[Writer, ...]
    counters: Mapping[str, Mapping[str, int]]
    digests: Mapping[str, str]


def write_card(facts: Facts) -> str:
    """Return the card's text: the same facts, the same bytes."""
    return "\n".join([_front_matter(facts), _body(facts)])


def _front_matter(facts: Facts) -> str:
    token = facts.license.split(" ", 1)[0].lower()
    license = {"license": token} if token in _LICENSES else {"license": "other", "license_name": facts.license}
    matter = {
        "pretty_name": f"{facts.dataset} {facts.interval}",
        **license,
        "task_categories": ["zero-shot-image-classification", "image-to-text"],
        "size_categories": [_size(facts.samples)],
        "tags": ["webdataset", "clip", "vecap", "synthetic-captions"],
        "configs": [{"config_name": "default", "data_files": "*.tar"}],
    }
    return f"---\n{yaml.safe_dump(matter, sort_keys=False, allow_unicode=True)}---"


def _size(samples: int) -> str:
    """Return Hugging Face's name of the power of a thousand: n<1K, 1K<n<10K, 10K<n<100K, 100K<n<1M …"""
    if samples < 1_000:
        return "n<1K"
    if samples >= 10**12:
        return "n>1T"
    zeros = len(str(samples)) - 1
    low, high = ("1" + "0" * (power % 3) + "KMBT"[power // 3 - 1] for power in (zeros, zeros + 1))
    return f"{low}<n<{high}"


def _body(facts: Facts) -> str:
    crawl, quality, rewrite = (facts.counters[name] for name in ("crawl", "quality", "rewrite"))
    last = f"{facts.shards - 1:05d}"
    refused = ", ".join(_named(quality, "reason.")) or "none"
    problems = ", ".join(_named(quality, "alttext.")) or "none"
    texts = "\n".join(
        f"| `{name}` | {says} | {facts.with_text[name]} | {facts.words[name]:.1f} |"
        for name, says in _TEXTS.items()
        if facts.with_text[name] or name != "alttext_rewritten"  # which is written where it is asked for
    )
    origins = "\n".join(f"| `{name}` | {_ORIGINS.get(name, name)} | {n} |" for name, n in facts.origins.items())
    writers = "\n".join(f"| {w.writes} | `{w.model}` | `{w.revision}` | `{w.prompt}` |" for w in facts.writers)
    digests = "\n".join(f"| {stage} | `{value}` |" for stage, value in facts.digests.items())
    return f"""
# {facts.dataset}, crawl of {facts.interval}

{facts.samples} samples of image and text from one crawl, {facts.images} distinct images, in {facts.shards} shards.
Each sample has these texts:

| field | what it is | samples that have it | words, mean |
| --- | --- | ---: | ---: |
{texts}

{_variants(facts.variants)}

The method is that of VeCLIP (Lai et al., ECCV 2024): a vision-language model (VLM) says what it sees (VeC), a language
model (LLM) fuses that with the AltText (VeCap), and CLIP is trained on a mix of both. Models, prompts and rules are
this project's own.

## Files

- `00000.tar` …: webdataset shards, in an order that mixes the crawl. A sample is `<key>.jpg`, `<key>.txt` (the VeCap)
  and `<key>.json` (`uid`, `url`, `sha256`, `width`, `height`, `alttext`, `vec`, `vecap`, `vecap_from`,
  `alttext_rewritten`, `key`, and the lists `vec_variants`, `vecap_variants`, `alttext_rewritten_variants`).
- `00000.parquet` …: the same values as the `.json`, a row for each sample, in the same order.
- `sizes.json`: samples in each tar.

`uid` is the same for the same image address and AltText in every crawl. `sha256` is of the image as downloaded; the
JPEG in the tar is the crawl's, resized.

## Loading

```python
import webdataset as wds
samples = wds.WebDataset("{{00000..{last}}}.tar", shardshuffle=False).decode("pil").to_tuple("jpg", "json")

from datasets import load_dataset
samples = load_dataset("webdataset", data_files="*.tar", split="train", streaming=True)
```

```sh
# AltText or VeCap, drawn anew for each sample and epoch; how often which is a choice to measure.
# The last line is newer than open_clip's release 3.3.0, which without it takes the .txt: the VeCap.
python -m open_clip_train.main --dataset-type webdataset --train-data '{{00000..{last}}}.tar' \\
    --train-num-samples {facts.samples} --json-text-key "alttext;vecap" --json-text-key-probs 0.5 0.5
```

## From crawl to sample

| rows | |
| --- | ---: |
| found on pages | {crawl.get("candidates", 0)} |
| downloaded | {crawl.get("success", 0)} |
| accepted | {quality.get("accepted", 0)} |
| captioned by a model | {rewrite.get("captioned", 0)} |
| left out, as no step gave a text | {facts.left_out} |
| samples | {facts.samples} |

Rows refused, by reason (a row may have several): {refused}.
AltText not shown to the LLM, by problem: {problems}.

| `vecap_from` | | samples |
| --- | --- | ---: |
{origins}

## Provenance

| text | model | revision | prompt |
| --- | --- | --- | --- |
{writers}

| stage | digest of its manifest |
| --- | --- |
{digests}

## License and limits

License: {facts.license}. It is what whoever ran the pipeline stated; the images and the AltText belong to the pages
that they came from (`url`).

- AltText is as crawled: file names, shop texts and other languages are in it, as are names of persons.
- VeC and VeCap are written by models. Screening refuses broken texts, not wrong ones: they can name what is not there.
- Of images with the same bytes one is kept; of nearly the same pictures only where `quality.rows` asks for it.
- No filter for unsafe images or personal data has been applied.
"""


def _variants(most: int) -> str:
    if most < 2:
        return "Each model wrote one text of a sample; the lists `…_variants` hold that one."
    return (
        f"Models wrote up to {most} texts of a sample. The field has the first that was kept, the list `…_variants` "
        "all that were."
    )


def _named(counters: Mapping[str, int], prefix: str) -> list[str]:
    found = [(name.removeprefix(prefix), n) for name, n in counters.items() if name.startswith(prefix)]
    return [f"{n} {name}" for name, n in sorted(found, key=lambda item: (-item[1], item[0]))]
