"""Precision, recall and cost of each screening rule on labeled examples: `python -m benchmarks.screening`.

The examples are in `tests/data/screening`. The rules were developed on `made.tsv`. `held_out.tsv` holds examples that
no rule was changed for, including fusions that reword everything, and texts in LLaVA's style. If a rule is changed for
a held-out example, its examples move to `made.tsv` and new ones are needed.

Columns: the rule that an example tests, the expected verdict (keep, strip, refuse), the text, and AltText and VeC for
fused captions; `\\uXXXX` is a character.

A rule is right if it fires on one of its examples to be refused (or stripped), and wrong if it fires on any example to
be kept. This gives its precision; recall counts only its own examples. There is no other tool to compare with.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vecap_tasks.rewrite.prompt import load_prompt
from vecap_tasks.rewrite.screen import RULES, Answer, Screened, screen
from vecap_tasks.rewrite.screen.preamble import without_preamble

FOLDER = Path(__file__).resolve().parents[1] / "tests" / "data" / "screening"
FILES = ("made", "held_out")
PROMPT = load_prompt("fuse-vicuna").text
_ESCAPE = re.compile(r"\\u([0-9a-f]{4})")
_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Example:
    """A text with its expected verdict: keep, strip or refuse; `rule` is the rule that it tests."""

    rule: str
    verdict: str
    answer: Answer


@dataclass(frozen=True, slots=True)
class Score:
    """Counts of one rule, or of all rules together (`all`). `wrong` and `missed` list the texts."""

    rule: str
    right: int
    wrong: tuple[str, ...]
    missed: tuple[str, ...]
    kept: int

    @property
    def precision(self) -> float:
        fired = self.right + len(self.wrong)
        return self.right / fired if fired else 1.0

    @property
    def recall(self) -> float:
        expected = self.right + len(self.missed)
        return self.right / expected if expected else 1.0


def read_examples(name: str) -> list[Example]:
    """Return the examples of `name.tsv`. Raises ValueError for an invalid line."""
    examples = []
    lines = (FOLDER / f"{name}.tsv").read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines[1:], start=2):
        rule, verdict, text, alttext, vec = line.split("\t")
        if rule not in RULES or verdict not in ("keep", "strip", "refuse"):
            raise ValueError(f"{name}.tsv, line {number}: unknown rule {rule} or verdict {verdict}")
        text = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), text)
        examples.append(Example(rule, verdict, Answer(text, True, PROMPT, alttext, vec)))
    return examples


def verdict(result: Screened) -> str:
    """Return the verdict of a screening result: keep, strip or refuse."""
    if result.text is None:
        return "refuse"
    return "strip" if result.problem else "keep"


def fires(rule: str, answer: Answer) -> bool:
    """Return whether *rule* alone finds a problem; stripping belongs to the rule preamble."""
    stripped = rule == "preamble" and without_preamble(answer) is not None
    return stripped or RULES[rule](answer) is not None


def score(examples: Sequence[Example]) -> list[Score]:
    """Score each rule separately, then all rules together."""
    scores = []
    for rule in RULES:
        own = [example for example in examples if example.rule == rule and example.verdict != "keep"]
        missed = tuple(example.answer.text for example in own if not fires(rule, example.answer))
        keep = [example.answer for example in examples if example.verdict == "keep"]
        wrong = tuple(answer.text for answer in keep if fires(rule, answer))
        hard_negatives = sum(example.rule == rule and example.verdict == "keep" for example in examples)
        scores.append(Score(rule, len(own) - len(missed), wrong, missed, hard_negatives))
    return [*scores, _together(examples)]


def _together(examples: Sequence[Example]) -> Score:
    results = [(example, verdict(screen(example.answer))) for example in examples]
    fired = [(example, result) for example, result in results if result != "keep"]
    return Score(
        "all",
        sum(example.verdict == result for example, result in fired),
        tuple(example.answer.text for example, result in fired if example.verdict != result),
        tuple(example.answer.text for example, result in results if example.verdict != "keep" and result == "keep"),
        sum(example.verdict == "keep" for example in examples),
    )


def microseconds(examples: Sequence[Example], rounds: int = _ROUNDS) -> float:
    """Return the time to screen one text in µs: the median of *rounds*, each over all *examples*."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        for example in examples:
            screen(example.answer)
        times.append((time.perf_counter() - start) / len(examples) * 1e6)
    return statistics.median(times)


def table(scores: Iterable[Score]) -> str:
    lines = [
        f"{'rule':<14} {'precision':>9} {'recall':>7} {'right':>6} {'wrong':>6} {'missed':>7} {'hard negatives':>15}"
    ]
    lines += [
        f"{item.rule:<14} {item.precision:>9.3f} {item.recall:>7.3f} {item.right:>6} {len(item.wrong):>6} "
        f"{len(item.missed):>7} {item.kept:>15}"
        for item in scores
    ]
    return "\n".join(lines)


def rows(name: str, scores: Iterable[Score]) -> list[dict[str, object]]:
    """Return the scores in the JSON format of all benchmarks."""
    rows: list[dict[str, object]] = []
    for item in scores:
        conditions = f"{name}: {item.right} right, {len(item.wrong)} wrong, {len(item.missed)} missed"
        for measure, value in (("precision", item.precision), ("recall", item.recall)):
            label = f"screening {item.rule} {measure}, {name}"
            rows.append(_row(label, "share", round(value, 4), 1.0, conditions))
    return rows


def _row(name: str, unit: str, ours: float, limit: float | None, conditions: str) -> dict[str, object]:
    return {
        "name": name,
        "unit": unit,
        "ours": ours,
        "theirs": None,
        "ratio": None,
        "limit": limit,
        "conditions": conditions,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, help="write the measures to this file")
    parser.add_argument("--texts", action="store_true", help="print the texts that rules got wrong or missed")
    arguments = parser.parse_args()
    measures: list[dict[str, object]] = []
    examples: list[Example] = []
    for name in FILES:
        loaded = read_examples(name)
        examples += loaded
        scores = score(loaded)
        measures += rows(name, scores)
        print(f"{name}: {len(loaded)} examples\n{table(scores)}\n")
        if arguments.texts:
            for item in scores:
                print("\n".join(f"  {item.rule} wrong:  {text}" for text in item.wrong))
                print("\n".join(f"  {item.rule} missed: {text}" for text in item.missed))
    cost = microseconds(examples)
    conditions = f"median of {_ROUNDS} rounds over {len(examples)} examples, one process"
    measures.append(_row("screening one text", "µs", round(cost, 1), None, conditions))
    print(f"screening one text: {cost:.0f} µs ({conditions})")
    if arguments.json:
        arguments.json.write_text(json.dumps(measures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
