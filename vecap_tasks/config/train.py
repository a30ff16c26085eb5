"""What the stages assemble and train need to know."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from vecap_tasks.config.mixture import Arm, MixtureConfig, ReadingConfig
from vecap_tasks.config.section import Runtime, Section


class AssembleConfig(Section):
    shard_size: int = Field(10_000, ge=1)
    licence: str = Field("unknown", description="Stated in the dataset card.")
    memory_limit: Annotated[str, Runtime] = "1GB"


PreprocessWay = Literal["usual", "veclip"]


class ClipConfig(Section):
    """The CLIP model and how long it is trained."""

    image_size: int = Field(224, ge=16)
    patch_size: int = Field(16, ge=1)
    vision_width: int = Field(768, ge=16)
    vision_layers: int = Field(12, ge=1)
    vision_heads: int = Field(12, ge=1)
    text_width: int = Field(512, ge=16)
    text_layers: int = Field(12, ge=1)
    text_heads: int = Field(8, ge=1)
    projection: int = Field(512, ge=8)
    context: int = Field(77, ge=8, description="Text tokens, the marks of begin and end among them.")
    tokenizer: Annotated[str, Runtime] = Field(
        description="Folder (or a hub's name) of the tokenizer; its files' digest enters the fingerprint."
    )
    lowercase: bool = True
    begin_token: bool = Field(
        True, description="A mark before each text, as CLIP has it. VeCLIP's released models have none."
    )
    preprocess: PreprocessWay = Field(
        "usual", description="usual: bicubic, as CLIP's; veclip: as VeCLIP's released models, without antialiasing."
    )


class TrainConfig(Section):
    """How CLIP is trained: the same for every arm. The optimiser's defaults are those of the neighbouring recipe."""

    arms: list[Arm] = Field(["alttext", "vec", "vecap", "mixed"], min_length=1)
    seeds: list[Annotated[int, Field(ge=0)]] = Field([0], min_length=1)
    mixed_p: float = Field(0.5, ge=0, le=1, description="Probability of AltText in the arm `mixed`; our choice.")
    mixture: Annotated[MixtureConfig | str | None, Runtime] = Field(
        None,
        description="The sources to train on, or the name of a recorded mixture; none: the version alone. What it "
        "holds enters the fingerprint by its digest.",
    )
    reading: ReadingConfig = ReadingConfig()
    model: ClipConfig
    epochs: int = Field(32, ge=1)
    batch_size: int = Field(1024, ge=2)
    learning_rate: float = Field(5e-4, gt=0)
    weight_decay: float = Field(0.2, ge=0)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.98, ge=0, lt=1)
    warmup_steps: int = Field(2000, ge=0)
    gradient_clip: float = Field(1.0, gt=0, description="Largest norm of a step's gradient.")
    crop_scale: float = Field(
        1.0, gt=0, le=1, description="Smallest share of the image that a random crop may take; 1 never crops."
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto: bfloat16 on a GPU.")
    threads: int = Field(1, ge=1, description="CPU threads of a run; part of the fingerprint, as rounding follows it.")
    checkpoint_steps: Annotated[int, Runtime] = Field(500, ge=1)
    device: Annotated[str, Runtime] = "auto"
    image_cache_bytes: Annotated[int, Runtime] = Field(
        4 << 30, ge=0, description="Decoded images are kept in memory up to this size, else decoded for each batch."
    )

    loader_threads: Annotated[int, Runtime] = Field(4, ge=1, description="Threads that read and decode images.")

    @field_validator("arms", "seeds")
    @classmethod
    def _once(cls, values: list[Any]) -> list[Any]:
        if len(set(values)) != len(values):
            raise ValueError("the same value stands twice; name each once")
        return values
