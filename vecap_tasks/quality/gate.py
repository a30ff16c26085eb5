"""What the gate asks of the measures of a crawl, and what was found where it is not so."""

from __future__ import annotations

from dataclasses import dataclass

from vecap_tasks.config import Bound, Drift, Gate, Level


@dataclass(frozen=True, slots=True)
class Limit:
    """What is asked of a measure: at least `least`, or at most `most`; else the version is stopped, or warned of."""

    measure: str
    least: float | None = None
    most: float | None = None
    level: Level = "stop"

    def __str__(self) -> str:
        return f"at least {self.least:g} is asked" if self.least is not None else f"at most {self.most:g} is allowed"


@dataclass(frozen=True, slots=True)
class Failure:
    """An expectation that failed or could not be evaluated: what was expected, and what was found."""

    subject: str  # measures, sample or drift
    column: str
    found: str
    level: Level = "stop"

    def __str__(self) -> str:
        where = " (in the sample)" if self.subject == "sample" else ""
        return f"{self.column} {self.found}{where}"


def limits(gate: Gate) -> tuple[Limit, ...]:
    """Return what *gate* asks, and what holds for every crawl; the first that fails is what a user is told."""
    return (
        Limit("rows", least=1),
        *_least("accepted_rows", gate.min_accepted_rows),
        *_least("download_share", gate.min_download_share),
        *_least("accepted_share", gate.min_accepted_share),
        *_most("duplicate_share", gate.max_duplicate_share),
        *_least("alttext_share", gate.min_alttext_share),
        *_most("largest_host_share", gate.max_host_share),
        Limit("rows_without_verdict", most=0, level=gate.completeness),
        Limit("repeated_keys", most=0, level=gate.uniqueness),
        Limit("repeated_uids", most=0, level=gate.uniqueness),
        Limit("downloads_without_sha256", most=0, level=gate.completeness),
    )


def drift_limits(drift: Drift) -> tuple[Limit, ...]:
    """Return what *drift* allows, by the names of the fields of `Drift` that are bounds."""
    bounds = {name: getattr(drift, name) for name in type(drift).model_fields}
    return tuple(limit for name, bound in bounds.items() if isinstance(bound, Bound) for limit in _most(name, bound))


def _least(measure: str, bound: Bound) -> tuple[Limit, ...]:
    return tuple(Limit(measure, least=value, level=level) for level, value in _levels(bound))


def _most(measure: str, bound: Bound) -> tuple[Limit, ...]:
    return tuple(Limit(measure, most=value, level=level) for level, value in _levels(bound))


def _levels(bound: Bound) -> list[tuple[Level, float]]:
    warn = None if bound.warn == bound.stop else bound.warn
    given: list[tuple[Level, float | None]] = [("stop", bound.stop), ("warn", warn)]
    return [(level, value) for level, value in given if value is not None]
