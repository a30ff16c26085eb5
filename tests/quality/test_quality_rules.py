"""AltText rules on manually labeled texts, on their documented examples, and on generated texts."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.test_private_data import ACCOUNTS, EMAILS, LINKS, OTHER, OTHER_LINKS, PHONE_NUMBERS
from tests.quality.factories import crawled, judge
from vecap_tasks.config import RowRules
from vecap_tasks.quality.alttext_rules import ALTTEXT_RULES
from vecap_tasks.quality.rules import REPEATED, ROW_REASONS


def problems(texts: list[str | None], rules: RowRules | None = None) -> list[tuple[str | None, str | None]]:
    """Return (alttext_problem, alttext) of rows with these AltTexts."""
    found = judge(crawled(texts), rows=rules.model_dump() if rules else {})
    return [(row["alttext_problem"], row["alttext"]) for row in found]


def labeled() -> list[tuple[str | None, str | None]]:
    """Return (label, text) of the manually labeled list; the label is None for texts without a problem."""
    lines = Path(__file__).with_name("alttexts.tsv").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("\t", 1) for line in lines if line and not line.startswith("#")]
    return [(None if label == "-" else label, json.loads(text)) for label, text in pairs]


# Rules in the labeled list; `too_long` has its own test, and `language` is off by default.
LABELED_RULES = [rule.name for rule in ALTTEXT_RULES if rule.name not in ("too_long", "language")]


@pytest.fixture(scope="module")
def results() -> list[tuple[str | None, str | None, str | None]]:
    """Return (label, problem, text) of the labeled list."""
    pairs = labeled()
    found = problems([text for _, text in pairs])
    return [(label, problem, text) for (label, text), (problem, _) in zip(pairs, found, strict=True)]


def test_the_labeled_list_is_large_and_covers_every_rule(results):
    labels = Counter(label for label, _, _ in results)
    assert sum(labels.values()) >= 120
    assert set(labels) == {*LABELED_RULES, None}


@pytest.mark.parametrize("rule", LABELED_RULES)
def test_rules_have_high_precision_and_recall(rule, results):
    matched = [(label, text) for label, problem, text in results if problem == rule]
    expected = [(problem, text) for label, problem, text in results if label == rule]
    false_positives = [text for label, text in matched if label != rule]
    false_negatives = [text for problem, text in expected if problem != rule]
    assert len(false_positives) <= 0.05 * len(matched), f"{rule}: false positives: {false_positives}"
    assert len(false_negatives) <= 0.05 * len(expected), f"{rule}: false negatives: {false_negatives}"


def test_usable_captions_are_kept(results):
    lost = [(problem, text) for label, problem, text in results if label is None and problem]
    assert len(lost) <= 0.03 * sum(label is None for label, _, _ in results), lost


@pytest.mark.parametrize("rule", ALTTEXT_RULES, ids=lambda rule: rule.name)
def test_documented_examples_match(rule):
    assert [(text, found) for text, (found, _) in zip(rule.fires, _problems(rule.fires), strict=True)] == [
        (text, rule.name) for text in rule.fires
    ]
    assert [(text, found) for text, (found, _) in zip(rule.passes, _problems(rule.passes), strict=True)] == [
        (text, None) for text in rule.passes
    ]


def _problems(texts: tuple[str, ...]) -> list[tuple[str | None, str | None]]:
    return problems(list(texts)) if texts else []


@pytest.mark.parametrize(
    ("crawled", "cleaned"),
    [
        ("&lt;b&gt;Beagle&lt;/b&gt; &amp; friends", "Beagle & friends"),
        ("Cat&nbsp;&ndash;&nbsp;Shop", "Cat – Shop"),
        ("&#65;bc &#x42;cd", "Abc Bcd"),
        ("A &#55357; broken surrogate", "A broken surrogate"),
        ("&amp;lt;kept&amp;gt; once", "&lt;kept&gt; once"),
        ("AT&T building &foo; north", "AT&T building &foo; north"),
        ("two\n\t lines\u00a0and\u3000spaces", "two lines and spaces"),
        ("<i>Iris</i> in bloom<br/>", "Iris in bloom"),
        ("[caption id=12] Mill pond [/caption]", "Mill pond"),
        ("a sign [sic] with 1 < 2", "a sign [sic] with 1 < 2"),
        ("Fox crochet hat.jpg", "Fox crochet hat"),
        ("Cafe\u0301 in Paris", "Café in Paris"),
        ("می\u200cخواهم گربه", "می\u200cخواهم گربه"),
    ],
)
def test_cleaning(crawled, cleaned):
    assert problems([crawled]) == [(None, cleaned)]


def test_repeated_text_is_boilerplate_above_the_threshold():
    rules = RowRules(max_same_alttext=3)
    shared = ["Widgets of Springfield"] * 3
    assert {problem for problem, _ in problems([*shared, "A beagle"], rules)} == {None}
    found = problems([*shared, "WIDGETS  of Springfield", "A beagle"], rules)
    assert [problem for problem, _ in found] == ["repeated"] * 4 + [None]


def test_length_limits_are_configurable():
    rules = RowRules(min_alttext_chars=5, max_alttext_chars=10)
    texts = ["Elks", "Moose", "Ten marmots", "Ten moles!"]
    assert [problem for problem, _ in problems(texts, rules)] == ["too_short", None, "too_long", None]


def test_language_is_checked_by_script_if_configured():
    texts = [
        "Красная площадь зимой",
        "富士山の日の出",
        "A view of Mount Fuji",
        "Nuestro velero",
        "Mt Fuji 富士山 at dawn",
    ]
    assert {problem for problem, _ in problems(texts)} == {None}
    english = problems(texts, RowRules(languages=["en"]))
    assert [problem for problem, _ in english] == ["language", "language", None, None, None]
    both = problems(texts, RowRules(languages=["en", "ja"]))
    assert [problem for problem, _ in both] == ["language", None, None, None, None]


def test_every_rule_has_a_unique_name_and_a_description():
    rules = [*ALTTEXT_RULES, REPEATED, *ROW_REASONS]
    assert len({rule.name for rule in rules}) == len(rules)
    assert all(rule.description for rule in rules)


# The page parser produces no NUL characters.
_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=300)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.one_of(st.none(), _TEXT), min_size=1, max_size=60))
def test_any_text_has_a_verdict_and_usable_text_is_clean(texts):
    found = problems(texts)
    assert len(found) == len(texts)
    for problem, alttext in found:
        assert (problem is None) == (alttext is not None)
        if alttext is not None:
            assert alttext == " ".join(alttext.split())
            assert 1 <= len(alttext) <= 1000
            assert any(character.isalnum() for character in alttext)


@settings(max_examples=10, deadline=None)
@given(st.lists(_TEXT, min_size=1, max_size=60))
def test_cleaning_is_idempotent(texts):
    usable = [alttext for _, alttext in problems(texts) if alttext is not None and "&" not in alttext]
    again = problems(usable) if usable else []
    assert [alttext for problem, alttext in again if problem is None] == [
        before for before, (problem, _) in zip(usable, again, strict=True) if problem is None
    ]


def test_private_data_is_found_in_sql_as_in_generated_texts():
    found = problems([*PHONE_NUMBERS, *EMAILS, *ACCOUNTS, *LINKS])
    assert {problem for problem, _ in found} == {"private_data"}
    assert "private_data" not in {problem for problem, _ in problems([*OTHER, *OTHER_LINKS])}


def test_invisible_characters_and_look_alikes_do_not_hide_private_data_in_sql():
    texts = ["jane [a\xadt] example [d\xadot] org", "jane ａｔ mail ｄｏｔ example ｄｏｔ net", "beispiel • – 50"]
    assert [problem for problem, _ in problems(texts)] == ["private_data", "private_data", None]


def test_private_data_in_markup_or_entities_is_found():
    texts = [
        '<a href="mailto:jane@shop.example">Bakery</a>',
        "jane&#64;shop.example",
        "212<b>-555-</b>0142",
        "Caf&eacute;",
    ]
    assert [problem for problem, _ in problems(texts)] == ["private_data"] * 3 + [None]
