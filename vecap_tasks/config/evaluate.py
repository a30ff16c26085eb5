"""Settings of the stage `evaluate`: evaluation sets, tie handling, confidence intervals and the champion."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from vecap_tasks.config.section import Device, Runtime, Section

# A set's digest covers its contents, so paths are not part of the fingerprint.
_Path = Annotated[str, Runtime]
_Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", description="Name of the set in tables and metrics.")]
Ties = Literal["pessimistic", "clip_benchmark", "open_clip"]


class _Captioned(Section):
    """Images with captions, for retrieval."""

    name: _Name
    captions_per_image: int | None = Field(
        None, ge=1, description="Number of captions to use per image, the first ones; null uses all."
    )


class KarpathySet(_Captioned):
    """COCO, Flickr30k or Flickr8k with the Karpathy splits, such as `dataset_coco.json`."""

    kind: Literal["karpathy"]
    path: _Path = Field(description="The JSON file.")
    images: _Path = Field(description="Image folder; for COCO, the parent of `val2014` and `train2014`.")
    split: Literal["train", "restval", "val", "test"] = Field(
        "test", description="Split to use; `train` includes restval."
    )


class TokenSet(_Captioned):
    """Flickr8k and Flickr30k as published: one caption per line, as `name.jpg#0`, a tab and the caption."""

    kind: Literal["tokens"]
    path: _Path = Field(description="Caption file, such as `Flickr8k.token.txt`.")
    images: _Path = Field(description="Folder of the images.")
    split: Annotated[str | None, Runtime] = Field(
        None, description="File with the image names to use, one per line, such as `Flickr_8k.testImages.txt`."
    )


class CaptionTable(_Captioned):
    """A table with a header and one row per caption; an image can occur in several rows."""

    kind: Literal["csv"]
    path: _Path = Field(description="The table.")
    images: _Path = Field(description="Folder that the image names are relative to.")
    image_column: str = Field("image", description="Column with the image name.")
    caption_column: str = Field("caption", description="Column with the caption.")
    separator: str = Field(",", min_length=1, max_length=1, description="Column separator.")
    quotes: bool = Field(
        True, description="Parse quotation marks. If false, they are text and the last column includes separators."
    )


class CaptionTars(_Captioned):
    """CLIP_benchmark webdataset tars: each sample has an image and a `.txt` with one caption per line."""

    kind: Literal["webdataset"]
    paths: Annotated[list[str], Runtime] = Field(min_length=1, description="Local files or globs.")
    caption_key: str | None = Field(None, description="Key of the captions in the sample's `.json`; null uses `.txt`.")


class _Classified(Section):
    """Images with one class each, for zero-shot classification."""

    name: _Name
    classes: _Path = Field(
        description="Class names in the order of their indices: one per line, a JSON list, or a JSON object of "
        "lists as in CLIP_benchmark (`en_classnames.json`)."
    )
    templates: _Path = Field(
        description="Prompt templates with {} or {c} for the class name, in one of the same three formats."
    )
    key: str | None = Field(None, description="Key of the list in a JSON object, such as `imagenet1k`.")


class ClassFolders(_Classified):
    """One folder per class, as ImageNet: named as the classes, or sorted in the order of the classes."""

    kind: Literal["folders"]
    images: _Path = Field(description="Folder with one subfolder per class.")


class ClassTable(_Classified):
    """A table with a header and one row per image, with the name or index of its class."""

    kind: Literal["csv"]
    path: _Path = Field(description="The table.")
    images: _Path = Field(description="Folder of the images.")
    image_column: str = Field("image", description="Column with the image name.")
    label_column: str = Field("label", description="Column with the class.")
    separator: str = Field(",", min_length=1, max_length=1, description="Column separator.")


class ClassTars(_Classified):
    """webdataset tars: each sample has an image and a `.cls` with the index of its class, from 0."""

    kind: Literal["webdataset"]
    paths: Annotated[list[str], Runtime] = Field(min_length=1, description="Local files or globs.")


RetrievalSource = Annotated[KarpathySet | TokenSet | CaptionTable | CaptionTars, Field(discriminator="kind")]
ZeroShotSource = Annotated[ClassFolders | ClassTable | ClassTars, Field(discriminator="kind")]


class BootstrapConfig(Section):
    """Confidence intervals by bootstrap over images and training seeds."""

    rounds: int = Field(1000, ge=100, description="Bootstrap resamples.")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Confidence of the intervals.")
    seed: int = Field(0, ge=0, description="Random seed.")


class ChampionConfig(Section):
    """Promotion of a new model to the alias `champion` of the registered model."""

    metric: str | None = Field(
        None,
        description="Metric key in `results.json`, such as `coco.text_to_image_1`. Default: the mean recall@1 of both "
        "directions on the first retrieval set, or the first metric if there is no such set.",
    )
    approval: bool = Field(False, description="In Airflow, require approval before promotion.")


class EvaluateConfig(Section):
    """Evaluation sets (at least one). `dataset` is one folder for both tasks; its metrics have no name prefix."""

    dataset: Annotated[str | None, Runtime] = Field(
        None,
        description="Folder with captions.csv, labels.csv, classes.txt, templates.txt and images; its digest is part "
        "of the fingerprint.",
    )
    retrieval: list[RetrievalSource] = Field(default_factory=list)
    zero_shot: list[ZeroShotSource] = Field(default_factory=list)
    ties: Ties = Field(
        "pessimistic",
        description="Handling of ties with the correct answer: `pessimistic` ranks it last; the others follow the "
        "named tool.",
    )
    bootstrap: BootstrapConfig = BootstrapConfig()
    champion: Annotated[ChampionConfig, Runtime] = ChampionConfig()
    batch_size: int = Field(
        128, ge=1, description="Rows per forward pass; can affect rounding, so part of the fingerprint."
    )
    device: Device = "cpu"

    @model_validator(mode="after")
    def _check_sets(self) -> EvaluateConfig:
        if self.dataset is None and not self.retrieval and not self.zero_shot:
            raise ValueError("no evaluation set; set `dataset`, `retrieval` or `zero_shot`")
        for task in (self.retrieval, self.zero_shot):
            names = [source.name for source in task]
            if len(set(names)) != len(names):
                raise ValueError("two sets of one task have the same name; use unique names")
        return self
