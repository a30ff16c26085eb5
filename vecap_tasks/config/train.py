"""What the stages assemble and train need to know."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from vecap_tasks.config.clip import ClipConfig
from vecap_tasks.config.launch import LaunchConfig
from vecap_tasks.config.mixture import Arm, MixtureConfig, ReadingConfig
from vecap_tasks.config.section import Runtime, Section


class AssembleConfig(Section):
    shard_size: int = Field(10_000, ge=1)
    licence: str = Field("unknown", description="Stated in the dataset card.")
    memory_limit: Annotated[str, Runtime] = "1GB"


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
    loss: Literal["contrastive", "sigmoid"] = Field(
        "contrastive", description="InfoNCE as CLIP's, or SigLIP's sigmoid loss with a bias."
    )
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
    micro_batch: Annotated[int | None, Runtime] = Field(
        None,
        ge=1,
        description="Samples that go through a process's model at once; none: all of its part of a batch. The loss is "
        "over the whole batch all the same.",
    )
    recompute: Annotated[bool, Runtime] = Field(
        False, description="Compute activations again for the gradients rather than keep them: less memory, more time."
    )
    compile: Annotated[bool, Runtime] = Field(False, description="Have torch.compile make kernels of the model.")
    deterministic: Annotated[bool, Runtime] = Field(
        True, description="The same bytes from the same run on the same device; on a GPU it costs some speed."
    )
    checkpoint_steps: Annotated[int, Runtime] = Field(500, ge=1)
    checkpoints_kept: Annotated[int, Runtime] = Field(2, ge=1)
    launch: Annotated[LaunchConfig, Runtime] = LaunchConfig()
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
