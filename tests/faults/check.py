"""Replaces `vecap_tasks.quality.expectations`, because Great Expectations takes seconds per report."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from vecap_tasks.quality.gate import Failure


def evaluate_expectations(
    measures: Any, sample: Any, drift: Any, config: Any, crawled: Any, site: Path
) -> list[Failure]:
    """Return no failures, and write a page with unique bytes, like real pages with a timestamp."""
    site.mkdir(parents=True)
    (site / "index.html").write_text(f"{uuid.uuid4()}: {measures.rows} rows")
    return []
