"""The rules on AltTexts labeled by hand, on their own examples, and on texts that a generator makes up."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.quality.factories import crawled, judge
from vecap_tasks.config import RowRules
from vecap_tasks.quality.alttext_rules import ALTTEXT_RULES
from vecap_tasks.quality.rules import REPEATED, ROW_REASONS


def problems(texts: list[str | None], rules: RowRules | None = None) -> list[tuple[str | None, str | None]]:
    """Return (alttext_problem, alttext) of rows with these AltTexts."""
    found = judge(crawled(texts), rows=rules.model_dump() if rules else {})
    return [(row["alttext_problem"], row["alttext"]) for row in found]


def labeled() -> list[tuple[str | None, str | None]]:
    """Return (label, text) of the hand-made list; the label is None where there is no problem."""
    lines = Path(__file__).with_name("alttexts.tsv").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("\t", 1) for line in lines if line and not line.startswith("#")]
    return [(None if label == "-" else label, json.loads(text)) for label, text in pairs]


# Rules that cannot show in single texts: `too_long` has a test of its own, `language` is off.
SHOWN = [rule.name for rule in ALTTEXT_RULES if rule.name not in ("too_long", "language")]


@pytest.fixture(scope="module")
def told() -> list[tuple[str | None, str | None, str | None]]:
    pairs = labeled()
    found = problems([text for _, text in pairs])
    return [(label, problem, text) for (label, text), (problem, _) in zip(pairs, found, strict=True)]


def test_the_list_is_large_and_names_every_rule(told):
    labels = Counter(label for label, _, _ in told)
    assert sum(labels.values()) >= 120
    assert set(labels) == {*SHOWN, None}


@pytest.mark.parametrize("rule", SHOWN)
def test_precision_and_recall(rule, told):
    fired = [(label, text) for label, problem, text in told if problem == rule]
    meant = [(problem, text) for label, problem, text in told if label == rule]
    wrong = [text for label, text in fired if label != rule]
    lost = [text for problem, text in meant if problem != rule]
    assert len(wrong) <= 0.05 * len(fired), f"{rule} fires where it must not: {wrong}"
    assert len(lost) <= 0.05 * len(meant), f"{rule} does not fire where it must: {lost}"


def test_captions_are_kept(told):
    lost = [(problem, text) for label, problem, text in told if label is None and problem]
    assert len(lost) <= 0.03 * sum(label is None for label, _, _ in told), lost


@pytest.mark.parametrize("rule", ALTTEXT_RULES, ids=lambda rule: rule.name)
def test_documented_examples(rule):
    assert [(text, found) for text, (found, _) in zip(rule.fires, _many(rule.fires), strict=True)] == [
        (text, rule.name) for text in rule.fires
    ]
    assert [(text, found) for text, (found, _) in zip(rule.passes, _many(rule.passes), strict=True)] == [
        (text, None) for text in rule.passes
    ]


def _many(texts: tuple[str, ...]) -> list[tuple[str | None, str | None]]:
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


def test_lengths_follow_the_configuration():
    rules = RowRules(min_alttext_chars=5, max_alttext_chars=10)
    texts = ["Elks", "Moose", "Ten marmots", "Ten moles!"]
    assert [problem for problem, _ in problems(texts, rules)] == ["too_short", None, "too_long", None]


def test_language_is_judged_by_script_and_only_if_asked():
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


def test_every_rule_has_a_name_of_its_own_and_says_what_it_does():
    rules = [*ALTTEXT_RULES, REPEATED, *ROW_REASONS]
    assert len({rule.name for rule in rules}) == len(rules)
    assert all(rule.description for rule in rules)


# DuckDB takes no NUL in a string that comes out of a web page's parser either.
_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=300)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.one_of(st.none(), _TEXT), min_size=1, max_size=60))
def test_any_text_has_a_verdict_and_a_usable_one_is_clean(texts):
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
def test_cleaning_a_clean_text_changes_nothing(texts):
    usable = [alttext for _, alttext in problems(texts) if alttext is not None and "&" not in alttext]
    again = problems(usable) if usable else []
    assert [alttext for problem, alttext in again if problem is None] == [
        before for before, (problem, _) in zip(usable, again, strict=True) if problem is None
    ]
