"""The page lists the rules as they are."""

from vecap_tasks.quality.rules import PAGE, update_page


def test_the_page_has_every_rule_as_it_is():
    page = PAGE.read_text(encoding="utf-8")
    assert update_page(page) == page, "run `python -m vecap_tasks.quality.rules`"
