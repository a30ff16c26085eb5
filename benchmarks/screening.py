"""What each rule of screening is worth on labeled examples, and what it costs: `python -m benchmarks.screening`.

The examples are ours, in `tests/data/screening`: the rules were made on `made.tsv`; no rule was changed for those of
`held_out.tsv`, among which are fusions that say all in other words, and texts as LLaVA writes them. A rule that is
changed for a held-out example moves its examples to `made.tsv` and wants new ones. Columns: the rule that an example is
about, the verdict wanted (keep, strip, refuse), the text, and AltText and VeC where it is a fused caption; `\\uXXXX`
stands for a character.

A rule is right where it speaks of an example of its own that is to be refused (or stripped), and wrong where it speaks
of any example, its own or another's, that is to be kept. That is its precision; recall is over its own. There is no
other tool to set beside these figures: none of those in use screens what its models write.
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
    """A text with the verdict that it should get: keep, strip or refuse; `rule` is what it is an example for."""

    rule: str
    verdict: str
    answer: Answer


@dataclass(frozen=True, slots=True)
class Score:
    """Counts of one rule, or of all together (`all`). `wrong` and `missed` name the texts."""

    rule: str
    right: int
    wrong: tuple[str, ...]
    missed: tuple[str, ...]
    kept: int

    @property
    def precision(self) -> float:
        spoke = self.right + len(self.wrong)
        return self.right / spoke if spoke else 1.0

    @property
    def recall(self) -> float:
        wanted = self.right + len(self.missed)
        return self.right / wanted if wanted else 1.0


def read_examples(name: str) -> list[Example]:
    """Return the examples of `name.tsv`. Raises ValueError for a line that is none."""
    examples = []
    lines = (FOLDER / f"{name}.tsv").read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines[1:], start=2):
        rule, verdict, text, alttext, vec = line.split("\t")
        if rule not in RULES or verdict not in ("keep", "strip", "refuse"):
            raise ValueError(f"{name}.tsv, line {number}: there is no rule {rule} or no verdict {verdict}")
        text = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), text)
        examples.append(Example(rule, verdict, Answer(text, True, PROMPT, alttext, vec)))
    return examples


def verdict(found: Screened) -> str:
    """Return keep, strip or refuse for what screening left."""
    if found.text is None:
        return "refuse"
    return "strip" if found.problem else "keep"


def speaks(rule: str, answer: Answer) -> bool:
    """Whether *rule*, on its own, finds something; stripping belongs to the rule preamble."""
    stripped = rule == "preamble" and without_preamble(answer) is not None
    return stripped or RULES[rule](answer) is not None


def score(examples: Sequence[Example]) -> list[Score]:
    """Measure each rule on its own, then all of them as they are applied."""
    scores = []
    for rule in RULES:
        own = [one for one in examples if one.rule == rule and one.verdict != "keep"]
        missed = tuple(one.answer.text for one in own if not speaks(rule, one.answer))
        keep = [one.answer for one in examples if one.verdict == "keep"]
        wrong = tuple(answer.text for answer in keep if speaks(rule, answer))
        about = sum(one.rule == rule and one.verdict == "keep" for one in examples)
        scores.append(Score(rule, len(own) - len(missed), wrong, missed, about))
    return [*scores, _together(examples)]


def _together(examples: Sequence[Example]) -> Score:
    got = [(one, verdict(screen(one.answer))) for one in examples]
    spoken = [(one, found) for one, found in got if found != "keep"]
    return Score(
        "all",
        sum(one.verdict == found for one, found in spoken),
        tuple(one.answer.text for one, found in spoken if one.verdict != found),
        tuple(one.answer.text for one, found in got if one.verdict != "keep" and found == "keep"),
        sum(one.verdict == "keep" for one in examples),
    )


def microseconds(examples: Sequence[Example], rounds: int = _ROUNDS) -> float:
    """Return what the screening of one text costs, in µs: the median of *rounds*, each over all *examples*."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        for one in examples:
            screen(one.answer)
        times.append((time.perf_counter() - start) / len(examples) * 1e6)
    return statistics.median(times)


def table(scores: Iterable[Score]) -> str:
    lines = [
        f"{'rule':<14} {'precision':>9} {'recall':>7} {'right':>6} {'wrong':>6} {'missed':>7} {'hard negatives':>15}"
    ]
    lines += [
        f"{one.rule:<14} {one.precision:>9.3f} {one.recall:>7.3f} {one.right:>6} {len(one.wrong):>6} "
        f"{len(one.missed):>7} {one.kept:>15}"
        for one in scores
    ]
    return "\n".join(lines)


def rows(name: str, scores: Iterable[Score]) -> list[dict[str, object]]:
    """Return the figures in the form that all benchmarks write."""
    made: list[dict[str, object]] = []
    for one in scores:
        conditions = f"{name}: {one.right} right, {len(one.wrong)} wrong, {len(one.missed)} missed"
        for measure, value in (("precision", one.precision), ("recall", one.recall)):
            label = f"screening {one.rule} {measure}, {name}"
            made.append(_row(label, "share", round(value, 4), 1.0, conditions))
    return made


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
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    parser.add_argument("--texts", action="store_true", help="print the texts that a rule got wrong or missed")
    arguments = parser.parse_args()
    written: list[dict[str, object]] = []
    examples: list[Example] = []
    for name in FILES:
        read = read_examples(name)
        examples += read
        scores = score(read)
        written += rows(name, scores)
        print(f"{name}: {len(read)} examples\n{table(scores)}\n")
        if arguments.texts:
            for one in scores:
                print("\n".join(f"  {one.rule} wrong:  {text}" for text in one.wrong))
                print("\n".join(f"  {one.rule} missed: {text}" for text in one.missed))
    cost = microseconds(examples)
    conditions = f"median of {_ROUNDS} rounds over {len(examples)} examples, one process"
    written.append(_row("screening one text", "µs", round(cost, 1), None, conditions))
    print(f"screening one text: {cost:.0f} µs ({conditions})")
    if arguments.json:
        arguments.json.write_text(json.dumps(written, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
