"""docs/quality.md lists all rules."""

from vecap_tasks.quality.rules import PAGE, update_page


def test_the_documentation_has_the_current_rule_tables():
    page = PAGE.read_text(encoding="utf-8")
    assert update_page(page) == page, "run `python -m vecap_tasks.quality.rules`"
