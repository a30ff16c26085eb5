"""All rules, in the order in which a row meets them, and their table in `docs/quality.md`.

`python -m vecap_tasks.quality.rules` writes the table anew.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from vecap_tasks.config import QualityConfig, ScoreLimits
from vecap_tasks.quality.alttext_rules import ALTTEXT_RULES, Rule, all_that_fire

CLIP_SCORE = "clip_similarity"
SCORE = "score:"  # the reason of a row that a score's limits refuse, before the score's name
SCORE_DESCRIPTION = "a score is outside its limits in `quality.rows.scores` or `quality.clip`, or missing"

ROW_RULES: tuple[Rule, ...] = (
    Rule(
        "opted_out",
        "the owner of the image opts out of our use of it: robots.txt, a header or a TDM reservation",
        "NOT downloaded AND failure IN ('opt_out', 'robots')",
        example="an image that comes with `X-Robots-Tag: noai`; a page that opts out gives no rows at all",
        final=True,
    ),
    Rule(
        "not_downloaded",
        "the image could not be had; `error_message` says why",
        "NOT downloaded AND coalesce(failure, '') NOT IN ('opt_out', 'robots')",
        example="an address that answers 404; an HTML page in place of an image",
        final=True,
    ),
    Rule(
        "too_small",
        "the shorter side has fewer pixels than `min_side`",
        "least(original_width, original_height) < @min_side",
        example="icons, tracking pixels, a spacer of 1 by 1",
    ),
    Rule(
        "aspect",
        "the longer side is more than `max_aspect` times the shorter",
        "greatest(original_width, original_height) > @max_aspect * least(original_width, original_height)",
        example="rulers and banners, such as 728 by 90",
    ),
    Rule(
        "flat",
        "one color, or nearly so (the picture has no perceptual hash), unless `reject_flat` is off",
        "@reject_flat AND downloaded AND phash IS NULL",
        example="a gray square that stands for a picture which loads later",
    ),
)

# It names the `alttext_problem` where no rule of ALTTEXT_RULES does.
REPEATED = Rule(
    "repeated",
    "the AltText of more than `max_same_alttext` rows",
    "text_often",
    example="the name of the shop under each of its thousand products",
)

COMPARING_RULES: tuple[Rule, ...] = (
    Rule(
        "placeholder",
        "a picture, or one with the same perceptual hash, that more than `max_alttexts_per_image` AltTexts go with",
        "image_often",
        example="`no image available`, a lock, the logo that a dead image host answers with",
    ),
    Rule(
        "no_alttext",
        "no usable AltText, where `require_alttext` asks for it",
        "@require_alttext AND alttext_problem IS NOT NULL",
        example="any row with a rule about its AltText against it",
    ),
)

# `place` counts the rows that share the bytes, the one that is kept first; `near_place` those of nearly the same
# picture, of which each stands for all with its bytes; `earlier` says that a version of another interval has it.
DUPLICATE_RULES: tuple[Rule, ...] = (
    Rule(
        "duplicate_image",
        "another row of the crawl has the same bytes and is kept in its place",
        "place > 1",
        example="one file at two addresses; the row with a usable AltText is kept",
    ),
    Rule(
        "near_duplicate",
        "another row of the crawl has nearly the same picture and is kept in its place, "
        "where `reject_near_duplicates` asks for it",
        "@reject_near_duplicates AND near_place > 1",
        example="a picture and its thumbnail",
    ),
    Rule(
        "earlier_duplicate",
        "a version published earlier has the picture, or nearly, where `reject_earlier_duplicates` asks for it",
        "@reject_earlier_duplicates AND earlier",
        example="yesterday's front page, crawled again",
    ),
)

HOST_CAP = Rule(
    "host_cap",
    "its host has more rows than `max_host_rows` or `max_host_share` allow; which go on follows from their uids",
    "over_cap",
    example="one stock agency with half of the crawl",
)

ROW_REASONS: tuple[Rule, ...] = (*ROW_RULES, *COMPARING_RULES, *DUPLICATE_RULES, HOST_CAP)
FINAL = tuple(rule.name for rule in ROW_REASONS if rule.final)
# Two namespaces, and the words of the crawl (`error.empty`) are a third: a name can be in more than one.
_REASONS = {rule.name: rule.description for rule in ROW_REASONS}
_ALTTEXT_PROBLEMS = {rule.name: rule.description for rule in (*ALTTEXT_RULES, REPEATED)}
PAGE = Path(__file__).resolve().parents[2] / "docs" / "quality.md"
_BEGIN, _END = "<!-- rules -->\n", "<!-- /rules -->\n"
_MAX_EXAMPLE_CHARS = 40  # characters of an example that are shown


def score_limits(config: QualityConfig) -> dict[str, ScoreLimits]:
    """Return what is asked of each score by its name; the CLIP model's has one of its own, and misses where there is
    no usable AltText, which is no reason to refuse the row."""
    asked = dict(config.rows.scores)
    clip = config.clip
    if clip is not None and (clip.min_similarity is not None or clip.top_fraction is not None):
        asked[CLIP_SCORE] = ScoreLimits(min=clip.min_similarity, top_fraction=clip.top_fraction, keep_missing=True)
    return asked


def score_rules(config: QualityConfig) -> tuple[Rule, ...]:
    """Return a rule for each score that has limits: it sees the score as a column, `{name} at the top` as another."""
    return tuple(_score_rule(name, limits) for name, limits in sorted(score_limits(config).items()))


def _score_rule(name: str, limits: ScoreLimits) -> Rule:
    column = f'"{SCORE}{name}"'
    conditions = [] if limits.keep_missing else [f"downloaded AND {column} IS NULL"]
    if limits.min is not None:
        conditions.append(f"{column} < {limits.min!r}")
    if limits.max is not None:
        conditions.append(f"{column} > {limits.max!r}")
    if limits.top_fraction is not None:
        conditions.append(f'{column} < "{SCORE}{name} least"')
    joined = " OR ".join(f"coalesce({condition}, false)" for condition in conditions)
    compared = f"({joined}) AND alttext_problem IS NULL" if name == CLIP_SCORE else joined
    return Rule(f"{SCORE}{name}", SCORE_DESCRIPTION, compared)


def describe_reason(reason: str) -> str:
    """Return the description of the rule that refuses rows for *reason*; "" if no rule has that name."""
    return SCORE_DESCRIPTION if reason.startswith(SCORE) else _REASONS.get(reason, "")


def describe_alttext_problem(problem: str) -> str:
    """Return the description of the rule that gives rows this `alttext_problem`; "" if no rule has that name."""
    return _ALTTEXT_PROBLEMS.get(problem, "")


def wording(config: QualityConfig) -> list[str]:
    """Return the SQL of all rules under *config*: a rule that is put another way is another configuration."""
    groups = ((*ALTTEXT_RULES, REPEATED), ROW_RULES, COMPARING_RULES, score_rules(config), (*DUPLICATE_RULES, HOST_CAP))
    return [all_that_fire(group, config.rows) for group in groups]


def table() -> str:
    """Return the two tables of rules, in Markdown: those about AltText, and those that refuse a row."""
    score = Rule(
        f"{SCORE}NAME", SCORE_DESCRIPTION, "", example=f"`{SCORE}{CLIP_SCORE}`, the similarity of the CLIP model"
    )
    return "\n".join(
        [
            "| `alttext_problem` | what it says | fires for | lets pass |",
            "| --- | --- | --- | --- |",
            *(
                f"| `{rule.name}` | {rule.description} | {_shown(rule.fires) or rule.example} | {_shown(rule.passes)} |"
                for rule in (*ALTTEXT_RULES, REPEATED)
            ),
            "",
            "| reason | what it says | for example |",
            "| --- | --- | --- |",
            *(f"| `{rule.name}` | {rule.description} | {rule.example} |" for rule in (*ROW_REASONS, score)),
            "",
        ]
    )


def _shown(texts: Iterable[str]) -> str:
    return ", ".join(f"`{_cut(text)}`" for text in texts if text.strip())


def _cut(text: str) -> str:
    cut = text if len(text) <= _MAX_EXAMPLE_CHARS else f"{text[: _MAX_EXAMPLE_CHARS - 1].rstrip()}…"
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
