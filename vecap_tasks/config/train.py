"""Settings of the stages assemble and train: model, mixture, reading, processes."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from vecap_tasks.config.section import Device, Runtime, Section

PreprocessWay = Literal["default", "veclip"]
Size = Literal["B/32", "B/16", "L/14", "H/14"]

_FIELDS = (
    "patch_size", "vision_width", "vision_layers", "vision_heads",
    "text_width", "text_layers", "text_heads", "projection",
)  # fmt: skip
# Of these names in CLIP (Radford et al., 2021, table 20), and of H/14 in open_clip's model configurations.
_SIZES: dict[Size, tuple[int, ...]] = {
    "B/32": (32, 768, 12, 12, 512, 12, 8, 512),
    "B/16": (16, 768, 12, 12, 512, 12, 8, 512),
    "L/14": (14, 1024, 24, 16, 768, 12, 12, 768),
    "H/14": (14, 1280, 32, 16, 1024, 24, 16, 1024),
}
Arm = Literal["alttext", "vec", "vecap", "mixed", "alttext_rewritten"]
Text = Literal["alttext", "vec", "vecap", "alttext_rewritten"]
_PLACE = re.compile(r"^(txt|json\.[^.]+(\.[^.]+)*)$")


class ClipConfig(Section):
    """The CLIP model. `size` goes before the numbers of the towers, whatever they say."""

    size: Annotated[Size | None, Runtime] = Field(
        None,
        description="ViT-B/32, B/16, L/14 or H/14, instead of all numbers here but image_size and context.",
    )
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
        "default", description="default: bicubic, as CLIP's; veclip: as VeCLIP's released models, without antialiasing."
    )
    init_from: Annotated[str | None, Runtime] = Field(
        None,
        description="Folder of a CLIPModel to start from, such as a released VeCLIP's; none: random weights. Its "
        "files' digest enters the fingerprint.",
    )

    @model_validator(mode="before")
    @classmethod
    def _sized(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("size") in _SIZES:
            return values | dict(zip(_FIELDS, _SIZES[values["size"]], strict=True))
        return values


class LaunchConfig(Section):
    """One process trains within the one that asks; several are started by torchrun."""

    processes: int = Field(1, ge=1, description="On each node; one a GPU.")
    nodes: int = Field(1, ge=1)
    rendezvous: str | None = Field(None, description="host:port of the first node, where there are several.")
    rendezvous_timeout: float = Field(900, gt=0, description="Seconds to wait for the other nodes.")
    shutdown_timeout: int = Field(
        120, ge=1, description="Seconds that processes have to save and leave, once told to end."
    )

    @model_validator(mode="after")
    def _meet(self) -> Self:
        if self.nodes > 1 and self.rendezvous is None:
            raise ValueError("several nodes need a rendezvous, such as gpu1.example.org:29400")
        return self

    @property
    def alone(self) -> bool:
        """Whether one process does it all."""
        return self.processes == 1 and self.nodes == 1


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
    num_readers: int = Field(
        32, ge=1, description="Shards that a batch is drawn from at once, where it is a multiple of it."
    )
    shuffle_buffer: int = Field(
        512, ge=1, description="Samples of a lane that are shuffled among each other, held in memory."
    )


class AssembleConfig(Section):
    shard_size: int = Field(10_000, ge=1)
    license: str = Field("unknown", description="Stated in the dataset card.")
    memory_limit: Annotated[str, Runtime] = "1GB"


class TrainConfig(Section):
    """How CLIP is trained: the same for every arm. The optimizer's defaults are those of the neighboring recipe."""

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
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="Of the products; bfloat16 is what a GPU is fast in. Weights are float32 in both."
    )
    threads: int = Field(1, ge=1, description="CPU threads of a run; part of the fingerprint, as rounding follows it.")
    micro_batch: int | None = Field(
        None,
        ge=1,
        description="Samples that go through a process's model at once; none: all of its part of a batch. The loss is "
        "over the whole batch all the same; part of the fingerprint, as rounding follows it.",
    )
    activation_checkpointing: Annotated[bool, Runtime] = Field(
        False,
        description="Compute activations again for the gradients rather than keep them: less memory, more time, and on "
        "the CPU the same weights to the bit.",
    )
    compile: bool = Field(
        False, description="Have torch.compile make the model's kernels; part of the fingerprint, as their rounding is."
    )
    deterministic: bool = Field(
        True, description="The same bytes from the same run on the same device; on a GPU it costs some speed."
    )
    checkpoint_steps: Annotated[int, Runtime] = Field(500, ge=1)
    checkpoints_kept: Annotated[int, Runtime] = Field(2, ge=1)
    launch: Annotated[LaunchConfig, Runtime] = Field(
        LaunchConfig(),
        description="Processes that train together. Several sum gradients in another order than one: low bits of the "
        "weights follow their number, which is no part of the fingerprint, so that any number takes a run up.",
    )
    device: Device = "cpu"
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
