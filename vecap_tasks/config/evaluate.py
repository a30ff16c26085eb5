"""What the stage evaluate needs to know: the sets that models are measured on, ties, intervals, and the champion."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from vecap_tasks.config.section import Device, Runtime, Section

# The digest of a set covers what is read from it, so where its files lie changes nothing that is made.
_Place = Annotated[str, Runtime]
_Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", description="What its figures are called in tables.")]
Ties = Literal["pessimistic", "clip_benchmark", "open_clip"]


class _Captioned(Section):
    """Images with captions, for retrieval."""

    name: _Name
    captions_per_image: int | None = Field(
        None, ge=1, description="Take the first so many captions of each image; null takes all."
    )


class KarpathySet(_Captioned):
    """COCO, Flickr30k or Flickr8k with the splits of Karpathy and Fei-Fei: `dataset_coco.json` and its like."""

    kind: Literal["karpathy"]
    path: _Place = Field(description="The JSON file.")
    images: _Place = Field(description="The folder of the images; COCO's has `val2014` and `train2014` in it.")
    split: Literal["train", "restval", "val", "test"] = Field(
        "test", description="`train` is train and restval together, as it is trained on; each other is itself alone."
    )


class TokenSet(_Captioned):
    """Flickr8k and Flickr30k as they are published: a line a caption, `name.jpg#0`, a tab, the caption."""

    kind: Literal["tokens"]
    path: _Place = Field(description="The file of captions, such as `Flickr8k.token.txt`.")
    images: _Place
    split: Annotated[str | None, Runtime] = Field(
        None, description="A file of the image names that count, one a line, such as `Flickr_8k.testImages.txt`."
    )


class CaptionTable(_Captioned):
    """A table with a header, a row a caption; an image may stand in several rows."""

    kind: Literal["csv"]
    path: _Place
    images: _Place = Field(description="The folder that the names in the table start from.")
    image_column: str = "image"
    caption_column: str = "caption"
    separator: str = Field(",", min_length=1, max_length=1)
    quotes: bool = Field(
        True, description="false: a row is cut at the separators that its columns need, the rest is the last column."
    )


class CaptionTars(_Captioned):
    """webdataset tars: every sample an image and a `.txt` with a caption a line, as CLIP_benchmark exports them."""

    kind: Literal["webdataset"]
    paths: Annotated[list[str], Runtime] = Field(min_length=1, description="Files or globs, on this machine.")
    caption_key: str | None = Field(None, description="A key of the sample's `.json`, instead of its `.txt`.")


class _Classified(Section):
    """Images with one class each, for zero-shot classification."""

    name: _Name
    classes: _Place = Field(
        description="Names of the classes in the order of their numbers: one a line, a JSON list, or a JSON object of "
        "lists as CLIP_benchmark has it (`en_classnames.json`)."
    )
    templates: _Place = Field(
        description="Sentences with {} or {c} in the place of the name, in a file of the same three kinds."
    )
    key: str | None = Field(None, description="The list to take of a JSON object, such as `imagenet1k`.")


class ClassFolders(_Classified):
    """A folder for each class, as ImageNet's: in the order of their names, unless they are the classes' names."""

    kind: Literal["folders"]
    images: _Place


class ClassTable(_Classified):
    """A table with a header, a row an image, with the name or number of its class."""

    kind: Literal["csv"]
    path: _Place
    images: _Place
    image_column: str = "image"
    label_column: str = "label"
    separator: str = Field(",", min_length=1, max_length=1)


class ClassTars(_Classified):
    """webdataset tars: every sample an image and a `.cls` with the number of its class, from 0."""

    kind: Literal["webdataset"]
    paths: Annotated[list[str], Runtime] = Field(min_length=1, description="Files or globs, on this machine.")


RetrievalSource = Annotated[KarpathySet | TokenSet | CaptionTable | CaptionTars, Field(discriminator="kind")]
ZeroShotSource = Annotated[ClassFolders | ClassTable | ClassTars, Field(discriminator="kind")]


class BootstrapConfig(Section):
    """Intervals by bootstrap: what other images, and other seeds of training, would have given."""

    rounds: int = Field(1000, ge=100)
    confidence: float = Field(0.95, gt=0.5, lt=1)
    seed: int = Field(0, ge=0)


class ChampionConfig(Section):
    """When the alias `champion` of the registered model moves to a new model."""

    metric: str | None = Field(
        None, description="A key of `results.json`, such as `coco.text_to_image_1`; null takes the first."
    )
    approval: bool = Field(False, description="In Airflow, move it only after a person has approved.")


class EvaluateConfig(Section):
    """At least one set. `dataset` is one folder for both tasks, as the demo's; its figures have no name before them."""

    dataset: Annotated[str | None, Runtime] = Field(
        None,
        description="Folder with captions.csv, labels.csv, classes.txt, templates.txt and images; its digest "
        "enters the fingerprint.",
    )
    retrieval: list[RetrievalSource] = Field(default_factory=list)
    zero_shot: list[ZeroShotSource] = Field(default_factory=list)
    ties: Ties = Field(
        "pessimistic",
        description="How what is as similar as the right answer counts: against the model, or in the order in which "
        "the named tool happens to put it.",
    )
    bootstrap: BootstrapConfig = BootstrapConfig()
    champion: Annotated[ChampionConfig, Runtime] = ChampionConfig()
    batch_size: int = Field(
        128, ge=1, description="Rows per forward pass; part of the fingerprint, as rounding may follow it."
    )
    device: Device = "cpu"

    @model_validator(mode="after")
    def _measures(self) -> EvaluateConfig:
        if self.dataset is None and not self.retrieval and not self.zero_shot:
            raise ValueError("there is nothing to measure on; give `dataset`, `retrieval` or `zero_shot`")
        for task in (self.retrieval, self.zero_shot):
            names = [source.name for source in task]
            if len(set(names)) != len(names):
                raise ValueError("two sets of one task have the same name; name each differently")
        return self
