"""Of rows that show the same picture, which one goes on: what the crawl found, and what the rules ask."""

import pytest

from tests.quality.factories import crawled, judge


def reasons(captions, duplicates, **rules):
    """Return the reasons of each row: *captions* gives its AltText, *duplicates* (row, kept, kind, version)."""
    found = [
        {"key": f"{n:09d}", "uid": f"{n:032x}", "duplicate_of": f"{kept:032x}"}
        | {"kind": kind, "distance": 0, "version": version}
        for n, kept, kind, version in duplicates
    ]
    return [row["reasons"] for row in judge(crawled(captions), found, rows=rules)]


CAPTION = "A heron by the river"


def test_only_exact_copies_within_the_version_are_refused_unless_asked():
    found = [(1, 0, "near", None), (2, 0, "exact", None), (3, 7, "exact", "2026-01-01"), (4, 7, "near", "2026-01-01")]
    assert reasons([CAPTION] * 5, found) == [[], [], ["duplicate_image"], [], []]


def test_of_near_copies_one_is_kept():
    found = [(1, 0, "near", None), (2, 0, "near", None), (4, 3, "near", None)]
    given = [None, CAPTION, CAPTION, None, None]
    near = ["near_duplicate"]
    assert reasons(given, found, reject_near_duplicates=True) == [near, [], near, [], near]


def test_a_picture_is_kept_once_whatever_row_stands_for_its_bytes():
    """Rows 0 and 2 have the same bytes, row 2 is kept for its AltText; rows 1 and 3 have nearly the same picture."""
    found = [(2, 0, "exact", None), (1, 0, "near", None), (3, 1, "exact", None)]
    given = [None, None, CAPTION, None]
    assert reasons(given, found, reject_near_duplicates=True) == [
        ["duplicate_image"],
        ["near_duplicate"],
        [],
        ["duplicate_image"],
    ]


def test_a_row_that_another_rule_refuses_is_not_kept_for_others():
    found = [(1, 0, "near", None)]
    verdicts = reasons(["photo", CAPTION], found, reject_near_duplicates=True, require_alttext=True)
    assert verdicts == [["no_alttext", "near_duplicate"], []]


@pytest.mark.parametrize("kind", ["exact", "near"])
def test_what_an_earlier_version_has_is_refused_if_asked(kind):
    found = [(1, 7, kind, "2026-01-01"), (1, 0, "near", None)]
    assert reasons([CAPTION] * 3, found, reject_earlier_duplicates=True) == [[], ["earlier_duplicate"], []]
