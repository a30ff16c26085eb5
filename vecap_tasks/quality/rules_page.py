"""The table of all rules as `docs/quality.md` has it: `python -m vecap_tasks.quality.rules_page` writes it anew."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from vecap_tasks.quality.alttext import ALTTEXT_RULES
from vecap_tasks.quality.rule import Rule
from vecap_tasks.quality.rules import CLIP_SCORE, REPEATED, ROW_REASONS, SCORE, SCORE_SAYS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "quality.md"
_BEGIN, _END = "<!-- rules -->\n", "<!-- /rules -->\n"
_WIDTH = 40  # characters of an example that are shown


def table() -> str:
    """Return the two tables of rules, in Markdown: those about AltText, and those that refuse a row."""
    score = Rule(f"{SCORE}NAME", SCORE_SAYS, "", example=f"`{SCORE}{CLIP_SCORE}`, the similarity of the CLIP model")
    return "\n".join(
        [
            "| `alttext_problem` | what it says | fires for | lets pass |",
            "| --- | --- | --- | --- |",
            *(
                f"| `{rule.name}` | {rule.says} | {_shown(rule.fires) or rule.example} | {_shown(rule.passes)} |"
                for rule in (*ALTTEXT_RULES, REPEATED)
            ),
            "",
            "| reason | what it says | for example |",
            "| --- | --- | --- |",
            *(f"| `{rule.name}` | {rule.says} | {rule.example} |" for rule in (*ROW_REASONS, score)),
            "",
        ]
    )


def _shown(texts: Iterable[str]) -> str:
    return ", ".join(f"`{_cut(text)}`" for text in texts if text.strip())


def _cut(text: str) -> str:
    cut = text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1].rstrip()}…"
    return cut.replace("|", "\\|")


def with_table(page: str) -> str:
    """Return *page* with its tables of rules as they are now. Raises ValueError where it has no place for them."""
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"the page has no {_BEGIN.strip()} … {_END.strip()}")
    return f"{before}{begin}{table()}{end}{after}"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    sys.stdout.write(f"wrote the rules into {PAGE}\n")
