"""SugarCrepe, ARO, Winoground, long captions, XM3600, ImageNet variants and linear probes, on small made-up sets."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from tests.conftest import REPOSITORY
from tests.evaluate.test_sets import read, write
from tests.train.factories import Texts, configure, publish_version, run, write_evaluation_set
from vecap_tasks.config import BootstrapConfig, EvaluateConfig, read_yaml
from vecap_tasks.core.mlflow_tracking import open_tracking
from vecap_tasks.core.stage import load_stage
from vecap_tasks.core.tar import TarWriter
from vecap_tasks.errors import VecapError
from vecap_tasks.evaluate.bootstrap import resample
from vecap_tasks.evaluate.choices import choice_hits, pair_hits
from vecap_tasks.evaluate.features import Features, _choice_answers
from vecap_tasks.evaluate.metrics import Answers, chances_of, figures_of, read_answers, write_answers
from vecap_tasks.evaluate.probe import probe_hits
from vecap_tasks.evaluate.results import read_results, summarize
from vecap_tasks.evaluate.sets import ChoiceSet, ImageFile, ProbeSet
from vecap_tasks.evaluate.sets.loader import sets_digests
from vecap_tasks.evaluate.sets.types import Choice
from vecap_tasks.lineage import record_clip


def sugarcrepe(folder: Path) -> dict[str, object]:
    write(folder / "val2017", "000000000001.jpg", "000000000002.jpg")
    for name, count in (("add_att", 2), ("swap_obj", 1)):
        items = {}
        for n in range(count):
            texts = {"caption": f"right {name} {n}", "negative_caption": f"wrong {name} {n}"}
            items[str(n)] = {"filename": f"00000000000{n + 1}.jpg", **texts}
        (folder / f"{name}.json").write_text(json.dumps(items))
    return {"name": "sugarcrepe", "kind": "sugarcrepe", "path": str(folder), "images": str(folder / "val2017")}


def test_sugarcrepe(home: Path) -> None:
    source = sugarcrepe(home)
    (choices,) = read(choices=[source]).choices
    assert choices.groups == ("add_att", "swap_obj")
    questions = [(q.images[0], [choices.captions[caption] for caption in q.captions]) for q in choices.questions]
    assert [(choices.images[image].name, captions) for image, captions in questions] == [
        ("000000000001.jpg", ["right add_att 0", "wrong add_att 0"]),
        ("000000000002.jpg", ["right add_att 1", "wrong add_att 1"]),
        ("000000000001.jpg", ["right swap_obj 0", "wrong swap_obj 0"]),
    ]
    assert len(choices.images) == 2, "each image once"
    (one,) = read(choices=[source | {"path": str(home / "swap_obj.json")}]).choices
    assert (len(one.questions), one.groups) == (1, ("swap_obj",))
    chances = chances_of(read(choices=[source]))
    assert chances == {"sugarcrepe.choice_accuracy": 0.5, "sugarcrepe.choice_mean_per_group": 0.5}


def test_aro_uses_a_region_of_the_image(home: Path) -> None:
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[5:9, 10:16] = 255
    (home / "vg").mkdir()
    Image.fromarray(pixels).save(home / "vg" / "7.png")
    box = {"bbox_x": 10, "bbox_y": 5, "bbox_w": 6, "bbox_h": 4}
    relation = {"image_path": "7.png", "true_caption": "a on b", "false_caption": "b on a", "relation_name": "on"} | box
    attribution = relation | {"attributes": ["red", "small"]}
    source = {"kind": "aro", "images": str(home / "vg"), "all_groups": True}
    for name, item, group in (("relation", relation, "on"), ("attribution", attribution, "red_small")):
        (home / f"{name}.json").write_text(json.dumps([item, item | {"bbox_x": 0}]))
        sets = read(choices=[source | {"name": name, "path": str(home / f"{name}.json")}])
        (choices,) = sets.choices
        assert choices.groups == (group,)
        first, second = (np.asarray(image.load()) for image in choices.images)
        assert first.shape == (4, 6, 3)
        assert (first == 255).all()
        assert (second == 0).all()
        image = choices.images[0]
        moved = (ImageFile(image.name, image.file, box=(1, 1, 2, 2)), *choices.images[1:])
        other = ChoiceSet(choices.name, moved, choices.captions, choices.questions, choices.groups)
        assert sets_digests(sets, cached=False) != sets_digests(type(sets)((), (), (other,)), cached=False)


def test_aro_leaves_out_symmetric_relations_and_rare_pairs_of_attributes(home: Path) -> None:
    write(home / "vg", "7.jpg")
    box = {"bbox_x": 0, "bbox_y": 0, "bbox_w": 4, "bbox_h": 4}
    item = {"image_path": "7.jpg", "true_caption": "a b", "false_caption": "b a", **box}
    relations = [item | {"relation_name": name} for name in ("near", "on", "next to")]
    pairs = [["red", "big"]] * 25 + [["x", "y"]] * 24
    attributes = [item | {"attributes": pair} for pair in pairs]
    for name, items in (("relation", relations), ("attribution", attributes)):
        (home / f"{name}.json").write_text(json.dumps(items))
    source = {"name": "aro", "kind": "aro", "images": str(home / "vg")}
    (relation,) = read(choices=[source | {"path": str(home / "relation.json")}]).choices
    (attribution,) = read(choices=[source | {"path": str(home / "attribution.json")}]).choices
    assert (relation.groups, len(relation.questions)) == (("on",), 1)
    assert (attribution.groups, len(attribution.questions)) == (("red_big",), 25)


def test_winoground_scores_are_those_of_the_paper(home: Path) -> None:
    write(home / "images", "ex_0_img_0.png", "ex_0_img_1.png")
    line = {"id": 0, "image_0": "ex_0_img_0", "image_1": "ex_0_img_1", "caption_0": "a b", "caption_1": "b a"}
    (home / "examples.jsonl").write_text(json.dumps(line) + "\n")
    paths = {"path": str(home / "examples.jsonl"), "images": str(home / "images")}
    sets = read(choices=[{"name": "winoground", "kind": "winoground", **paths}])
    assert sets.choices[0].paired
    assert [round(chance, 4) for chance in chances_of(sets).values()] == [0.25, 0.25, 0.1667]
    rng = np.random.default_rng(0)
    images, texts = (normalize(torch.from_numpy(rng.normal(size=(80, 4))).float(), dim=1) for _ in range(2))
    questions = tuple(Choice((2 * n, 2 * n + 1), (2 * n, 2 * n + 1)) for n in range(40))
    hits = pair_hits(images, texts, ChoiceSet("w", (), (), questions, ("",)))
    for n, found in enumerate(hits):
        s = (images[2 * n : 2 * n + 2] @ texts[2 * n : 2 * n + 2].T).numpy()  # [image, caption]
        text = s[0, 0] > s[0, 1] and s[1, 1] > s[1, 0]
        image = s[0, 0] > s[1, 0] and s[1, 1] > s[0, 1]
        assert found.tolist() == [text, image, text and image]
    assert 0 < hits[:, 2].sum() < 40


def test_ties_count_against_the_model_or_as_the_tools_do() -> None:
    images, texts = torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    questions = (Choice((0,), (0, 1)), Choice((0,), (0, 2)), Choice((1,), (0, 2)))
    choices = ChoiceSet("c", (), (), questions, ("",))
    assert choice_hits(images, texts, choices, "pessimistic").tolist() == [False, True, False]
    assert choice_hits(images, texts, choices, "clip_benchmark").tolist() == [True, True, False]
    pair = ChoiceSet("w", (), (), (Choice((0, 1), (0, 1)), Choice((0, 1), (0, 2))), ("",))
    assert pair_hits(images, texts, pair).tolist() == [[False] * 3, [True] * 3]
    assert pair_hits(images, texts, pair, "clip_benchmark").tolist() == [[False] * 3, [True] * 3]
    images = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    texts = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    first = ChoiceSet("w", (), (), (Choice((0, 1), (0, 1)),), ("",))
    assert pair_hits(images, texts, first, "clip_benchmark").tolist() == [[False] * 3], "the second image is tied, too"


def test_the_answers_of_all_tasks_are_stored_and_give_the_same_metrics(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    images, texts = (normalize(torch.from_numpy(rng.normal(size=(9, 4))).float(), dim=1) for _ in range(2))
    groups = [0, 0, 0, 0, 0, 1]
    single = ChoiceSet("c", (), (), tuple(Choice((n,), (n, n + 1, n + 2), g) for n, g in enumerate(groups)), ("a", "b"))
    pairs = ChoiceSet("w", (), (), tuple(Choice((n, n + 1), (n, n + 1)) for n in range(5)), ("",))
    answers = tuple(_choice_answers(Features(images, texts), s, s.name, "pessimistic") for s in (single, pairs))
    write_answers(answers, tmp_path / "answers.parquet")
    stored = read_answers((tmp_path / "answers.parquet").read_bytes(), "here")
    figures = figures_of(stored)
    assert figures == figures_of(answers)
    pairs_keys = {"w.pair_text", "w.pair_image", "w.pair_group"}
    assert set(figures) == {"c.choice_accuracy", "c.choice_mean_per_group", *pairs_keys}
    right = choice_hits(images, texts, single, "pessimistic")
    assert figures["c.choice_mean_per_group"] == pytest.approx((right[:5].mean() + right[5]) / 2)
    rounds = resample([stored], BootstrapConfig(rounds=200))
    assert rounds.keys() == figures.keys()
    for key, value in figures.items():
        assert abs(rounds[key].mean() - value) < 0.15


def test_json_lines_and_text_files_are_retrieval_sets(home: Path) -> None:
    """The formats of DOCCI, IIW-400, XM3600 and Urban1k."""
    write(home / "images", "a.jpg", "b.jpg")
    parts = (("a", "test"), ("b", "train"))
    docci = [{"split": part, "image_file": f"{n}.jpg", "description": f"long {n}"} for n, part in parts]
    (home / "docci.jsonlines").write_text("".join(json.dumps(line) + "\n" for line in docci))
    xm = [{"image/key": n, "en": {"caption": [f"one {n}", f"two {n}"]}, "de": {"caption": [f"eins {n}"]}} for n in "ab"]
    (home / "captions.jsonl").write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in xm))
    (home / "texts").mkdir()
    for name in "ab":
        (home / "texts" / f"{name}.txt").write_text(f"a long caption of {name}\n")
    images = str(home / "images")
    jsonl = {"kind": "jsonl", "images": images}
    keys = {"image_key": "image_file", "caption_key": "description", "where": {"split": "test"}}
    xm3600 = jsonl | {"path": str(home / "captions.jsonl"), "image_key": "image/key", "image_suffix": ".jpg"}
    sources = [
        jsonl | {"name": "docci", "path": str(home / "docci.jsonlines")} | keys,
        *(xm3600 | {"name": f"xm3600-{lang}", "caption_key": f"{lang}.caption"} for lang in ("en", "de")),
        {"name": "urban1k", "kind": "files", "images": images, "captions": str(home / "texts")},
    ]
    docci_set, english, german, urban = read(retrieval=sources).retrieval
    assert (docci_set.captions, [image.name for image in docci_set.images]) == (("long a",), ["a.jpg"])
    assert (english.captions, english.caption_of) == (("one a", "two a", "one b", "two b"), (0, 0, 1, 1))
    assert german.captions == ("eins a", "eins b")
    assert urban.captions == ("a long caption of a", "a long caption of b")


def test_a_variant_of_imagenet_has_a_part_of_the_classes(home: Path) -> None:
    write(home / "imagenet-a", "n02/x.jpg", "n09/y.jpg", "n09/z.jpg")
    (home / "wnids.txt").write_text("n01\nn02\nn09\n")
    (home / "names.txt").write_text("goldfish\ncar\ndog\n")
    (home / "templates.txt").write_text("a photo of a {}\n")
    source = {
        "name": "imagenet-a", "kind": "folders", "images": str(home / "imagenet-a"), "classes": str(home / "names.txt"),
        "templates": str(home / "templates.txt"), "folders": str(home / "wnids.txt"),
    }  # fmt: skip
    (found,) = read(zero_shot=[source]).zero_shot
    assert found.classes == ("car", "dog")
    assert found.labels == (0, 1, 1)
    write(home / "imagenet-v2", "10/a.jpg", "9/b.jpg", "11/c.jpg")
    v2 = {name: value for name, value in source.items() if name != "folders"} | {"images": str(home / "imagenet-v2")}
    (numbered,) = read(zero_shot=[v2]).zero_shot
    assert [(image.name, label) for image, label in zip(numbered.images, numbered.labels, strict=True)] == [
        ("9/b.jpg", 0), ("10/a.jpg", 1), ("11/c.jpg", 2),
    ]  # fmt: skip
    (home / "wnids.txt").write_text("n01\nn02\n")
    with pytest.raises(VecapError, match="`folders` has 2 names for 3 classes"):
        read(zero_shot=[source])


def test_datacomp_s_tasks_are_a_configuration(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the sets as DataComp stores it; the others have the same files."""
    monkeypatch.setenv("DATACOMP", str(home))
    evaluate = read_yaml((REPOSITORY / "configs" / "datacomp.yaml").read_text())["evaluate"]
    names = [source["name"] for source in EvaluateConfig.model_validate(evaluate).model_dump()["zero_shot"]]
    assert len(set(names)) == 31
    folder = home / "wds_vtab-dtd_test"
    (folder / "test").mkdir(parents=True)
    (folder / "classnames.txt").write_text("banded\nwoven\n")
    (folder / "zeroshot_classification_templates.txt").write_text("a photo of a {c} texture.\n")
    image = io.BytesIO()
    Image.new("RGB", (8, 8)).save(image, "WEBP", lossless=True)
    with TarWriter(folder / "test" / "0.tar") as tar:
        tar.write("s0000000", {"webp": image.getvalue(), "cls": b"1"})
    (found,) = read(zero_shot=[source for source in evaluate["zero_shot"] if source["name"] == "vtab-dtd"]).zero_shot
    assert (found.labels, found.classes, found.templates) == ((1,), ("banded", "woven"), ("a photo of a {} texture.",))


def test_a_linear_probe_learns_classes_from_features(home: Path) -> None:
    write(home / "train", *(f"{c}/{n}.jpg" for c in ("cat", "dog") for n in range(3)))
    write(home / "test", "dog/9.jpg")
    source = {"name": "pets", "kind": "folders", "train": str(home / "train"), "test": str(home / "test")}
    (probe,) = read(linear_probe=[source]).linear_probe
    assert (probe.train, probe.labels, probe.classes) == (6, (0, 0, 0, 1, 1, 1, 1), ("cat", "dog"))
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(7), 40)
    values = rng.normal(size=(280, 8)) + 3 * np.eye(7, 8)[labels]
    order = rng.permutation(280)
    features = normalize(torch.from_numpy(values[order]).float(), dim=1)
    images = tuple(ImageFile(str(n), home) for n in range(280))
    many = ProbeSet("p", images, tuple(labels[order].tolist()), 200, tuple(map(str, range(7))))
    hits = probe_hits(features, many)
    assert hits.shape == (80, 3)
    assert hits[:, 0].mean() > 0.8
    assert (hits[:, 1] >= hits[:, 0]).all()
    shuffled = ProbeSet("p", images, tuple(rng.permutation(labels).tolist()), 200, many.classes)
    assert probe_hits(features, shuffled)[:, 0].mean() < 0.4, "it does not see the labels of the test images"


def test_recall_by_caption_length(home: Path) -> None:
    rng = np.random.default_rng(0)
    captions = tuple(["a cat"] * 30 + ["word " * 20] * 30)
    hits = np.zeros((2, 60, 3), np.bool_)
    hits[0, :30] = True
    hits[1, 30:] = True
    owners = np.repeat(np.arange(30), 2)[rng.permutation(60)].astype(np.int32)
    runs = {
        (arm, 0): [Answers("s", "d", "text_to_image", owners, np.empty(0, np.int32), hits[n])]
        for n, arm in enumerate(("short", "long"))
    }
    results = summarize(runs, [], {}, {"s": captions}, BootstrapConfig(rounds=100))
    found = {(one.arm, one.low, one.high): (one.captions, one.mean, one.interval) for one in results.lengths}
    assert found == {
        ("short", 0, 8): (30, 1.0, [1.0, 1.0]), ("long", 0, 8): (30, 0.0, [0.0, 0.0]),
        ("short", 17, 32): (30, 0.0, [0.0, 0.0]), ("long", 17, 32): (30, 1.0, [1.0, 1.0]),
    }  # fmt: skip
    assert type(results).from_json(results.to_json().encode(), "here") == results


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        ("sugarcrepe", '{"0": {"filename": "x.jpg", "caption": "a"}}', "item 1 has no text negative_caption"),
        ("sugarcrepe", "3", "is not a file of SugarCrepe"),
        ("sugarcrepe", "{", "is not valid JSON"),
        ("aro", "{}", "is not a file of ARO"),
        ("aro", '[{"image_path": "x.jpg", "true_caption": "a", "false_caption": "b"}]', "item 1 has no bbox_x"),
        ("jsonl", '{"image": "x.jpg", "captions": ["a"]}', "line 1 has no list of two or more captions at captions"),
        ("jsonl", "\n[1]", "line 2 is not a JSON object"),
        ("jsonl", "", "is empty"),
        ("winoground", '{"image_0": "x"}', "line 1 has no text image_1; its keys are image_0"),
    ],
)
def test_an_invalid_file_is_one_clear_line(home: Path, kind: str, content: str, message: str) -> None:
    write(home / "images", "x.jpg")
    file = home / "file.json"
    file.write_text(content)
    with pytest.raises(VecapError, match=message) as raised:
        read(choices=[{"name": "s", "kind": kind, "path": str(file), "images": str(home / "images")}])
    assert "\n" not in str(raised.value)
    assert str(file) in str(raised.value)


def test_all_tasks_run_in_one_stage_and_are_recorded(home: Path) -> None:
    config = configure(home, arms="[vec]", seeds="[0, 1]", epochs=1)
    folder = write_evaluation_set(config)
    classes = [(folder / "images" / f"{n:03d}.png", "ab"[n % 2]) for n in range(8)]
    for number, (image, name) in enumerate(classes):
        part = home / ("train" if number < 6 else "test") / name
        part.mkdir(parents=True, exist_ok=True)
        (part / image.name).write_bytes(image.read_bytes())
    evaluate = config.evaluation.model_dump(mode="json") | {
        "choices": [sugarcrepe(home / "sugarcrepe")],
        "linear_probe": [{"name": "ab", "kind": "folders", "train": str(home / "train"), "test": str(home / "test")}],
    }
    config = config.model_copy(update={"evaluate": EvaluateConfig.model_validate(evaluate)}).with_base(config.base)
    version = publish_version(config, [Texts() for _ in range(16)])
    run("train", config, version)
    manifest = run("evaluate", config, version)
    results = read_results(load_stage("evaluate", config, version).store, manifest)
    sizes = [(size.name, size.task, size.images, size.captions, size.classes) for size in results.sets[2:]]
    assert sizes == [("sugarcrepe", "choices", 2, 6, 2), ("ab", "linear_probe", 2, 0, 2)]
    keys = ["sugarcrepe.choice_accuracy", "sugarcrepe.choice_mean_per_group", "ab.probe_top1"]
    assert set(keys) <= results.titles.keys() == results.chance.keys() == results.arms[0].mean.keys()
    assert results.main[-2:] == ["sugarcrepe.choice_accuracy", "ab.probe_top1"]
    inputs = [item.name for item in manifest.inputs if item.kind == "dataset"]
    assert inputs[2:] == ["choices:sugarcrepe", "linear_probe:ab"]
    record_clip(config, version)
    with open_tracking(config) as tracking:
        runs = tracking.client.search_runs([tracking.experiment("demo", "clip")])
        recorded = [run for run in runs if "sugarcrepe.choice_accuracy" in run.data.metrics]
        assert len(recorded) == 2, "both models"
        models = [tracking.client.get_logged_model(run.outputs.model_outputs[0].model_id) for run in recorded]
        by_set = {metric.key: metric.dataset_name for metric in models[0].metrics}
    assert by_set["sugarcrepe.choice_accuracy"] == "demo/evaluation/choices:sugarcrepe"
    assert by_set["ab.probe_top1"] == "demo/evaluation/linear_probe:ab"
