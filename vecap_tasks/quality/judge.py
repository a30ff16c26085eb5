"""Great Expectations as the judge of a crawl: of its measures against the gate, and of a sample of its rows.

DuckDB measures all rows; Great Expectations is shown one row of measures and a bounded sample, as pandas tables. Its
own DuckDB engine does not work with DuckDB 2. It opens no network connection and leaves nothing but the report.

Importing this module imports Great Expectations, which takes seconds: import it where it is used.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

# Hundreds of lines on import otherwise.
logging.getLogger("great_expectations").setLevel(logging.WARNING)

import great_expectations as gx  # noqa: E402 - after its logger is quietened
import great_expectations.expectations as gxe  # noqa: E402
from great_expectations.core.run_identifier import RunIdentifier  # noqa: E402
from great_expectations.data_context.types.base import (  # noqa: E402
    DataContextConfig,
    InMemoryStoreBackendDefaults,
    ProgressBarsConfig,
)

from vecap_tasks.config import Gate, QualityConfig  # noqa: E402
from vecap_tasks.quality.measures import Limit, Measures, limits  # noqa: E402
from vecap_tasks.quality.rules import ALTTEXT_RULES  # noqa: E402

Expectation = Any  # Great Expectations brings no types


@dataclass(frozen=True, slots=True)
class Failure:
    """An expectation that failed or could not be evaluated: what was expected, and what was found."""

    subject: str  # measures or sample
    column: str
    found: str

    def __str__(self) -> str:
        where = "" if self.subject == "measures" else f" (in the {self.subject})"
        return f"{self.column} {self.found}{where}"


def judge(
    measures: Measures, sample: pd.DataFrame, config: QualityConfig, crawled: datetime, site: Path
) -> list[Failure]:
    """Judge *measures* and *sample*, write Data Docs, a static site, to *site*; return what failed, in order.

    *sample* has the columns of `SAMPLE_COLUMNS`; *crawled* is the time of the crawl, which dates the pages. An
    expectation that could not be evaluated counts as failed.
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
        "measures": (pd.DataFrame([asdict(measures)]), of_measures(config.gate)),
        "sample": (sample, of_sample(config)),
    }
    failures: list[Failure] = []
    for name, (table, expectations) in subjects.items():
        batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
        suite = context.suites.add(gx.ExpectationSuite(name=name, expectations=list(expectations)))
        definition = context.validation_definitions.add(gx.ValidationDefinition(name=name, data=batch, suite=suite))
        run = RunIdentifier(run_name="crawl", run_time=crawled)
        result = definition.run(batch_parameters={"dataframe": table}, run_id=run)
        failures += _failures(name, expectations, result)
    context.build_data_docs()
    for picture in (site / "static" / "images").glob("*"):
        if picture.suffix != ".ico":
            picture.unlink()  # megabytes of tutorial that no page shows
    return failures


def of_measures(gate: Gate) -> list[Expectation]:
    """Return what is expected of the row of measures."""
    return [
        gxe.ExpectColumnValuesToBeBetween(column=limit.measure, min_value=limit.least, max_value=limit.most)
        for limit in limits(gate)
    ]


SAMPLE_COLUMNS = (
    "key", "uid", "url", "status", "width", "height", "original_width", "original_height", "sha256",
    "accepted", "alttext", "alttext_problem", "reasons", "consistent",
)  # fmt: skip


def of_sample(config: QualityConfig) -> list[Expectation]:
    """Return what is expected of each row of the sample."""
    present = [gxe.ExpectColumnValuesToNotBeNull(column=name) for name in ("key", "uid", "url", "status", "accepted")]
    sizes = ("width", "height", "original_width", "original_height")
    return [
        gxe.ExpectTableColumnsToMatchOrderedList(column_list=list(SAMPLE_COLUMNS)),
        *present,
        gxe.ExpectColumnValuesToBeUnique(column="key"),
        gxe.ExpectColumnValuesToBeUnique(column="uid"),
        gxe.ExpectColumnValuesToMatchRegex(column="key", regex=r"^[0-9]{9,}$"),
        gxe.ExpectColumnValuesToMatchRegex(column="uid", regex=r"^[0-9a-f]{32}$"),
        gxe.ExpectColumnValuesToMatchRegex(column="sha256", regex=r"^[0-9a-f]{64}$"),
        gxe.ExpectColumnValuesToBeInSet(
            column="status", value_set=["success", "failed_to_download", "failed_to_resize"]
        ),
        *(gxe.ExpectColumnValuesToBeBetween(column=name, min_value=1) for name in sizes),
        gxe.ExpectColumnValueLengthsToBeBetween(column="alttext", min_value=1, max_value=config.rows.max_alttext_chars),
        gxe.ExpectColumnValuesToBeInSet(column="alttext_problem", value_set=[rule.name for rule in ALTTEXT_RULES]),
        gxe.ExpectColumnValuesToBeInSet(column="consistent", value_set=[True]),
    ]


def _failures(subject: str, expectations: Sequence[Expectation], result: Any) -> list[Failure]:
    """Results come in an order of their own; failures are given in that of *expectations*."""
    found = {_identity(one.expectation_config.type, one.expectation_config.kwargs): one for one in result.results}
    failures = []
    for expectation in expectations:
        settings = expectation.configuration
        column = str(settings.kwargs.get("column", "columns"))
        one = found.get(_identity(settings.type, settings.kwargs))
        if one is None:
            failures.append(Failure(subject, column, "was not evaluated"))
            continue
        broken = _exception(one.exception_info)
        if broken:
            failures.append(Failure(subject, column, f"could not be evaluated: {broken}"))
        elif not one.success:
            failures.append(Failure(subject, column, _found(subject, settings, one.result)))
    return failures


def _identity(kind: str, settings: dict[str, Any]) -> tuple[str, str]:
    return kind, str(settings.get("column"))


def _exception(info: dict[str, Any]) -> str:
    """Return the message of an exception that Great Expectations kept, "" where there was none."""
    if "raised_exception" in info:
        return str(info.get("exception_message") or "unknown") if info["raised_exception"] else ""
    messages = [_exception(inner) for inner in info.values() if isinstance(inner, dict)]
    return next((message for message in messages if message), "")


def _found(subject: str, settings: Any, result: dict[str, Any]) -> str:
    if subject == "measures":
        value = result["partial_unexpected_list"][0]
        limit = Limit("", settings.kwargs.get("min_value"), settings.kwargs.get("max_value"))
        return f"is {value:g}, {limit}"
    if "unexpected_count" in result:
        rule = settings.type.removeprefix("expect_column_").replace("_", " ")
        example = next(iter(result.get("partial_unexpected_list") or []), None)
        return f"{result['unexpected_count']} of {result['element_count']} rows break `{rule}`, such as {example!r}"
    return f"is {result.get('observed_value')!r}"
