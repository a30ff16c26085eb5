"""Which row of a set of duplicate images is kept."""

import pytest

from tests.quality.factories import crawled, judge


def reasons(captions, duplicates, **rules):
    """Return the reasons of each row from its AltTexts and *duplicates* (row, kept, kind, version)."""
    found = [
        {"key": f"{n:09d}", "uid": f"{n:032x}", "duplicate_of": f"{kept:032x}"}
        | {"kind": kind, "distance": 0, "version": version}
        for n, kept, kind, version in duplicates
    ]
    return [row["reasons"] for row in judge(crawled(captions), found, rows=rules)]


CAPTION = "A heron by the river"


def test_by_default_only_exact_duplicates_of_the_version_are_rejected():
    found = [(1, 0, "near", None), (2, 0, "exact", None), (3, 7, "exact", "2026-01-01"), (4, 7, "near", "2026-01-01")]
    assert reasons([CAPTION] * 5, found) == [[], [], ["duplicate_image"], [], []]


def test_one_of_several_near_duplicates_is_kept():
    found = [(1, 0, "near", None), (2, 0, "near", None), (4, 3, "near", None)]
    captions = [None, CAPTION, CAPTION, None, None]
    near = ["near_duplicate"]
    assert reasons(captions, found, reject_near_duplicates=True) == [near, [], near, [], near]


def test_near_duplicates_of_exact_duplicates_are_kept_once():
    """Rows 0 and 2 are exact duplicates, and row 2 is kept for its AltText; rows 1 and 3 are near-duplicates."""
    found = [(2, 0, "exact", None), (1, 0, "near", None), (3, 1, "exact", None)]
    captions = [None, None, CAPTION, None]
    assert reasons(captions, found, reject_near_duplicates=True) == [
        ["duplicate_image"],
        ["near_duplicate"],
        [],
        ["duplicate_image"],
    ]


def test_a_row_without_other_reasons_is_preferred():
    found = [(1, 0, "near", None)]
    verdicts = reasons(["photo", CAPTION], found, reject_near_duplicates=True, require_alttext=True)
    assert verdicts == [["no_alttext", "near_duplicate"], []]


@pytest.mark.parametrize("kind", ["exact", "near"])
def test_duplicates_of_earlier_versions_are_rejected_if_required(kind):
    found = [(1, 7, kind, "2026-01-01"), (1, 0, "near", None)]
    assert reasons([CAPTION] * 3, found, reject_earlier_duplicates=True) == [[], ["earlier_duplicate"], []]
