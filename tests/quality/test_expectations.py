"""Great Expectations suites: failures are reported, and expectations that cannot be evaluated fail."""

from dataclasses import replace
from datetime import UTC, datetime

import pandas as pd

from vecap_tasks.config import Gate, QualityConfig
from vecap_tasks.quality.expectations import evaluate_expectations
from vecap_tasks.quality.gate import limits
from vecap_tasks.quality.measures import SAMPLE_COLUMNS, Measures

GOOD = Measures(
    rows=10, downloaded_rows=8, download_share=0.8, accepted_rows=6, accepted_share=0.6, released_rows=0,
    duplicate_rows=2, duplicate_share=0.25, opted_out_rows=0, alttext_rows=5, alttext_share=0.5, alttext_chars_p05=4,
    alttext_chars_p50=20, alttext_chars_p95=60, hosts=3, largest_host_share=0.4, rows_without_verdict=0,
    repeated_keys=0, repeated_uids=0, downloads_without_sha256=0,
)  # fmt: skip


def sample(**changes):
    """Return a valid sample of five rows; *changes* override values of the first row."""
    rows = [
        {
            "key": f"{n:09d}", "uid": f"{n:032x}", "url": "http://a.example/", "status": "success", "width": 64,
            "height": 48, "original_width": 640, "original_height": 480, "sha256": f"{n:064x}", "accepted": True,
            "alttext": "A beagle", "alttext_problem": None, "reasons": "", "consistent": True,
        }
        for n in range(5)
    ]  # fmt: skip
    rows[0] |= changes
    return pd.DataFrame(rows, columns=list(SAMPLE_COLUMNS))


def failures(tmp_path, measures=GOOD, rows=None, drift=(), **config):
    rows = sample() if rows is None else rows
    settings = QualityConfig.model_validate(config)
    found = evaluate_expectations(measures, rows, drift, settings, datetime.now(UTC), tmp_path / "site")
    assert (tmp_path / "site" / "index.html").is_file()
    return [str(failure) for failure in found]


def test_a_valid_crawl_passes(tmp_path):
    assert failures(tmp_path) == []


def test_failures_are_in_the_order_of_the_gate(tmp_path):
    expected = limits(Gate())
    bad = {limit.measure: -1 if limit.minimum is not None else 2 for limit in expected}
    found = failures(tmp_path, replace(GOOD, **bad))
    assert found == [f"{limit.measure} is {bad[limit.measure]}, {limit}" for limit in expected]


def test_limits_are_inclusive(tmp_path):
    gate = {"min_accepted_rows": 6, "min_download_share": 0.8, "min_accepted_share": 0.6, "max_duplicate_share": 0.25}
    assert failures(tmp_path, gate=gate) == []


def test_invalid_values_in_the_sample_are_reported(tmp_path):
    bad = {
        "key": "00000.0001", "uid": f"{1:032x}", "url": None, "status": "done", "width": 0, "original_height": -1,
        "sha256": "zz", "alttext": "x" * 5001, "alttext_problem": "bad mood", "consistent": False,
    }  # fmt: skip
    found = failures(tmp_path, rows=sample(**bad))
    assert sorted(failure.split()[0] for failure in found) == sorted(bad)
    assert all(failure.endswith("(in the sample)") for failure in found)
    assert (
        "uid 2 of 5 rows violate `values to be unique`, e.g. '00000000000000000000000000000001' (in the sample)"
        in found
    )


def test_expectations_that_cannot_be_evaluated_fail(tmp_path):
    found = failures(tmp_path, rows=sample().drop(columns=["sha256"]))
    assert any(failure.startswith("sha256 could not be evaluated: ") for failure in found)
    assert any(failure.startswith("columns is ") for failure in found)
