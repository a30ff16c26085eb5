"""The dataset card of an export (README.md): counts, columns, license, provenance, and how to load it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from vecap_tasks.assemble.card import LIMITS, ORIGINS, TEXTS, describe, front_matter
from vecap_tasks.core.manifest import Input
from vecap_tasks.export.formats import SPLIT, Columns, Format, card_features
from vecap_tasks.export.records import Text

_MAX_LICENSES = 20
_TEXT = {
    "vecap": "the VeCap",
    "alttext": "the AltText; samples without one are left out",
    "vec": "the VeC; samples without one are left out",
    "all": "the list of the VeCap, the AltText and the VeC, without missing and equal ones",
}
_COLUMNS = {
    "key": "name of the sample, unique in the version",
    "uid": "32 hex digits of the image URL and the AltText; the same in every crawl",
    "url": "URL of the image",
    "page_url": "URL of the page with the image",
    "page_title": "title of that page",
    "license": "from a column of the source such as `license` or `rights`",
    "attribution": "from a column of the source such as `attribution` or `author`, else EXIF `Copyright` or `Artist`",
    "sha256": "hash of the downloaded image; the export has a resized JPEG",
    "width": "pixels of the JPEG",
    "height": "pixels of the JPEG",
    "alttext": TEXTS["alttext"],
    "vec": TEXTS["vec"],
    "vecap": TEXTS["vecap"],
    "vecap_from": "; ".join(f"`{name}`: {meaning}" for name, meaning in ORIGINS.items()),
    "alttext_rewritten": TEXTS["alttext_rewritten"],
    "vec_variants": "all accepted VeCs",
    "vecap_variants": "all accepted VeCaps",
    "alttext_rewritten_variants": "all accepted rewritten AltTexts",
    "kept": "JSON object with columns of the source",
}
_FILES = {
    "webdataset": "`00000.tar` …: a sample is `KEY.jpg`, `KEY.txt` ({text}) and `KEY.json` (the columns below). "
    "`sizes.json`: number of samples in each tar.",
    "parquet": "`data/*.parquet`: one row per sample, with the JPEG in the column `image` and the columns below.",
    "hf": "`*.arrow`, `state.json`, `dataset_info.json`: a dataset of the library `datasets`, with the JPEG in the "
    "column `image` and the columns below.",
}
_LOADING = {
    "webdataset": """\
```python
import webdataset as wds
samples = wds.WebDataset("{folder}/{{00000..{last:05d}}}.tar", shardshuffle=False).decode("pil").to_tuple("jpg", "json")

from datasets import load_dataset
samples = load_dataset("{folder}", split="{split}", streaming=True)
```

```sh
python -m open_clip_train.main --dataset-type webdataset --train-data '{folder}/{{00000..{last:05d}}}.tar' \\
    --train-num-samples {samples}
```
""",
    "parquet": """\
```python
from datasets import load_dataset
samples = load_dataset("{folder}", split="{split}")

import pandas
table = pandas.read_parquet("{folder}/data")
```

```sql
SELECT uid, text, license FROM '{folder}/data/*.parquet'  -- DuckDB
```
""",
    "hf": """\
```python
from datasets import load_from_disk
samples = load_from_disk("{folder}")
```
""",
}


@dataclass(frozen=True, slots=True)
class CardData:
    """The content of a card. *counters* are those of the export; *stages* and *digests* are by stage."""

    dataset: str
    version: str
    form: Format
    text: Text
    columns: Columns
    license: str
    shards: int
    counters: Mapping[str, int]
    left_out: Mapping[str, int]
    stages: Mapping[str, Mapping[str, int]]
    digests: Mapping[str, str]
    models: tuple[Input, ...]


def write_card(data: CardData) -> str:
    """Return the card as Markdown. Deterministic."""
    samples = data.counters["exported"]
    metadata = {
        "pretty_name": f"{data.dataset} {data.version}",
        **describe(data.license, samples, [] if data.form.name == "hf" else [data.form.name]),
        "configs": [{"config_name": "default", "data_files": [{"split": SPLIT, "path": data.form.pattern}]}],
        "dataset_info": {"features": card_features(data.form, data.columns)},
    }
    return front_matter(metadata) + _body(data, samples)


def _body(data: CardData, samples: int) -> str:
    where = {"folder": "DIR", "last": data.shards - 1, "samples": samples, "split": SPLIT}
    crawl, quality = data.stages["crawl"], data.stages["quality"]
    left_out = "\n".join(f"| left out: {reason} | {count} |" for reason, count in data.left_out.items())
    described = "\n".join(f"| `{name}` | {_COLUMNS[name]} |" for name in data.columns if name != "text")
    text = f"| `text` | {_TEXT[data.text]} |"
    digests = "\n".join(f"| {stage} | `{value}` |" for stage, value in data.digests.items())
    models = "\n".join(f"| {item.kind} `{_public_name(item.name)}` | `{item.digest}` |" for item in data.models)
    return f"""

# {data.dataset}, version {data.version}

{samples} images with texts, in {data.shards} shards, exported by VeCap on Airflow. A vision-language model described
each image (VeC); a language model fused the description with the AltText of the page (VeCap).

## Files

{_FILES[data.form.name].format(text=_TEXT[data.text] if data.text != "all" else _TEXT["vecap"])}
`export.json`: what was exported, and the size and SHA-256 of each file.

## Loading

`DIR` is this folder.

{_LOADING[data.form.name].format(**where)}
## Columns

A missing text is `""`.

| column | content |
| --- | --- |
{text}
{described}

## From crawl to export

| rows | |
| --- | ---: |
| found on pages or in files | {crawl.get("candidates", 0)} |
| downloaded | {crawl.get("success", 0)} |
| accepted | {quality.get("accepted", 0)} |
{left_out}
| exported | {samples} |

## License and attribution

License: {data.license}, as configured by the operator of the pipeline. The images and the AltText belong to their
source pages, and each image can have its own license.

| samples with | |
| --- | ---: |
| `page_url` | {data.counters.get("with.page_url", 0)} |
| `license` | {data.counters.get("with.license", 0)} |
| `attribution` | {data.counters.get("with.attribution", 0)} |

{_licenses(data.counters)}
## Limits

{LIMITS}
## Provenance

| stage | manifest digest |
| --- | --- |
{digests}

| model or prompt | digest |
| --- | --- |
{models}
"""


def _public_name(model: str) -> str:
    """Return the last part of a path of this machine; other names as they are."""
    return PurePosixPath(model).name if model.startswith(("/", ".", "~")) else model


def _licenses(counters: Mapping[str, int]) -> str:
    counts = [(name.removeprefix("license."), n) for name, n in counters.items() if name.startswith("license.")]
    if not counts:
        return "The source has no license per image.\n"
    ordered = sorted(counts, key=lambda item: (-item[1], item[0]))
    rows = "\n".join(f"| {_cell(name)} | {count} |" for name, count in ordered[:_MAX_LICENSES])
    more = f"\nand {len(ordered) - _MAX_LICENSES} more.\n" if len(ordered) > _MAX_LICENSES else ""
    return f"| license | samples |\n| --- | ---: |\n{rows}\n{more}"


def _cell(text: str) -> str:
    """Return *text*, which comes from the source, as a cell of a table."""
    plain = " ".join(text.replace("`", "'").replace("|", "/").split())
    return f"`{plain}`"
