"""What the stage quality needs to know: the thresholds of its rules, of the gate and of drift."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from vecap_tasks.config.section import Device, Runtime, Section

Level = Literal["warn", "stop"]
Share = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(gt=0, le=1)]


class ScoreLimits(Section):
    """Which values of a score may go on; a row without the score is refused unless it is kept by `keep_missing`."""

    min: float | None = None
    max: float | None = None
    top_fraction: Fraction | None = Field(
        None, description="Share of the downloaded rows with the score, the highest first; ties stay together."
    )
    keep_missing: bool = False

    @model_validator(mode="after")
    def _asks(self) -> Self:
        if self.min is None and self.max is None and self.top_fraction is None:
            raise ValueError("a score without a limit filters nothing; give min, max or top_fraction")
        return self


class ClipScore(Section):
    """A CLIP model that says how well image and AltText agree; both limits may be given, or none to score alone."""

    model: str = Field(description="Folder of a transformers CLIPModel with its tokenizer and preprocessing.")
    min_similarity: float | None = Field(None, ge=-1, le=1, description="Cosine of the two features.")
    top_fraction: Fraction | None = None
    batch_size: int = Field(64, ge=1, description="Rows per forward pass; rounding may follow it.")
    device: Device = "cpu"
    threads: int = Field(
        1, ge=1, description="CPU threads per worker; part of the fingerprint, as rounding follows them."
    )


class RowRules(Section):
    """Thresholds of the rules over single rows."""

    min_side: int = Field(32, ge=1, description="Pixels of the shorter side of the image as downloaded.")
    max_aspect: float = Field(4.0, ge=1)
    reject_flat: bool = Field(True, description="Refuse pictures of one color, or nearly so.")
    max_alttexts_per_image: int = Field(
        25, ge=1, description="Different AltTexts that one picture may have before it is a placeholder."
    )
    min_alttext_chars: int = Field(3, ge=0)
    max_alttext_chars: int = Field(1000, ge=1)
    max_same_alttext: int = Field(100, ge=1, description="Rows that may share one AltText before it is boilerplate.")
    require_alttext: bool = Field(
        False, description="Refuse rows without a usable AltText instead of keeping the image."
    )
    reject_near_duplicates: bool = Field(
        False, description="Refuse all but one of the rows that `crawl.duplicates` finds to be nearly the same picture."
    )
    reject_earlier_duplicates: bool = Field(
        False, description="Refuse rows whose picture, or nearly, `crawl.duplicates` finds in an earlier version."
    )
    languages: list[Annotated[str, Field(pattern="^[a-z]{2}$")]] = Field(
        default_factory=list,
        description="ISO 639-1 codes of the languages the LLM reads, told apart by script alone; empty takes all.",
    )
    scores: dict[Annotated[str, Field(pattern="^[A-Za-z0-9_]+$")], ScoreLimits] = Field(
        default_factory=dict, description="Limits of the numbers that the source gives with a row, by their names."
    )
    max_host_rows: int | None = Field(None, ge=1, description="Rows of one host that may go on.")
    max_host_share: Fraction | None = Field(
        None, description="The same as a share of the rows that no other rule refuses; at least one row goes on."
    )


class Bound(Section):
    """Where an expectation warns, and where it stops the version. A plain number stands for `stop`."""

    warn: float | None = None
    stop: float | None = None

    @model_validator(mode="before")
    @classmethod
    def _number(cls, given: Any) -> Any:
        return {"stop": given} if isinstance(given, int | float) and not isinstance(given, bool) else given


class ShareBound(Bound):
    warn: Share | None = None
    stop: Share | None = None


class CountBound(Bound):
    warn: Annotated[int, Field(ge=0)] | None = None
    stop: Annotated[int, Field(ge=0)] | None = None


class ChangeBound(Bound):
    warn: Annotated[float, Field(ge=0)] | None = None
    stop: Annotated[float, Field(ge=0)] | None = None


class Gate(Section):
    """Expectations over the whole crawl; one that fails warns, or stops the version."""

    min_accepted_rows: CountBound = CountBound(stop=1)
    min_download_share: ShareBound = ShareBound(stop=0.1)
    min_accepted_share: ShareBound = ShareBound(stop=0.1)
    max_duplicate_share: ShareBound = ShareBound(stop=0.9)
    min_alttext_share: ShareBound = ShareBound()
    max_host_share: ShareBound = ShareBound()
    columns: Level = Field("stop", description="The sample has the columns that it is to have.")
    completeness: Level = Field("stop", description="What every row must have, it has.")
    uniqueness: Level = Field("stop", description="No key and no uid stands twice.")
    ranges: Level = Field("stop", description="Values of the sample are of their kind and within their limits.")


class Drift(Section):
    """How far a crawl may be from the published versions of earlier intervals. It changes no byte of a version.

    Distributions: the Jensen-Shannon distance to all of them together, from 0 (the same) to 1 (nothing in common).
    Shares: the change as a part of what it was.
    """

    versions: int = Field(7, ge=0, description="The latest so many are compared with; 0 compares with none.")
    hosts: ShareBound = ShareBound(warn=0.5)
    languages: ShareBound = ShareBound(warn=0.3)
    alttext_chars: ShareBound = ShareBound(warn=0.3)
    sides: ShareBound = ShareBound(warn=0.3)
    download_share: ChangeBound = ChangeBound(warn=0.5)
    duplicate_share: ChangeBound = ChangeBound(warn=1.0)
    accepted_share: ChangeBound = ChangeBound(warn=0.5)


class QualityConfig(Section):
    rows: RowRules = RowRules()
    clip: ClipScore | None = None
    gate: Gate = Gate()
    drift: Annotated[Drift, Runtime] = Drift()
    sample_rows: int = Field(2_000, ge=1, description="Rows that Great Expectations is shown.")
    memory_limit: Annotated[str, Runtime] = "1GB"
