"""Settings of the stage `evaluate`: evaluation sets, tie handling, confidence intervals and the champion."""

from __future__ import annotations

from collections.abc import Sequence
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


class CaptionLines(_Captioned):
    """A JSON Lines file with one image per line, such as DOCCI, IIW-400 or Crossmodal-3600 (XM3600)."""

    kind: Literal["jsonl"]
    path: _Path = Field(description="The JSON Lines file.")
    images: _Path = Field(description="Folder that the image names are relative to.")
    image_key: str = Field("image", description="Key of the image name, such as `image_file` or `image/key`.")
    caption_key: str = Field(
        "caption", description="Key of the caption or list of captions; `.` leads into an object: `en.caption`."
    )
    image_suffix: str = Field("", description="Appended to each image name that has none, such as `.jpg`.")
    where: dict[str, str] = Field({}, description="Use only lines with these values, such as `{split: test}`.")


class CaptionFiles(_Captioned):
    """Images, and a text file with the caption of each image under the same name, such as Urban1k."""

    kind: Literal["files"]
    images: _Path = Field(description="Folder of the images.")
    captions: _Path = Field(description="Folder of the `.txt` files; the first line of each is the caption.")


class _Labeled(Section):
    """Images with one class each."""

    name: _Name


class _Classified(_Labeled):
    """Images with one class each, for zero-shot classification."""

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
    folders: Annotated[str | None, Runtime] = Field(
        None,
        description="File with the folder names in the order of `classes`, such as the 1,000 WordNet IDs of ImageNet. "
        "Images may then have folders of only some classes, which the others are not compared with: ImageNet-A and -R.",
    )


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


class _Choices(Section):
    """Images with several captions each, one of which is right."""

    name: _Name
    images: _Path = Field(description="Folder that the image names are relative to.")


class SugarCrepe(_Choices):
    """SugarCrepe (Hsieh et al., 2023): a caption of an image in COCO's `val2017` and a hard negative."""

    kind: Literal["sugarcrepe"]
    path: _Path = Field(description="Folder with `add_att.json`, …, or one of these files. Groups are the files.")


class Aro(_Choices):
    """ARO (Yuksekgonul et al., 2023), VG-Relation and VG-Attribution: regions of Visual Genome's images."""

    kind: Literal["aro"]
    path: _Path = Field(description="`visual_genome_relation.json` or `visual_genome_attribution.json`.")
    all_groups: bool = Field(
        False,
        description="Keep symmetric relations, and pairs of attributes with fewer than 25 questions. Default: leave "
        "them out, as the authors do.",
    )


class ChoiceLines(_Choices):
    """A JSON Lines file with one image per line and its captions, the right one first."""

    kind: Literal["jsonl"]
    path: _Path = Field(description="The JSON Lines file.")
    image_key: str = Field("image", description="Key of the image name.")
    captions_key: str = Field("captions", description="Key of the list of captions.")
    group_key: str | None = Field(None, description="Key of the group; the mean over groups is a metric.")
    image_suffix: str = Field("", description="Appended to each image name that has none, such as `.png`.")


class Winoground(_Choices):
    """Winoground (Thrush et al., 2022): pairs of images and captions with the same words."""

    kind: Literal["winoground"]
    path: _Path = Field(description="`examples.jsonl`, with `image_0`, `image_1`, `caption_0` and `caption_1`.")
    image_suffix: str = Field(".png", description="Appended to each image name that has none.")


class ProbeFolders(_Labeled):
    """One folder per class for training and one for testing, with the same folder names."""

    kind: Literal["folders"]
    train: _Path = Field(description="Folder with one subfolder of training images per class.")
    test: _Path = Field(description="Folder with one subfolder of test images per class.")


class ProbeTars(_Labeled):
    """webdataset tars: each sample has an image and a `.cls` with the index of its class, from 0."""

    kind: Literal["webdataset"]
    train: Annotated[list[str], Runtime] = Field(min_length=1, description="Local files or globs with training images.")
    test: Annotated[list[str], Runtime] = Field(min_length=1, description="Local files or globs with test images.")


RetrievalSource = Annotated[
    KarpathySet | TokenSet | CaptionTable | CaptionTars | CaptionLines | CaptionFiles, Field(discriminator="kind")
]
ChoiceSource = Annotated[SugarCrepe | Aro | ChoiceLines | Winoground, Field(discriminator="kind")]
ProbeSource = Annotated[ProbeFolders | ProbeTars, Field(discriminator="kind")]
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
    choices: list[ChoiceSource] = Field(
        default_factory=list, description="Compositional tests: the right caption of an image among similar ones."
    )
    linear_probe: list[ProbeSource] = Field(
        default_factory=list, description="Logistic regression on image features without projection of text."
    )
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
        tasks: tuple[Sequence[_Captioned | _Labeled | _Choices], ...]
        tasks = self.retrieval, self.zero_shot, self.choices, self.linear_probe
        if self.dataset is None and not any(tasks):
            raise ValueError("no evaluation set; set `dataset`, `retrieval`, `zero_shot`, `choices` or `linear_probe`")
        for task in tasks:
            names = [source.name for source in task]
            if len(set(names)) != len(names):
                raise ValueError("two sets of one task have the same name; use unique names")
        return self
