"""What CLIP is trained on: the arms, mixtures of several sources, and how they are read."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from vecap_tasks.config.section import Runtime, Section

Arm = Literal["alttext", "vec", "vecap", "mixed", "alttext_rewritten"]
Text = Literal["alttext", "vec", "vecap", "alttext_rewritten"]
_PLACE = re.compile(r"^(txt|json\.[^.]+(\.[^.]+)*)$")


class _MixtureSource(Section):
    weight: float = Field(1.0, gt=0, description="How often an epoch passes over the source: 0.5 half of it, 2 twice.")
    arm: Arm | None = Field(None, description="The text that is taken of its samples; none: that of the run's arm.")
    mixed_p: float | None = Field(None, ge=0, le=1, description="Of its arm `mixed`; none: train.mixed_p.")


class VersionSource(_MixtureSource):
    """A published version of a dataset. `{version}` is the one that is trained on."""

    kind: Literal["version"]
    version: str
    dataset: str | None = Field(None, description="None: the configuration's own.")
    root: Annotated[str | None, Runtime] = Field(None, description="Where it lies; none: the configuration's root.")


class TarSource(_MixtureSource):
    """Webdataset tars of anyone: paths or globs of this machine, `file://` or `s3://`."""

    kind: Literal["tars"]
    paths: Annotated[list[str], Runtime] = Field(min_length=1)
    texts: dict[Text, str] = Field(
        {"alttext": "txt"},
        min_length=1,
        description="Where a sample has each text: `txt`, or a key of its .json as `json.caption`; a list there is "
        "one text in several variants.",
    )

    @field_validator("texts")
    @classmethod
    def _places(cls, texts: dict[Text, str]) -> dict[Text, str]:
        for place in texts.values():
            if not _PLACE.match(place):
                raise ValueError(f"a text stands in txt or in a key of the .json, such as json.caption, not in {place}")
        return texts


class MixtureConfig(Section):
    """A recipe by name. Under one name there is one recipe for good; `{version}` may stand in the name."""

    name: str = Field(pattern=r"^[A-Za-z0-9](?:[A-Za-z0-9_.-]|\{version\})*$")
    sources: list[Annotated[VersionSource | TarSource, Field(discriminator="kind")]] = Field(min_length=1)


class ReadingConfig(Section):
    """In which order samples are read. All of it decides the batches, so none of it follows the machine."""

    stream_above: int = Field(
        2_000_000,
        ge=0,
        description="Sets with more samples are read shard by shard in lanes; smaller ones are shuffled as a whole.",
    )
    lanes: int = Field(32, ge=1, description="Shards that a batch is drawn from at once, where it is a multiple of it.")
    window: int = Field(512, ge=1, description="Samples of a lane that are shuffled among each other, held in memory.")
