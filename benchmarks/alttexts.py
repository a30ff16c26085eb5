"""Precision and recall of the AltText rules on labeled texts: `python -m benchmarks.alttexts`.

The texts are in `tests/data/alttexts`, one file per language, in two parts. The word lists are developed on `tuned`.
`sealed`, one third, was separated before: no rule is changed for one of its texts. The authors of the texts had not
read the rules. There is no other tool to compare with.

Columns: the expected verdict (keep, refuse) and the text. A rule is right if it refuses a text that does not describe
an image, such as a menu, a button, a placeholder, a screenshot or a camera's file name, and wrong if it refuses any
other text. Intervals are Wilson's, 95 %.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from benchmarks.report import Measure, report
from benchmarks.screening import PARTS, Score, measures, print_texts, table
from vecap_tasks.config import QualityConfig, RowRules
from vecap_tasks.core.schemas import CRAWL
from vecap_tasks.quality.verdicts import create_judged, write_judged

FOLDER = Path(__file__).resolve().parents[1] / "tests" / "data" / "alttexts"


def read_texts(part: str) -> dict[str, list[tuple[bool, str]]]:
    """Return (whether to keep it, text) by language. Raises ValueError for an invalid line."""
    found = {}
    for file in sorted((FOLDER / part).glob("*.tsv")):
        rows = []
        for number, line in enumerate(filter(None, file.read_text(encoding="utf-8").split("\n")[1:]), start=2):
            want, text = line.split("\t")
            if want not in ("keep", "refuse"):
                raise ValueError(f"{part}/{file.name}, line {number}: unknown verdict {want}")
            rows.append((want == "keep", text))
        found[file.stem] = rows
    return found


def problems(texts: Sequence[str], rules: RowRules | None = None) -> list[str | None]:
    """Return the `alttext_problem` of each of *texts*, None for a usable AltText."""
    rows = [
        {"key": f"{number:09d}", "uid": f"{number:032x}", "url": "http://a.example/", "caption": text, "source": "w"}
        | {"status": "success", "original_width": 64, "original_height": 64}
        for number, text in enumerate(texts)
    ]
    config = QualityConfig() if rules is None else QualityConfig(rows=rules)
    with tempfile.TemporaryDirectory() as work, duckdb.connect() as connection:
        connection.register("crawl", pa.Table.from_pylist(rows, schema=CRAWL))
        write_judged(connection, config, {"": Path(work) / "judged.parquet"})
        create_judged(connection, [str(Path(work) / "judged.parquet")])
        return [name for (name,) in connection.execute("SELECT alttext_problem FROM judged ORDER BY key").fetchall()]


def score(part: str) -> list[Score]:
    """Return the scores of all languages of *part*."""
    texts = read_texts(part)
    found = iter(problems([text for rows in texts.values() for _, text in rows]))
    scores = []
    for language, rows in texts.items():
        results = [(keep, next(found) is not None, text) for keep, text in rows]
        wrong = tuple(text for keep, refused, text in results if keep and refused)
        missed = tuple(text for keep, refused, text in results if not keep and not refused)
        right = sum(not keep and refused for keep, refused, _ in results)
        scores.append(Score(language, "unusable", right, wrong, missed, sum(keep for keep, *_ in results)))
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, help="write the measures to this file")
    parser.add_argument("--texts", action="store_true", help="print the texts that rules got wrong or missed")
    parser.add_argument("--part", choices=PARTS, action="append", help="part to measure (default: both)")
    arguments = parser.parse_args()
    results: list[Measure] = []
    for part in arguments.part or PARTS:
        scores = score(part)
        results += measures("AltText", part, scores)
        print(f"{part}\n{table(scores)}\n")
        if arguments.texts:
            print_texts(scores)
    if arguments.json:
        report(results, arguments.json)


if __name__ == "__main__":
    main()
