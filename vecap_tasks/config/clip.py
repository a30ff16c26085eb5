"""The CLIP model: its size by name or by numbers, its tokenizer, what it starts from."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from vecap_tasks.config.section import Runtime, Section

PreprocessWay = Literal["usual", "veclip"]
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
        "usual", description="usual: bicubic, as CLIP's; veclip: as VeCLIP's released models, without antialiasing."
    )
    start: Annotated[str | None, Runtime] = Field(
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
