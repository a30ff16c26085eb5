"""All rules in evaluation order, and their tables in `docs/quality.md`.

Run `python -m vecap_tasks.quality.rules` to regenerate the tables.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from vecap_tasks.config import QualityConfig, ScoreLimits
from vecap_tasks.quality.alttext_rules import ALTTEXT_RULES, Rule, all_matches

CLIP_SCORE = "clip_similarity"
SCORE = "score:"  # prefix of the reason of rows that a score rejects, before the score's name
SCORE_DESCRIPTION = "score missing, or outside its limits in `quality.rows.scores` or `quality.clip`"

ROW_RULES: tuple[Rule, ...] = (
    Rule(
        "opted_out",
        "the image's owner opts out of this use: robots.txt, HTTP header or TDM reservation",
        "NOT downloaded AND failure IN ('opt_out', 'robots')",
        example="an image served with `X-Robots-Tag: noai`; pages that opt out produce no rows",
        final=True,
    ),
    Rule(
        "not_downloaded",
        "download or decode failed; see `error_message`",
        "NOT downloaded AND coalesce(failure, '') NOT IN ('opt_out', 'robots')",
        example="a URL that returns 404; an HTML page instead of an image",
        final=True,
    ),
    Rule(
        "too_small",
        "shorter side below `min_side` pixels",
        "least(original_width, original_height) < @min_side",
        example="icons, tracking pixels, 1×1 spacers",
    ),
    Rule(
        "aspect",
        "aspect ratio above `max_aspect`",
        "greatest(original_width, original_height) > @max_aspect * least(original_width, original_height)",
        example="separator lines and banners, such as 728×90",
    ),
    Rule(
        "flat",
        "nearly uniform color (no perceptual hash); only if `reject_flat` is set",
        "@reject_flat AND downloaded AND phash IS NULL",
        example="a gray placeholder for an image that loads lazily",
    ),
)

# Sets `alttext_problem` if no rule of ALTTEXT_RULES matches.
REPEATED = Rule(
    "repeated",
    "same AltText in more than `max_same_alttext` rows",
    "text_often",
    example="a shop's name on each of its thousand products",
)

GROUP_RULES: tuple[Rule, ...] = (
    Rule(
        "placeholder",
        "image, by perceptual hash, with more than `max_alttexts_per_image` different AltTexts",
        "image_often",
        example="`no image available`, a lock icon, the logo that a dead image host serves",
    ),
    Rule(
        "no_alttext",
        "no usable AltText; only if `require_alttext` is set",
        "@require_alttext AND alttext_problem IS NOT NULL",
        example="any row with an `alttext_problem`",
    ),
)

# `place` ranks the rows with identical bytes, and `near_place` the kept rows of near-duplicate images; rank 1 is kept.
# `earlier` is true if a published version of another interval has the image.
DUPLICATE_RULES: tuple[Rule, ...] = (
    Rule(
        "duplicate_image",
        "exact duplicate of a retained row of the crawl",
        "place > 1",
        example="one file at two URLs; the row with a usable AltText is kept",
    ),
    Rule(
        "near_duplicate",
        "near-duplicate of a retained row of the crawl; only if `reject_near_duplicates` is set",
        "@reject_near_duplicates AND near_place > 1",
        example="an image and its thumbnail",
    ),
    Rule(
        "earlier_duplicate",
        "duplicate or near-duplicate of an image in an earlier version; only if `reject_earlier_duplicates` is set",
        "@reject_earlier_duplicates AND earlier",
        example="yesterday's front page, crawled again",
    ),
)

# Applies only if `quality.clip.duplicate_similarity` is set. `semantic_place` is as `near_place`.
SEMANTIC = Rule(
    "semantic_duplicate",
    "image similar to that of a retained row of the crawl; only if `quality.clip.duplicate_similarity` is set",
    "semantic_place > 1",
    example="a crop, or the next photo of a series",
)

HOST_CAP = Rule(
    "host_cap",
    "host exceeds `max_host_rows` or `max_host_share`; the rows to keep are chosen by uid",
    "over_cap",
    example="a stock agency that supplies half of the crawl",
)

ROW_REASONS: tuple[Rule, ...] = (*ROW_RULES, *GROUP_RULES, *DUPLICATE_RULES, SEMANTIC, HOST_CAP)
FINAL = tuple(rule.name for rule in ROW_REASONS if rule.final)
# Reasons, AltText problems and crawl errors are separate namespaces: one name can occur in several.
_REASONS = {rule.name: rule.description for rule in ROW_REASONS}
_ALTTEXT_PROBLEMS = {rule.name: rule.description for rule in (*ALTTEXT_RULES, REPEATED)}
PAGE = Path(__file__).resolve().parents[2] / "docs" / "quality.md"
_BEGIN, _END = "<!-- rules -->\n", "<!-- /rules -->\n"
_MAX_EXAMPLE_CHARS = 40


def duplicate_rules(config: QualityConfig) -> tuple[Rule, ...]:
    """Return the rules about duplicates; that about semantic ones only if it is configured."""
    is_semantic = config.clip is not None and config.clip.duplicate_similarity is not None
    return (*DUPLICATE_RULES, SEMANTIC) if is_semantic else DUPLICATE_RULES


def score_limits(config: QualityConfig) -> dict[str, ScoreLimits]:
    """Return the limits of each score by name, including the CLIP model's.

    Rows without a usable AltText have no CLIP score and are kept.
    """
    limits = dict(config.rows.scores)
    clip = config.clip
    if clip is not None and (clip.min_similarity is not None or clip.top_fraction is not None):
        limits[CLIP_SCORE] = ScoreLimits(min=clip.min_similarity, top_fraction=clip.top_fraction, keep_missing=True)
    return limits


def score_rules(config: QualityConfig) -> tuple[Rule, ...]:
    """Return a rule for each score that has limits.

    The rules use the columns `score:{name}` and, for `top_fraction`, `score:{name} least`.
    """
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
    any_condition = " OR ".join(f"coalesce({condition}, false)" for condition in conditions)
    sql = f"({any_condition}) AND alttext_problem IS NULL" if name == CLIP_SCORE else any_condition
    return Rule(f"{SCORE}{name}", SCORE_DESCRIPTION, sql)


def describe_reason(reason: str) -> str:
    """Return the description of the rule *reason*, or "" if there is none."""
    return SCORE_DESCRIPTION if reason.startswith(SCORE) else _REASONS.get(reason, "")


def describe_alttext_problem(problem: str) -> str:
    """Return the description of the AltText rule *problem*, or "" if there is none."""
    return _ALTTEXT_PROBLEMS.get(problem, "")


def rules_sql(config: QualityConfig) -> list[str]:
    """Return the SQL of all rules under *config*, for the stage's fingerprint."""
    groups = (
        (*ALTTEXT_RULES, REPEATED),
        ROW_RULES,
        GROUP_RULES,
        score_rules(config),
        (*duplicate_rules(config), HOST_CAP),
    )
    return [all_matches(group, config.rows) for group in groups]


def format_rules() -> str:
    """Return two Markdown tables: the rules about AltText, and the rules that reject rows."""
    score = Rule(
        f"{SCORE}NAME", SCORE_DESCRIPTION, "", example=f"`{SCORE}{CLIP_SCORE}`, the similarity of the CLIP model"
    )
    return "\n".join(
        [
            "| `alttext_problem` | description | matches | does not match |",
            "| --- | --- | --- | --- |",
            *(
                f"| `{rule.name}` | {rule.description} | {_codes(rule.fires) or rule.example} | {_codes(rule.passes)} |"
                for rule in (*ALTTEXT_RULES, REPEATED)
            ),
            "",
            "| reason | description | example |",
            "| --- | --- | --- |",
            *(f"| `{rule.name}` | {rule.description} | {rule.example} |" for rule in (*ROW_REASONS, score)),
            "",
        ]
    )


def _codes(texts: Iterable[str]) -> str:
    return ", ".join(f"`{_shorten(text)}`" for text in texts if text.strip())


def _shorten(text: str) -> str:
    short = text if len(text) <= _MAX_EXAMPLE_CHARS else f"{text[: _MAX_EXAMPLE_CHARS - 1].rstrip()}…"
    return short.replace("|", "\\|")


def update_page(page: str) -> str:
    """Return *page* with current rule tables. Raises ValueError if the table markers are missing."""
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"the page lacks the markers {_BEGIN.strip()} … {_END.strip()}")
    return f"{before}{begin}{format_rules()}{end}{after}"


if __name__ == "__main__":
    PAGE.write_text(update_page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    sys.stdout.write(f"wrote rule tables to {PAGE}\n")
