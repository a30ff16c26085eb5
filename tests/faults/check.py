"""Stands for `vecap_tasks.quality.expectations`, whose Great Expectations takes seconds for each report."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from vecap_tasks.quality.gate import Failure


def evaluate_expectations(
    measures: Any, sample: Any, drift: Any, config: Any, crawled: Any, site: Path
) -> list[Failure]:
    """Find no failure, and write a page with bytes of its own, as real pages have the time in them."""
    site.mkdir(parents=True)
    (site / "index.html").write_text(f"{uuid.uuid4()}: {measures.rows} rows")
    return []
