"""What the stage quality needs to know: the thresholds of its rules and of the gate."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from vecap_tasks.config.section import Runtime, Section


class RowRules(Section):
    """Thresholds of the rules over single rows."""

    min_side: int = Field(32, ge=1, description="Pixels of the shorter side of the image as downloaded.")
    max_aspect: float = Field(4.0, ge=1)
    min_alttext_chars: int = Field(3, ge=0)
    max_alttext_chars: int = Field(1000, ge=1)
    max_same_alttext: int = Field(100, ge=1, description="Rows that may share one AltText before it is boilerplate.")
    require_alttext: bool = Field(
        False, description="Refuse rows without a usable AltText instead of keeping the image."
    )
    refuse_near_duplicates: bool = Field(
        False, description="Refuse all but one of the rows that `crawl.duplicates` finds to be nearly the same picture."
    )
    refuse_earlier_duplicates: bool = Field(
        False, description="Refuse rows whose picture, or nearly, `crawl.duplicates` finds in an earlier version."
    )
    languages: list[Annotated[str, Field(pattern="^[a-z]{2}$")]] = Field(
        default_factory=list,
        description="ISO 639-1 codes of the languages the LLM reads, told apart by script alone; empty takes all.",
    )


class Gate(Section):
    """Expectations over the whole crawl; one that fails stops the version."""

    min_accepted_rows: int = Field(1, ge=0)
    min_download_share: float = Field(0.1, ge=0, le=1)
    min_accepted_share: float = Field(0.1, ge=0, le=1)
    max_duplicate_share: float = Field(0.9, ge=0, le=1)


class QualityConfig(Section):
    rows: RowRules = RowRules()
    gate: Gate = Gate()
    sample_rows: int = Field(2_000, ge=1, description="Rows that Great Expectations is shown.")
    memory_limit: Annotated[str, Runtime] = "1GB"
