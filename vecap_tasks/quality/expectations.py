"""Great Expectations suites over a crawl's measures, a sample of its rows, and its drift.

DuckDB measures all rows. Great Expectations gets three pandas tables: one row of measures, a bounded sample, and one
row of distances; its own DuckDB engine does not work with DuckDB 2. It opens no network connection and writes only
the report.

Importing this module imports Great Expectations, which takes seconds: import it inside functions.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

# Suppress hundreds of log lines on import.
logging.getLogger("great_expectations").setLevel(logging.WARNING)

import great_expectations as gx  # noqa: E402 - after setting its log level
import great_expectations.expectations as gxe  # noqa: E402
from great_expectations.core.run_identifier import RunIdentifier  # noqa: E402
from great_expectations.data_context.types.base import (  # noqa: E402
    DataContextConfig,
    InMemoryStoreBackendDefaults,
    ProgressBarsConfig,
)

from vecap_tasks.config import Level, QualityConfig  # noqa: E402
from vecap_tasks.quality.alttext_rules import ALTTEXT_RULES  # noqa: E402
from vecap_tasks.quality.gate import (  # noqa: E402
    DriftResult,
    Failure,
    Limit,
    drift_limits,
    limits,
)
from vecap_tasks.quality.measures import SAMPLE_COLUMNS, Measures  # noqa: E402
from vecap_tasks.quality.rules import REPEATED  # noqa: E402

Expectation = Any  # Great Expectations has no type hints
LeveledExpectation = tuple[Expectation, Level]
_SEVERITY = {"stop": "critical", "warn": "warning"}


def evaluate_expectations(
    measures: Measures,
    sample: pd.DataFrame,
    drift: Sequence[DriftResult],
    config: QualityConfig,
    crawled: datetime,
    site: Path,
) -> list[Failure]:
    """Return the expectations that failed, stops before warnings; write Data Docs (a static site) to *site*.

    *sample* has the columns of `SAMPLE_COLUMNS`. *drift* is empty without previous versions. *crawled*, the time of
    the crawl, is the run time on the pages. An expectation that cannot be evaluated counts as failed.
    """
    builder = {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(site)},
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
    }
    context = gx.get_context(
        mode="ephemeral",
        project_config=DataContextConfig(
            store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
            data_docs_sites={"report": builder},
            progress_bars=ProgressBarsConfig(globally=False),
            analytics_enabled=False,
        ),
    )
    source = context.data_sources.add_pandas("crawl")
    subjects = {
        "measures": (pd.DataFrame([asdict(measures)]), [_between(limit) for limit in limits(config.gate)]),
        "sample": (sample, sample_expectations(config)),
    }
    words = {result.name: result.words for result in drift}
    if drift:
        distances = pd.DataFrame([{result.name: result.distance for result in drift}])
        subjects["drift"] = (distances, [_between(limit) for limit in drift_limits(config.drift)])
    failures: list[Failure] = []
    for name, (table, leveled) in subjects.items():
        if not leveled:
            continue
        batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
        expectations = [expectation for expectation, _ in leveled]
        suite = context.suites.add(gx.ExpectationSuite(name=name, expectations=expectations))
        definition = context.validation_definitions.add(gx.ValidationDefinition(name=name, data=batch, suite=suite))
        run = RunIdentifier(run_name="crawl", run_time=crawled)
        result = definition.run(batch_parameters={"dataframe": table}, run_id=run)
        failures += _failures(name, leveled, result, words)
    context.build_data_docs()
    for image in (site / "static" / "images").glob("*"):
        if image.suffix != ".ico":
            image.unlink()  # megabytes of tutorial images that no page uses
    return sorted(failures, key=lambda failure: failure.level != "stop")


def _between(limit: Limit) -> LeveledExpectation:
    bounds = {"min_value": limit.minimum, "max_value": limit.maximum}
    severity = _SEVERITY[limit.level]
    return gxe.ExpectColumnValuesToBeBetween(column=limit.measure, severity=severity, **bounds), limit.level


def sample_expectations(config: QualityConfig) -> list[LeveledExpectation]:
    """Return the expectations on the rows of the sample."""
    gate = config.gate
    present = ("key", "uid", "url", "status", "accepted")
    sizes = ("width", "height", "original_width", "original_height")
    problems = [rule.name for rule in (*ALTTEXT_RULES, REPEATED)]
    statuses = ["success", "failed_to_download", "failed_to_resize"]
    expected: list[tuple[type[Expectation], dict[str, Any], Level]] = [
        (gxe.ExpectTableColumnsToMatchOrderedList, {"column_list": list(SAMPLE_COLUMNS)}, gate.columns),
        *((gxe.ExpectColumnValuesToNotBeNull, {"column": name}, gate.completeness) for name in present),
        (gxe.ExpectColumnValuesToBeUnique, {"column": "key"}, gate.uniqueness),
        (gxe.ExpectColumnValuesToBeUnique, {"column": "uid"}, gate.uniqueness),
        (gxe.ExpectColumnValuesToMatchRegex, {"column": "key", "regex": r"^[0-9]{9,}$"}, gate.ranges),
        (gxe.ExpectColumnValuesToMatchRegex, {"column": "uid", "regex": r"^[0-9a-f]{32}$"}, gate.ranges),
        (gxe.ExpectColumnValuesToMatchRegex, {"column": "sha256", "regex": r"^[0-9a-f]{64}$"}, gate.ranges),
        (gxe.ExpectColumnValuesToBeInSet, {"column": "status", "value_set": statuses}, gate.ranges),
        *((gxe.ExpectColumnValuesToBeBetween, {"column": name, "min_value": 1}, gate.ranges) for name in sizes),
        (
            gxe.ExpectColumnValueLengthsToBeBetween,
            {"column": "alttext", "min_value": 1, "max_value": config.rows.max_alttext_chars},
            gate.ranges,
        ),
        (gxe.ExpectColumnValuesToBeInSet, {"column": "alttext_problem", "value_set": problems}, gate.ranges),
        (gxe.ExpectColumnValuesToBeInSet, {"column": "consistent", "value_set": [True]}, gate.completeness),
    ]
    return [(kind(severity=_SEVERITY[level], **settings), level) for kind, settings, level in expected]


def _failures(
    subject: str, leveled: Sequence[LeveledExpectation], validation: Any, words: Mapping[str, str]
) -> list[Failure]:
    """Return the failures in the order of *leveled*; Great Expectations returns results in another order."""
    results = {_identity(result.expectation_config): result for result in validation.results}
    failures = []
    for expectation, level in leveled:
        settings = expectation.configuration
        column = str(settings.kwargs.get("column", "columns"))
        result = results.get(_identity(settings))
        if result is None:
            failures.append(Failure(subject, column, "was not evaluated", level))
            continue
        exception = _exception(result.exception_info)
        if exception:
            failures.append(Failure(subject, column, f"could not be evaluated: {exception}", level))
        elif not result.success:
            failures.append(Failure(subject, column, _describe(subject, settings, result.result, words), level))
    return failures


def _identity(settings: Any) -> tuple[str, ...]:
    named = (settings.kwargs.get(name) for name in ("column", "min_value", "max_value"))
    return settings.type, *(str(value) for value in named)


def _exception(info: dict[str, Any]) -> str:
    """Return the message of the exception that Great Expectations recorded, or ""."""
    if "raised_exception" in info:
        return str(info.get("exception_message") or "unknown") if info["raised_exception"] else ""
    messages = [_exception(inner) for inner in info.values() if isinstance(inner, dict)]
    return next((message for message in messages if message), "")


def _describe(subject: str, settings: Any, result: dict[str, Any], words: Mapping[str, str]) -> str:
    if subject in ("measures", "drift"):
        value = result["partial_unexpected_list"][0]
        limit = Limit("", settings.kwargs.get("min_value"), settings.kwargs.get("max_value"))
        if subject == "measures":
            return f"is {value:g}, {limit}"
        change = words.get(str(settings.kwargs["column"]))
        detail = f" ({change})" if change else ""
        return f"drifted by {value:g} from previous versions{detail}, {limit}"
    if "unexpected_count" in result:
        rule = settings.type.removeprefix("expect_column_").replace("_", " ")
        example = next(iter(result.get("partial_unexpected_list") or []), None)
        return f"{result['unexpected_count']} of {result['element_count']} rows violate `{rule}`, e.g. {example!r}"
    return f"is {result.get('observed_value')!r}"
