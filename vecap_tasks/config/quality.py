"""Settings of the stage `quality`: thresholds of the row rules, the quality gate and drift."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from vecap_tasks.config.section import Device, Runtime, Section

Level = Literal["warn", "stop"]
Share = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(gt=0, le=1)]


class ScoreLimits(Section):
    """Limits of a score. Rows without the score are rejected unless `keep_missing` is set."""

    min: float | None = Field(None, description="Reject rows with a lower score.")
    max: float | None = Field(None, description="Reject rows with a higher score.")
    top_fraction: Fraction | None = Field(
        None, description="Fraction of scored downloads to keep, highest scores first; ties are kept together."
    )
    keep_missing: bool = Field(False, description="Keep rows without this score.")

    @model_validator(mode="after")
    def _check_limits(self) -> Self:
        if self.min is None and self.max is None and self.top_fraction is None:
            raise ValueError("a score needs a limit; set min, max or top_fraction")
        return self


class ClipScore(Section):
    """CLIP similarity of image and AltText, and of images. Without a limit, rows are scored but not rejected."""

    model: str = Field(description="Folder of a transformers CLIPModel with its tokenizer and image processor.")
    min_similarity: float | None = Field(None, ge=-1, le=1, description="Minimum cosine similarity.")
    top_fraction: Fraction | None = Field(
        None, description="Keep only this fraction of the rows, the most similar ones."
    )
    duplicate_similarity: Fraction | None = Field(
        None,
        description="Reject a row whose image has at least this cosine similarity with the image of a retained row of "
        "the crawl: a semantic duplicate. Pairs in different clusters of embeddings are not found.",
    )
    batch_size: int = Field(64, ge=1, description="Rows per forward pass; can affect rounding.")
    device: Device = "cpu"
    threads: int = Field(
        1, ge=1, description="CPU threads per worker; can affect rounding, so part of the fingerprint."
    )

    def identity(self) -> dict[str, Any]:
        """Leave out `duplicate_similarity` if it is not used, so that earlier versions keep their names."""
        identity = super().identity()
        if self.duplicate_similarity is None:
            del identity["duplicate_similarity"]
        return identity


class RowRules(Section):
    """Thresholds of the row rules."""

    min_side: int = Field(32, ge=1, description="Minimum shorter side in pixels, of the image as downloaded.")
    max_aspect: float = Field(
        6.0,
        ge=1,
        description="Maximum ratio of the longer to the shorter side. 6 keeps panoramas, not 8:1 banners.",
    )
    reject_flat: bool = Field(True, description="Reject images of a nearly uniform color.")
    max_alttexts_per_image: int = Field(
        25, ge=1, description="Maximum number of different AltTexts of one image; above it is a placeholder."
    )
    min_alttext_chars: int = Field(3, ge=0, description="Minimum length of a usable AltText in characters.")
    max_alttext_chars: int = Field(
        5000,
        ge=1,
        description="Maximum length of a usable AltText in characters. Textbook descriptions are long.",
    )
    max_same_alttext: int = Field(
        100, ge=1, description="Maximum number of rows with the same AltText; above it is boilerplate."
    )
    require_alttext: bool = Field(
        False, description="Reject rows without a usable AltText instead of keeping the image."
    )
    reject_near_duplicates: bool = Field(
        False, description="Keep one row of each set of near-duplicates that `crawl.duplicates` finds."
    )
    reject_earlier_duplicates: bool = Field(
        False, description="Reject duplicates and near-duplicates of earlier versions that `crawl.duplicates` finds."
    )
    languages: list[Annotated[str, Field(pattern="^[a-z]{2}$")]] = Field(
        default_factory=list,
        description="ISO 639-1 codes of accepted languages, distinguished only by script; empty accepts all.",
    )
    scores: dict[Annotated[str, Field(pattern="^[A-Za-z0-9_]+$")], ScoreLimits] = Field(
        default_factory=dict, description="Limits of scores that the source provides, by name."
    )
    max_host_rows: int | None = Field(None, ge=1, description="Maximum number of accepted rows per host.")
    max_host_share: Fraction | None = Field(
        None, description="Maximum share of a host in the rows that pass all other rules; at least one row is kept."
    )


class Bound(Section):
    """Limits at which an expectation warns or stops the version. A plain number sets `stop`."""

    warn: float | None = Field(None, description="Warn beyond this value.")
    stop: float | None = Field(None, description="Fail the quality gate beyond this value.")

    @model_validator(mode="before")
    @classmethod
    def _parse_number(cls, value: Any) -> Any:
        return {"stop": value} if isinstance(value, int | float) and not isinstance(value, bool) else value


class ShareBound(Bound):
    warn: Share | None = Field(None, description="Warn beyond this share.")
    stop: Share | None = Field(None, description="Fail the quality gate beyond this share.")


class CountBound(Bound):
    warn: Annotated[int, Field(ge=0)] | None = Field(None, description="Warn beyond this count.")
    stop: Annotated[int, Field(ge=0)] | None = Field(None, description="Fail the quality gate beyond this count.")


class ChangeBound(Bound):
    warn: Annotated[float, Field(ge=0)] | None = Field(None, description="Warn if the drift exceeds this value.")
    stop: Annotated[float, Field(ge=0)] | None = Field(
        None, description="Fail the quality gate if the drift exceeds this value."
    )


class Gate(Section):
    """Expectations on the whole crawl; a failure warns or stops the version."""

    min_accepted_rows: CountBound = CountBound(stop=1)
    min_download_share: ShareBound = ShareBound(stop=0.1)
    min_accepted_share: ShareBound = ShareBound(stop=0.1)
    max_duplicate_share: ShareBound = ShareBound(stop=0.9)
    min_alttext_share: ShareBound = ShareBound()
    max_host_share: ShareBound = ShareBound()
    columns: Level = Field("stop", description="Level of schema checks on the sample.")
    completeness: Level = Field("stop", description="Level of completeness checks.")
    uniqueness: Level = Field("stop", description="Level of uniqueness checks on key and uid.")
    ranges: Level = Field("stop", description="Level of format and range checks on the sample.")


class Drift(Section):
    """Limits on the drift of a crawl from the published versions of earlier intervals. Does not affect data.

    Distributions use the Jensen-Shannon distance to the pooled versions, from 0 (identical) to 1 (disjoint). Shares use
    the relative change.
    """

    versions: int = Field(7, ge=0, description="Number of latest versions to compare with; 0 disables drift checks.")
    hosts: ShareBound = ShareBound(warn=0.5)
    languages: ShareBound = ShareBound(warn=0.3)
    alttext_chars: ShareBound = ShareBound(warn=0.3)
    sides: ShareBound = ShareBound(warn=0.3)
    download_share: ChangeBound = ChangeBound(warn=0.5)
    duplicate_share: ChangeBound = ChangeBound(warn=1.0)
    accepted_share: ChangeBound = ChangeBound(warn=0.5)


class QualityConfig(Section):
    rows: RowRules = RowRules()
    clip: ClipScore | None = Field(None, description="Score the similarity of image and AltText with a CLIP model.")
    gate: Gate = Gate()
    drift: Annotated[Drift, Runtime] = Drift()
    sample_rows: int = Field(2_000, ge=1, description="Rows in the sample for Great Expectations.")
    memory_limit: Annotated[str, Runtime] = Field(
        "1GB", description="Memory limit of DuckDB; the rest spills to the work folder."
    )
