"""Settings of `vecap tune`: which captions and shares of AltText are compared, and with how much training."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator

from vecap_tasks.config.section import Section
from vecap_tasks.config.train import Text


class TuneConfig(Section):
    """Small trainings that compare captions and shares of AltText. Does not change outputs of the stages."""

    alttext_shares: list[Annotated[float, Field(ge=0, le=1)]] = Field(
        [0, 0.25, 0.5, 0.75, 1], min_length=2, description="Shares of AltText in the training texts to compare."
    )
    captions: list[Text] = Field(
        ["vecap"], min_length=1, description="Captions to mix with AltText, e.g. `[vecap, vec]`."
    )
    seeds: list[Annotated[int, Field(ge=0)]] = Field([0, 1, 2], min_length=1, description="Seeds of each mix.")
    budget: float = Field(
        1.0, gt=0, description="Hours of one device (of this machine on the CPU) for all trainings together."
    )
    train: dict[str, Any] = Field(
        {},
        description="Settings of `train` for these trainings, such as a smaller model: `{model: {size: B/32}}`. Their "
        "`epochs` are the most that are trained; the budget may allow fewer.",
    )

    @field_validator("captions")
    @classmethod
    def _check_captions(cls, captions: list[Text]) -> list[Text]:
        if "alttext" in captions:
            raise ValueError("alttext is mixed with each of the captions; remove it")
        return captions

    @field_validator("train")
    @classmethod
    def _check_train(cls, train: dict[str, Any]) -> dict[str, Any]:
        if fixed := {"arms", "texts", "seeds"} & train.keys():
            raise ValueError(f"tune sets {min(fixed)} of its trainings; remove it from tune.train")
        return train
