"""Precision and recall of the AltText rules on labeled texts: `python -m benchmarks.alttexts`.

The texts are in `tests/data/alttexts`, one file per language, in two parts. The word lists are developed on `tuned`.
`sealed`, one third, was put away before: no rule is changed for one of its texts. The authors of the texts had not read
the rules. There is no other tool to compare with.

Columns: the expected verdict (keep, refuse) and the text. A rule is right if it refuses a text that does not describe
an image, such as a menu, a button, a placeholder, a screenshot or a camera's file name, and wrong if it refuses any
other text. Intervals are Wilson's, 95 %.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from benchmarks.report import Measure, report
from benchmarks.screening import interval
from vecap_tasks.config import QualityConfig, RowRules
from vecap_tasks.core.schemas import CRAWL
from vecap_tasks.quality.verdicts import apply_row_rules

FOLDER = Path(__file__).resolve().parents[1] / "tests" / "data" / "alttexts"
PARTS = ("tuned", "sealed")


@dataclass(frozen=True, slots=True)
class Score:
    """Counts of one language. `wrong` and `missed` list the texts."""

    language: str
    right: int
    wrong: tuple[str, ...]
    missed: tuple[str, ...]
    kept: int

    @property
    def precision(self) -> float:
        refused = self.right + len(self.wrong)
        return self.right / refused if refused else 1.0

    @property
    def recall(self) -> float:
        expected = self.right + len(self.missed)
        return self.right / expected if expected else 1.0


def parts() -> list[str]:
    """Return the parts that exist."""
    return [part for part in PARTS if (FOLDER / part).is_dir()]


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
        apply_row_rules(connection, config, Path(work) / "judged.parquet")
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
        scores.append(Score(language, right, wrong, missed, sum(keep for keep, *_ in results)))
    return scores


def table(scores: Iterable[Score]) -> str:
    """Return the scores as aligned columns."""
    lines = [f"{'':<3} {'precision':<20} {'recall':<20} {'right':>6} {'wrong':>6} {'missed':>7} {'keep':>5}"]
    for item in scores:
        precision = _share(item.precision, interval(item.right, item.right + len(item.wrong)))
        recall = _share(item.recall, interval(item.right, item.right + len(item.missed)))
        counts = f"{item.right:>6} {len(item.wrong):>6} {len(item.missed):>7} {item.kept:>5}"
        lines.append(f"{item.language:<3} {precision:<20} {recall:<20} {counts}")
    return "\n".join(lines)


def _share(value: float, bounds: tuple[float, float]) -> str:
    return f"{value:.3f} [{bounds[0]:.3f}, {bounds[1]:.3f}]"


def measures(part: str, scores: Iterable[Score]) -> list[Measure]:
    """Return the scores in the format of all benchmarks."""
    found = []
    for item in scores:
        conditions = f"{part}: {item.right} right, {len(item.wrong)} wrong, {len(item.missed)} missed"
        for name, value in (("precision", item.precision), ("recall", item.recall)):
            label = f"AltText rules {item.language} {name}, {part}"
            found.append(Measure(label, "share", round(value, 4), None, 1.0, conditions))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, help="write the measures to this file")
    parser.add_argument("--texts", action="store_true", help="print the texts that rules got wrong or missed")
    parser.add_argument("--part", choices=PARTS, action="append", help="part to measure (default: those that exist)")
    arguments = parser.parse_args()
    results: list[Measure] = []
    for part in arguments.part or parts():
        scores = score(part)
        results += measures(part, scores)
        print(f"{part}\n{table(scores)}\n")
        for item in scores if arguments.texts else ():
            for kind, texts in (("wrong: ", item.wrong), ("missed:", item.missed)):
                for text in texts:
                    print(f"  {item.language} {kind} {text}")
    if arguments.json:
        report(results, arguments.json)


if __name__ == "__main__":
    main()
