"""Settings of the stages assemble and train: model, mixture, data reading and processes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, ValidationInfo, field_validator, model_validator

from vecap_tasks.config.section import Device, Runtime, Section
from vecap_tasks.errors import did_you_mean

PreprocessWay = Literal["default", "veclip"]
Size = Literal["B/32", "B/16", "L/14", "H/14"]

_SIZE_FIELDS = (
    "patch_size", "vision_width", "vision_layers", "vision_heads",
    "text_width", "text_layers", "text_heads", "projection",
)  # fmt: skip
# From CLIP (Radford et al., 2021, table 20); H/14 from open_clip's model configurations.
_SIZES: dict[Size, tuple[int, ...]] = {
    "B/32": (32, 768, 12, 12, 512, 12, 8, 512),
    "B/16": (16, 768, 12, 12, 512, 12, 8, 512),
    "L/14": (14, 1024, 24, 16, 768, 12, 12, 768),
    "H/14": (14, 1280, 32, 16, 1024, 24, 16, 1024),
}
Text = Literal["alttext", "vec", "vecap", "alttext_rewritten"]
TEXTS: tuple[Text, ...] = get_args(Text)
Weights = Mapping[Text, float]  # of the texts of a sample, in the order in which they replace a missing one
_MIXED: Weights = {"alttext": 0.5, "vecap": 0.5}
_ARM = re.compile(r"[a-z][a-z0-9_]*")
_TEXT_FIELD = re.compile(r"^(txt|json\.[^.]+(\.[^.]+)*)$")


class ClipConfig(Section):
    """The CLIP model. `size` overrides the sizes of the towers."""

    size: Annotated[Size | None, Runtime] = Field(
        None,
        description="ViT-B/32, B/16, L/14 or H/14; overrides all sizes below except image_size and context.",
    )
    image_size: int = Field(224, ge=16, description="Image side in pixels.")
    patch_size: int = Field(16, ge=1, description="Patch side in pixels.")
    vision_width: int = Field(768, ge=16, description="Width of the image tower.")
    vision_layers: int = Field(12, ge=1, description="Layers of the image tower.")
    vision_heads: int = Field(12, ge=1, description="Attention heads of the image tower.")
    text_width: int = Field(512, ge=16, description="Width of the text tower.")
    text_layers: int = Field(12, ge=1, description="Layers of the text tower.")
    text_heads: int = Field(8, ge=1, description="Attention heads of the text tower.")
    projection: int = Field(512, ge=8, description="Dimension of the shared embedding.")
    context: int = Field(77, ge=8, description="Context length in tokens, including BOS/EOS.")
    tokenizer: Annotated[str, Runtime] = Field(
        description="Folder or Hugging Face Hub name of the tokenizer; the digest of its files enters the fingerprint."
    )
    lowercase: bool = Field(True, description="Lowercase all texts.")
    begin_token: bool = Field(
        True, description="Start each text with a BOS token, as CLIP does; the released VeCLIP models do not."
    )
    preprocess: PreprocessWay = Field(
        "default",
        description="default: bicubic, as CLIP; veclip: without antialiasing, as the released VeCLIP models.",
    )
    init_from: Annotated[str | None, Runtime] = Field(
        None,
        description="Folder of a pretrained CLIPModel, e.g. a released VeCLIP (default: random weights); the digest of "
        "its files enters the fingerprint.",
    )
    vision_init_from: Annotated[str | None, Runtime] = Field(
        None,
        description="Folder of a pretrained image tower: a model with a pooled output (CLIP, SigLIP, ViT, DINOv2), or "
        "a model with such a tower (LLaVA). Its sizes replace those above; the digest of its files enters the "
        "fingerprint.",
    )
    text_init_from: Annotated[str | None, Runtime] = Field(
        None,
        description="Folder of a pretrained text tower: a model with a pooled output, such as CLIP or BERT. "
        "`tokenizer` must be its tokenizer.",
    )
    vision_locked: bool = Field(
        False,
        description="Do not train the image tower, only its projection (LiT). Without crops, the outputs of the tower "
        "are computed once and kept in memory, except for data above reading.stream_above.",
    )
    text_locked: bool = Field(False, description="Do not train the text tower, only its projection.")

    @model_validator(mode="before")
    @classmethod
    def _expand_size(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("size") in _SIZES:
            return values | dict(zip(_SIZE_FIELDS, _SIZES[values["size"]], strict=True))
        return values

    @model_validator(mode="after")
    def _check_towers(self) -> Self:
        for side in ("vision", "text"):
            if self.init_from and getattr(self, f"{side}_init_from"):
                raise ValueError(f"init_from already has both towers; remove it or {side}_init_from")
            if getattr(self, f"{side}_locked") and not (self.init_from or getattr(self, f"{side}_init_from")):
                raise ValueError(f"{side}_locked needs a pretrained tower; set {side}_init_from or init_from")
        return self


class LaunchConfig(Section):
    """The training processes. A single process trains in the calling process; torchrun starts several."""

    processes: int = Field(1, ge=1, description="Processes per node; use one per GPU.")
    nodes: int = Field(1, ge=1, description="Number of machines.")
    rendezvous: str | None = Field(None, description="host:port of the first node; required for several nodes.")
    rendezvous_timeout: float = Field(900, gt=0, description="Seconds to wait for the other nodes.")
    shutdown_timeout: int = Field(
        120, ge=1, description="Seconds for processes to save a checkpoint and exit after SIGTERM."
    )

    @model_validator(mode="after")
    def _check_rendezvous(self) -> Self:
        if self.nodes > 1 and self.rendezvous is None:
            raise ValueError("several nodes need a rendezvous; set host:port, e.g. gpu1.example.org:29400")
        return self

    @property
    def single_process(self) -> bool:
        """Whether one process trains on its own."""
        return self.processes == 1 and self.nodes == 1


class _MixtureSource(Section):
    weight: float = Field(1.0, gt=0, description="Passes over the source per epoch, e.g. 0.5 for half of it.")
    arm: str | None = Field(
        None, description="Texts to use from the source: a text, or an arm of train.texts (default: the run's arm)."
    )


class VersionSource(_MixtureSource):
    """A published dataset version. `{version}` is the version to train on."""

    kind: Literal["version"]
    version: str = Field(description="Dataset version to train on.")
    dataset: str | None = Field(None, description="Name of its dataset (default: this configuration's dataset).")
    root: Annotated[str | None, Runtime] = Field(None, description="Its store (default: this configuration's root).")


class TarSource(_MixtureSource):
    """External webdataset tars: local paths or globs, or `file://`, `s3://`, `gs://` or `az://`."""

    kind: Literal["tars"]
    paths: Annotated[list[str], Runtime] = Field(min_length=1, description="Paths or globs of webdataset tars.")
    texts: dict[Text, str] = Field(
        {"alttext": "txt"},
        min_length=1,
        description="Field of each text: `txt`, or a key of the sample's .json such as `json.caption`. A list holds "
        "variants of one text.",
    )

    @field_validator("texts")
    @classmethod
    def _check_fields(cls, texts: dict[Text, str]) -> dict[Text, str]:
        for name in texts.values():
            if not _TEXT_FIELD.match(name):
                raise ValueError(f"{name} is not a valid text field; use txt or a key of the .json, e.g. json.caption")
        return texts


class MixtureConfig(Section):
    """A named mixture of sources. A recorded mixture is immutable. The name may contain `{version}`."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9](?:[A-Za-z0-9_.-]|\{version\})*$",
        description="Name of the mixture, in MLflow and on disk.",
    )
    sources: list[Annotated[VersionSource | TarSource, Field(discriminator="kind")]] = Field(min_length=1)


class ReadingConfig(Section):
    """The order in which samples are read. It determines the batches, so it does not depend on the machine."""

    stream_above: int = Field(
        2_000_000,
        ge=0,
        description="Stream data with more samples shard by shard; shuffle smaller data globally.",
    )
    num_readers: int = Field(
        32,
        ge=1,
        description="Streaming: shards that are read at once; reduced to the next divisor of the batch size.",
    )
    shuffle_buffer: int = Field(
        512, ge=1, description="Streaming: samples in the shuffle buffer of each reader, held in memory."
    )


class SubCaptionConfig(Section):
    """Training on a part of a caption, as in CLIPS (Liu et al., 2024)."""

    kind: Literal["sentence", "tokens"] = Field(
        "sentence", description="sentence: one sentence, drawn per epoch; tokens: the first `tokens` tokens."
    )
    tokens: int = Field(16, ge=1, description="For `kind: tokens`: tokens that are kept, without BOS and EOS.")
    probability: float = Field(1.0, gt=0, le=1, description="Share of the captions that are shortened.")
    texts: list[Text] = Field(["vec", "vecap"], min_length=1, description="Texts that are shortened.")


class AssembleConfig(Section):
    shard_size: int = Field(10_000, ge=1, description="Samples per training shard.")
    license: str = Field("unknown", description="License in the dataset card.")
    copy_images: Annotated[bool, Runtime] = Field(
        False,
        description="Copy the images into the shards of every version. Default: a revision that changes only texts "
        "refers to the image shards of the earlier version.",
    )
    memory_limit: Annotated[str, Runtime] = Field(
        "1GB", description="Memory limit of DuckDB; the rest spills to the work folder."
    )


def _weights(arm: str, texts: Mapping[str, Weights]) -> Weights:
    if arm in texts:
        return texts[arm]
    return _MIXED if arm == "mixed" else {text: 1.0 for text in TEXTS if text == arm}


def _check_arm(arm: str, texts: Mapping[str, Weights]) -> None:
    if not _weights(arm, texts):
        known = [*TEXTS, *({"mixed": None} | dict.fromkeys(texts))]
        hint = did_you_mean(arm, known) or f"; use one of {', '.join(known)}"
        raise ValueError(f"arm {arm} has no texts{hint}, or add it to train.texts")


class TrainConfig(Section):
    """CLIP training, the same for all arms."""

    texts: dict[str, dict[Text, Annotated[float, Field(ge=0, allow_inf_nan=False)]]] = Field(
        {},
        description="Arms with several texts and the weight of each, e.g. `mixed: {alttext: 0.4, vecap: 0.6}`. Each "
        "epoch draws one text of a sample; if it has no such text, the first one listed that it has. Default: "
        "`mixed: {alttext: 0.5, vecap: 0.5}` (our choice).",
    )
    arms: list[str] = Field(
        ["alttext", "vec", "vecap", "mixed"],
        min_length=1,
        description="Rules for choosing the text: a text, or a name in `texts`; one model is trained per arm and seed.",
    )
    seeds: list[Annotated[int, Field(ge=0)]] = Field([0], min_length=1, description="Random seeds.")
    captions_per_image: int = Field(
        1,
        ge=1,
        description="Captions of each image in a step. The loss is the mean over them, as in MobileCLIP-DR; they are "
        "of different texts as long as there are some.",
    )
    sub_captions: SubCaptionConfig | None = Field(None, description="Train on parts of captions (default: whole ones).")
    mixture: Annotated[MixtureConfig | str | None, Runtime] = Field(
        None,
        description="Sources to train on, or the name of a recorded mixture (default: only the version). Its digest "
        "enters the fingerprint.",
    )
    reading: ReadingConfig = ReadingConfig()
    model: ClipConfig
    loss: Literal["contrastive", "sigmoid"] = Field(
        "contrastive", description="contrastive: CLIP's InfoNCE; sigmoid: SigLIP's loss, with a bias."
    )
    epochs: int = Field(
        32, ge=1, description="Training length: all arms train for epochs x samples of the version / batch_size steps."
    )
    batch_size: int = Field(1024, ge=2, description="Samples per step, over all processes.")
    learning_rate: float = Field(5e-4, gt=0, description="Peak learning rate of AdamW.")
    weight_decay: float = Field(0.2, ge=0, description="Weight decay of AdamW.")
    beta1: float = Field(0.9, ge=0, lt=1, description="Beta 1 of AdamW.")
    beta2: float = Field(0.98, ge=0, lt=1, description="Beta 2 of AdamW.")
    warmup_steps: int = Field(2000, ge=0, description="Steps of linear warm-up, followed by cosine decay.")
    gradient_clip: float = Field(1.0, gt=0, description="Maximum gradient norm.")
    ema_decay: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Publish an exponential moving average of the weights with this decay per step, e.g. 0.999 "
        "(default: the last weights).",
    )
    crop_scale: float = Field(
        1.0, gt=0, le=1, description="Minimum area fraction of random crops; 1 disables cropping."
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="Precision of matrix products; bfloat16 is fast on GPUs. Weights are always float32."
    )
    threads: int = Field(
        1, ge=1, description="CPU threads of a run; part of the fingerprint because it affects rounding."
    )
    micro_batch: int | None = Field(
        None,
        ge=1,
        description="Samples per forward pass and process (default: the process's share of the batch). The loss is "
        "still over the global batch. Part of the fingerprint because it affects rounding.",
    )
    activation_checkpointing: Annotated[bool, Runtime] = Field(
        False,
        description="Recompute activations in the backward pass: less memory, more time. Weights stay identical on "
        "the CPU.",
    )
    compile: bool = Field(False, description="Use torch.compile; part of the fingerprint because it affects rounding.")
    deterministic: bool = Field(
        True, description="Produce identical bytes when a run is repeated on the same device; slower on a GPU."
    )
    checkpoint_steps: Annotated[int, Runtime] = Field(500, ge=1, description="Steps between checkpoints.")
    checkpoints_kept: Annotated[int, Runtime] = Field(2, ge=1, description="Checkpoints to keep.")
    launch: Annotated[LaunchConfig, Runtime] = Field(
        LaunchConfig(),
        description="Training processes. Their number changes the order in which gradients are summed, and so the low "
        "bits of weights. It is not part of the fingerprint, so any number of processes can resume a run.",
    )
    device: Device = "cpu"
    image_cache_bytes: Annotated[int, Runtime] = Field(
        4 << 30,
        ge=0,
        description="Cache all decoded images in memory if they fit into this size; otherwise decode for each batch.",
    )
    loader_threads: Annotated[int, Runtime] = Field(4, ge=1, description="Threads that read and decode images.")

    @field_validator("arms", "seeds")
    @classmethod
    def _check_unique(cls, values: list[Any]) -> list[Any]:
        if len(set(values)) != len(values):
            raise ValueError("duplicate value; list each value once")
        return values

    @field_validator("texts")
    @classmethod
    def _check_texts(cls, texts: dict[str, dict[Text, float]]) -> dict[str, dict[Text, float]]:
        for arm, weights in texts.items():
            if not _ARM.fullmatch(arm) or arm in TEXTS:
                raise ValueError(f"{arm} is not a valid name of an arm; use lower-case letters, digits and _")
            if not any(weights.values()):
                raise ValueError(f"{arm} has no text with a weight above 0")
        return texts

    @field_validator("arms")
    @classmethod
    def _check_arms(cls, arms: list[str], info: ValidationInfo) -> list[str]:
        for arm in arms:
            _check_arm(arm, info.data.get("texts", {}))
        return arms

    @model_validator(mode="after")
    def _check_sources(self) -> Self:
        for source in self.mixture.sources if isinstance(self.mixture, MixtureConfig) else []:
            if source.arm is not None:
                _check_arm(source.arm, self.texts)
        return self

    @model_validator(mode="before")
    @classmethod
    def _explain_mixed_p(cls, values: Any) -> Any:
        if isinstance(values, dict) and "mixed_p" in values:
            raise ValueError("mixed_p was replaced by texts; set e.g. `texts: {mixed: {alttext: 0.5, vecap: 0.5}}`")
        return values

    def weights(self, arm: str) -> Weights:
        """Return the texts of *arm* and their weights, in the order of fallbacks; empty for an unknown arm."""
        return _weights(arm, self.texts)

    def identity(self) -> dict[str, Any]:
        """Return the fields that decide the models, with the texts of the arms in order and without unused ones."""
        texts = {arm: [[text, weight] for text, weight in self.weights(arm).items()] for arm in self.arms}
        return super().identity() | {"texts": texts}
