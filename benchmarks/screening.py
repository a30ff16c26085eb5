"""Precision, recall and cost of each screening rule on labeled examples: `python -m benchmarks.screening`.

The examples are in `tests/data/screening`, one file per language, in two parts. The rules are developed on `tuned`.
`sealed`, one third, was separated before: no rule is changed for one of its examples. The authors of the examples had
not read the rules. Texts that stop inside a word are not among the examples: only the token limit does that, and the
server reports it. There is no other tool to compare with.

Columns: the rule that an example tests, the expected verdict (keep, strip, refuse), the text, and AltText and VeC for
fused captions; `\\uXXXX` is a character.

A rule is right if it fires on one of its examples to be refused (or stripped), and wrong if it fires on any example of
the language to be kept. This gives its precision; recall counts only its own examples. For `drops_vec` and `invented`,
only their own examples count, because the sources of the others are context. Intervals are Wilson's, 95 %.
"""

from __future__ import annotations

import argparse
import math
import re
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import Measure, report
from vecap_tasks.config import ScreenConfig
from vecap_tasks.rewrite.prompt import load_prompt
from vecap_tasks.rewrite.screen import RULES, Answer, Screened, screen
from vecap_tasks.rewrite.screen.preamble import without_preamble

FOLDER = Path(__file__).resolve().parents[1] / "tests" / "data" / "screening"
PARTS = ("tuned", "sealed")
PROMPT = load_prompt("fuse-vicuna").text
_ESCAPE = re.compile(r"\\u([0-9a-f]{4})")
_FUSION_RULES = ("drops_vec", "invented")  # compare a caption with its sources
_ROUNDS = 5
_Z = 1.959964  # of a 95 % interval


@dataclass(frozen=True, slots=True)
class Example:
    """A text with its expected verdict: keep, strip or refuse; `rule` is the rule that it tests."""

    rule: str
    verdict: str
    answer: Answer


@dataclass(frozen=True, slots=True)
class Score:
    """Counts of one rule, or of all rules together (`all`). `wrong` and `missed` list the texts."""

    language: str
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


def interval(right: int, total: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of the share *right* of *total*; (0, 1) if *total* is 0.

    >>> [round(bound, 3) for bound in interval(95, 100)]
    [0.888, 0.978]
    """
    if not total:
        return 0.0, 1.0
    share, square = right / total, _Z * _Z / total
    center, half = share + square / 2, _Z * math.sqrt(share * (1 - share) / total + square / (4 * total))
    return max(0.0, (center - half) / (1 + square)), min(1.0, (center + half) / (1 + square))


def languages(part: str) -> list[str]:
    """Return the languages that *part* has examples of, English first."""
    found = sorted(file.stem for file in (FOLDER / part).glob("*.tsv"))
    return sorted(found, key=lambda language: language != "en")


def read_examples(part: str, language: str) -> list[Example]:
    """Return the examples of a language. Raises ValueError for an invalid line."""
    examples = []
    lines = (FOLDER / part / f"{language}.tsv").read_text(encoding="utf-8").split("\n")
    fused = ScreenConfig(languages=(language,))
    other = ScreenConfig(languages=(language,), disabled_rules=_FUSION_RULES)
    for number, line in enumerate(filter(None, lines[1:]), start=2):
        rule, verdict, text, alttext, vec = line.split("\t")
        if rule not in RULES or verdict not in ("keep", "strip", "refuse"):
            raise ValueError(f"{part}/{language}.tsv, line {number}: unknown rule {rule} or verdict {verdict}")
        text = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), text)
        settings = fused if rule in _FUSION_RULES else other
        examples.append(Example(rule, verdict, Answer(text, True, PROMPT, alttext, vec, settings)))
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


def score(language: str, examples: Sequence[Example]) -> list[Score]:
    """Score each rule that has examples separately, then all rules together."""
    scores = []
    tested = {example.rule for example in examples}
    for rule in (rule for rule in RULES if rule in tested):
        own = [example for example in examples if example.rule == rule and example.verdict != "keep"]
        missed = tuple(example.answer.text for example in own if not fires(rule, example.answer))
        keep = [example.answer for example in examples if example.verdict == "keep" and _counts(rule, example)]
        wrong = tuple(answer.text for answer in keep if fires(rule, answer))
        hard_negatives = sum(example.rule == rule and example.verdict == "keep" for example in examples)
        scores.append(Score(language, rule, len(own) - len(missed), wrong, missed, hard_negatives))
    return [*scores, _together(language, examples)]


def pooled(scores: Iterable[Score]) -> list[Score]:
    """Return the sum over all languages (`*`) for each rule."""
    by_rule: dict[str, list[Score]] = {}
    for item in scores:
        by_rule.setdefault(item.rule, []).append(item)
    return [
        Score(
            "*",
            rule,
            sum(item.right for item in items),
            tuple(text for item in items for text in item.wrong),
            tuple(text for item in items for text in item.missed),
            sum(item.kept for item in items),
        )
        for rule, items in by_rule.items()
    ]


def _counts(rule: str, example: Example) -> bool:
    """Return whether *example* shows how *rule* treats a good caption. Only examples of fusions are faithful ones."""
    return rule not in _FUSION_RULES or example.rule in _FUSION_RULES


def _together(language: str, examples: Sequence[Example]) -> Score:
    results = [(example, verdict(screen(example.answer))) for example in examples]
    fired = [(example, result) for example, result in results if result != "keep"]
    return Score(
        language,
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
    """Return the scores as aligned columns."""
    header = (
        f"{'':<3} {'rule':<13} {'precision':<20} {'recall':<20} {'right':>6} {'wrong':>6} {'missed':>7} {'keep':>5}"
    )
    return "\n".join([header, *map(_line, scores)])


def _line(item: Score) -> str:
    precision = _share(item.precision, interval(item.right, item.right + len(item.wrong)))
    recall = _share(item.recall, interval(item.right, item.right + len(item.missed)))
    counts = f"{item.right:>6} {len(item.wrong):>6} {len(item.missed):>7} {item.kept:>5}"
    return f"{item.language:<3} {item.rule:<13} {precision:<20} {recall:<20} {counts}"


def _share(value: float, bounds: tuple[float, float]) -> str:
    return f"{value:.3f} [{bounds[0]:.3f}, {bounds[1]:.3f}]"


def measures(subject: str, part: str, scores: Iterable[Score]) -> list[Measure]:
    """Return the scores of *subject* in the format of all benchmarks."""
    found = []
    for item in scores:
        conditions = f"{part}: {item.right} right, {len(item.wrong)} wrong, {len(item.missed)} missed"
        for name, value in (("precision", item.precision), ("recall", item.recall)):
            label = f"{subject} {item.language} {item.rule} {name}, {part}"
            found.append(Measure(label, "share", round(value, 4), None, 1.0, conditions))
    return found


def print_texts(scores: Iterable[Score]) -> None:
    """Print the texts that rules got wrong or missed."""
    for item in scores:
        for kind, texts in (("wrong: ", item.wrong), ("missed:", item.missed)):
            for text in texts:
                print(f"  {item.language} {item.rule} {kind} {text}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, help="write the measures to this file")
    parser.add_argument("--texts", action="store_true", help="print the texts that rules got wrong or missed")
    parser.add_argument("--part", choices=PARTS, action="append", help="part to measure (default: both)")
    parser.add_argument("--language", action="append", help="language to measure (default: all)")
    parser.add_argument("--rule", action="append", choices=RULES, help="rule to print (default: all)")
    arguments = parser.parse_args()
    results: list[Measure] = []
    examples: list[Example] = []
    for part in arguments.part or PARTS:
        scores: list[Score] = []
        for language in arguments.language or languages(part):
            loaded = read_examples(part, language)
            examples += loaded
            scores += score(language, loaded)
        shown = [item for item in scores if not arguments.rule or item.rule in arguments.rule]
        total = [item for item in pooled(shown) if len(arguments.language or languages(part)) > 1]
        results += measures("screening", part, shown)
        results += measures("screening", part, total)
        print(f"{part}\n{table([*shown, *total])}\n")
        if arguments.texts:
            print_texts(shown)
    cost = microseconds(examples)
    conditions = f"median of {_ROUNDS} rounds over {len(examples)} examples, one process"
    results.append(Measure("screening one text", "µs", round(cost, 1), None, None, conditions))
    print(f"screening one text: {cost:.0f} µs ({conditions})")
    if arguments.json:
        report(results, arguments.json)


if __name__ == "__main__":
    main()
