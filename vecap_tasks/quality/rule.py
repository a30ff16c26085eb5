"""A rule: a condition in DuckDB SQL with a name that rows carry, what it says, and what it is meant for."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from vecap_tasks.config import RowRules
from vecap_tasks.quality.clean import literal


@dataclass(frozen=True, slots=True)
class Rule:
    """A named condition. `@field` in *sql* stands for that field of `RowRules`.

    *fires* and *passes* are AltTexts, of rules about AltText; *example* says in words what any other rule is for.
    *final* rules refuse rows that nobody can release: there is no image to go on with.
    """

    name: str
    says: str
    sql: str
    fires: tuple[str, ...] = ()
    passes: tuple[str, ...] = ()
    example: str = ""
    final: bool = False

    def condition(self, thresholds: RowRules) -> str:
        """Return the condition as SQL that is true or false, never null."""
        sql = _THRESHOLD.sub(lambda match: json.dumps(getattr(thresholds, match.group(1))), self.sql)
        return f"coalesce({sql}, false)"


_THRESHOLD = re.compile(rf"@({'|'.join(RowRules.model_fields)})\b")


def first_that_fires(rules: Sequence[Rule], thresholds: RowRules) -> str:
    """Return SQL for the name of the first rule that fires, null where none does."""
    cases = " ".join(f"WHEN {rule.condition(thresholds)} THEN {literal(rule.name)}" for rule in rules)
    return f"CASE {cases} END"


def all_that_fire(rules: Sequence[Rule], thresholds: RowRules) -> str:
    """Return SQL for the list of the names of the rules that fire, in their order."""
    cases = ", ".join(f"CASE WHEN {rule.condition(thresholds)} THEN {literal(rule.name)} END" for rule in rules)
    return f"list_filter([{cases}]::VARCHAR[], lambda name: name IS NOT NULL)"
