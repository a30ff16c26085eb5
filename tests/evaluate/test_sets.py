"""Evaluation sets in all supported formats, and one-line errors for invalid ones."""

import csv
import io
import json
import os
import tarfile

import pytest
from PIL import Image

from tests.conftest import DEMO
from vecap_tasks.config import load_config
from vecap_tasks.errors import VecapError
from vecap_tasks.evaluate.sets import read_sets
from vecap_tasks.evaluate.sets.loader import sets_digests


def image_bytes(color="red", image_format="JPEG"):
    out = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(out, image_format)
    return out.getvalue()


def write(folder, *names):
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image_bytes((number, 0, 0)))


def read(**evaluate):
    config = load_config(DEMO, [f"evaluate={json.dumps(evaluate)}"])
    return read_sets(config)


def coco(folder, kept=None):
    images = [
        {"filepath": "val2014", "filename": f"COCO_{number}.jpg", "split": split, "imgid": number, "cocoid": number,
         "sentences": [{"raw": f"caption {n} of {number}", "tokens": []} for n in range(count)]}
        for number, (split, count) in enumerate([("test", 6), ("val", 5), ("restval", 5), ("train", 5), ("test", 5)])
    ]  # fmt: skip
    (folder / "dataset_coco.json").write_text(json.dumps({"images": images, "dataset": "coco"}))
    write(folder, *(f"val2014/COCO_{number}.jpg" for number in (kept or range(5))))
    return {"name": "coco", "kind": "karpathy", "path": str(folder / "dataset_coco.json"), "images": str(folder)}


def test_karpathy_splits(home):
    source = coco(home)
    (dataset,) = read(retrieval=[source]).retrieval
    assert [image.name for image in dataset.images] == ["val2014/COCO_0.jpg", "val2014/COCO_4.jpg"]
    assert (len(dataset.captions), dataset.captions[5], dataset.caption_of) == (
        11,
        "caption 5 of 0",
        (0,) * 6 + (1,) * 5,
    )
    (first_five,) = read(retrieval=[source | {"captions_per_image": 5}]).retrieval
    assert first_five.caption_of == (0,) * 5 + (1,) * 5
    sizes = {split: len(read(retrieval=[source | {"split": split}]).retrieval[0].images)
             for split in ("test", "val", "restval", "train")}  # fmt: skip
    assert sizes == {"test": 2, "val": 1, "restval": 1, "train": 2}, "train includes restval"


def test_flickr30k_has_no_folders_and_no_restval(home):
    body = {"images": [{"filename": "36979.jpg", "split": "test", "sentences": [{"raw": "Two men."}]}]}
    (home / "dataset_flickr30k.json").write_text(json.dumps(body))
    write(home / "flickr30k-images", "36979.jpg")
    source = {"name": "flickr30k", "kind": "karpathy", "path": str(home / "dataset_flickr30k.json"),
              "images": str(home / "flickr30k-images")}  # fmt: skip
    (dataset,) = read(retrieval=[source]).retrieval
    assert (dataset.images[0].name, dataset.captions) == ("36979.jpg", ("Two men.",))
    with pytest.raises(VecapError, match=r"no images of the split restval; its splits are test \(1\)"):
        read(retrieval=[source | {"split": "restval"}])


def test_flickr8k_tokens(home):
    (home / "Flickr8k.token.txt").write_text(
        "1.jpg#0\tA child , in a dress .\n1.jpg#1\tA girl .\n2.jpg.1#0\tlost\n3.jpg#0\tA dog .\n"
    )
    (home / "test.txt").write_text("3.jpg\n1.jpg\n")
    write(home / "images", "1.jpg", "3.jpg")
    source = {"name": "flickr8k", "kind": "tokens", "path": str(home / "Flickr8k.token.txt"),
              "images": str(home / "images"), "split": str(home / "test.txt")}  # fmt: skip
    (dataset,) = read(retrieval=[source]).retrieval
    assert [image.name for image in dataset.images] == ["1.jpg", "3.jpg"]
    assert dataset.captions == ("A child , in a dress .", "A girl .", "A dog .")
    (home / "test.txt").write_text("3.jpg\n9.jpg\n")
    with pytest.raises(VecapError, match=r"lists 1 images without a caption in .*such as 9\.jpg"):
        read(retrieval=[source])
    (home / "Flickr8k.token.txt").write_text("1.jpg, a caption\n")
    with pytest.raises(VecapError, match="line 1 does not have the form IMAGE#NUMBER"):
        read(retrieval=[source])


def test_tables_with_and_without_quotes(home):
    write(home, "a.jpg", "b.jpg")
    with (home / "quoted.csv").open("w", newline="") as out:
        csv.writer(out, delimiter=";").writerows(
            [("id", "text", "file"), (1, 'one; "two"\nlines', "a.jpg"), (2, "x", "b.jpg"), (3, "y", "a.jpg")]
        )
    source = {"name": "own", "kind": "csv", "images": str(home)}
    own = {"path": str(home / "quoted.csv"), "image_column": "file", "caption_column": "text", "separator": ";"}
    (dataset,) = read(retrieval=[source | own]).retrieval
    assert dataset.captions == ('one; "two"\nlines', "y", "x")
    assert dataset.caption_of == (0, 0, 1)
    (home / "plain.txt").write_text('image,caption\na.jpg,"Hi", she said, twice\n')  # format of CLIP_benchmark
    (dataset,) = read(retrieval=[source | {"path": str(home / "plain.txt"), "quotes": False}]).retrieval
    assert dataset.captions == ('"Hi", she said, twice',)


def tar(path, members):
    with tarfile.open(path, "w") as out:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))


def test_tars_of_captions_and_classes(home):
    red, blue = image_bytes("red"), image_bytes("blue", "PNG")
    tar(home / "0.tar", [("s0.jpg", red), ("s0.txt", b"one\ntwo\n"), ("s0.cls", b"1"), ("s0.json", b'{"re": "said"}')])
    tar(home / "1.tar", [("s1.cls", b"0"), ("s1.json", b'{"re": ["x", "y"]}'), ("s1.txt", b"three"), ("s1.png", blue)])
    (home / "classnames.txt").write_text("cat\ndog\n")
    (home / "templates.txt").write_text("a {c}\n")
    names = {"classes": str(home / "classnames.txt"), "templates": str(home / "templates.txt")}
    found = read(
        retrieval=[{"name": "a", "kind": "webdataset", "paths": [str(home / "*.tar")]},
                   {"name": "b", "kind": "webdataset", "paths": [str(home / "*.tar")], "caption_key": "re"}],
        zero_shot=[{"name": "a", "kind": "webdataset", "paths": [str(home / "*.tar")], **names}],
    )  # fmt: skip
    plain, keyed = found.retrieval
    assert (plain.captions, plain.caption_of) == (("one", "two", "three"), (0, 0, 1))
    assert keyed.captions == ("said", "x", "y")
    assert [image.read() for image in plain.images] == [red, blue]
    assert plain.images[1].load().getpixel((0, 0)) == (0, 0, 255)
    (classified,) = found.zero_shot
    assert (classified.labels, classified.templates) == ((1, 0), ("a {}",))
    for members, message in [
        ([("s0.txt", b"words")], "s0 has no image"),
        ([("s0.jpg", red)], r"s0 has no \.txt"),
        ([("s0.jpg", red), ("s1.jpg", red), ("s0.txt", b"words")], "has other samples between the members of s0"),
        ([("s0.jpg", red), ("s0.txt", b"\n")], "s0 has no caption"),
    ]:
        tar(home / "0.tar", members)
        with pytest.raises(VecapError, match=message):
            read(retrieval=[{"name": "a", "kind": "webdataset", "paths": [str(home / "0.tar")]}])
    (home / "0.tar").write_bytes(b"x" * 2000)
    with pytest.raises(VecapError, match=r"0\.tar is corrupt at byte 0"):
        read(retrieval=[{"name": "a", "kind": "webdataset", "paths": [str(home / "0.tar")]}])
    tar(home / "0.tar", [("s0.jpg", red), ("s0.txt", b"\xff")])
    with pytest.raises(VecapError, match="cannot be read as a webdataset tar"):
        read(retrieval=[{"name": "a", "kind": "webdataset", "paths": [str(home / "0.tar")]}])
    with pytest.raises(VecapError, match=r"tar file .*no-\*\.tar not found; .*change the paths of a in evaluate"):
        read(retrieval=[{"name": "a", "kind": "webdataset", "paths": [str(home / "no-*.tar")]}])


@pytest.fixture
def imagenet(home):
    """Two WordNet ID folders, with names and templates in CLIP_benchmark's JSON format."""
    write(home / "val", "n01440764/b.JPEG", "n01440764/a.JPEG", "n01443537/c.JPEG")
    (home / "en_classnames.json").write_text(json.dumps({"imagenet1k": ["tench", "goldfish"], "mnist": ["0"]}))
    (home / "templates.json").write_text(
        json.dumps({"imagenet1k": ["a bad photo of a {c}.", "a {c} in a video game."]})
    )
    return {"name": "imagenet", "kind": "folders", "images": str(home / "val"), "key": "imagenet1k",
            "classes": str(home / "en_classnames.json"), "templates": str(home / "templates.json")}  # fmt: skip


def test_sorted_imagenet_folders_map_to_classes(home, imagenet):
    (dataset,) = read(zero_shot=[imagenet]).zero_shot
    assert [image.name for image in dataset.images] == ["n01440764/a.JPEG", "n01440764/b.JPEG", "n01443537/c.JPEG"]
    assert dataset.labels == (0, 0, 1)
    assert dataset.templates == ("a bad photo of a {}.", "a {} in a video game.")
    with pytest.raises(VecapError, match=r"has no list 'imagenet'; set `key` to one of imagenet1k, mnist"):
        read(zero_shot=[imagenet | {"key": "imagenet"}])
    (home / "one.txt").write_text("tench\n")
    with pytest.raises(VecapError, match="has 2 folders for 1 class names"):
        read(zero_shot=[imagenet | {"classes": str(home / "one.txt")}])
    (home / "val/n01443537/c.JPEG").unlink()
    with pytest.raises(VecapError, match="n01443537 has no images"):
        read(zero_shot=[imagenet])


def test_folders_with_class_names_map_by_name(home, imagenet):
    (home / "val/n01440764").rename(home / "val/goldfish")
    (home / "val/n01443537").rename(home / "val/tench")
    (dataset,) = read(zero_shot=[imagenet]).zero_shot
    assert dataset.labels == (1, 1, 0)


def test_labels_can_be_indices_and_ambiguous_names_are_errors(home):
    write(home, "a.jpg")
    (home / "classes.txt").write_text("crane\nmaillot\ncrane\n")
    (home / "templates.txt").write_text("a {}\n")
    source = {"name": "x", "kind": "csv", "path": str(home / "labels.csv"), "images": str(home),
              "classes": str(home / "classes.txt"), "templates": str(home / "templates.txt")}  # fmt: skip
    for label, number in [("maillot", 1), ("2", 2)]:
        (home / "labels.csv").write_text(f"image,label\na.jpg,{label}\n")
        assert read(zero_shot=[source]).zero_shot[0].labels == (number,)
    (home / "labels.csv").write_text("image,label\na.jpg,crane\n")
    with pytest.raises(VecapError, match="of several classes; use class indices"):
        read(zero_shot=[source])


def test_missing_images_are_counted(home):
    source = coco(home, kept=[0])
    with pytest.raises(VecapError, match=r"coco, split test of .*: 1 of 2 images are missing in .*COCO_4\.jpg"):
        read(retrieval=[source])
    with pytest.raises(VecapError, match=r"image folder .*nowhere does not exist"):
        read(retrieval=[source | {"images": str(home / "nowhere")}])
    with pytest.raises(VecapError, match="nowhere cannot be read: No such file"):
        read(retrieval=[source | {"path": str(home / "nowhere")}])


@pytest.mark.parametrize("text", ['{"images": [{"split": "test"}]}', "[]x", '{"images": [1]}'])
def test_another_json_file_is_a_one_line_error(home, text):
    source = coco(home)
    (home / "dataset_coco.json").write_text(text)
    with pytest.raises(VecapError, match=r"is not a Karpathy split file|has no images of the split") as caught:
        read(retrieval=[source])
    assert "\n" not in str(caught.value)


def test_the_digest_depends_on_contents_not_paths(home):
    source = coco(home)
    body = json.loads((home / "dataset_coco.json").read_text())
    rows = [(f"{image['filepath']}/{image['filename']}", sentence["raw"])
            for image in body["images"] if image["split"] == "test" for sentence in image["sentences"]]  # fmt: skip
    with (home / "test.csv").open("w", newline="") as out:
        csv.writer(out).writerows([("image", "caption"), *rows])
    table = {"name": "other", "kind": "csv", "path": str(home / "test.csv"), "images": str(home)}
    sets = read(retrieval=[source, table])
    karpathy, csv_table = sets_digests(sets, cached=False).values()
    assert karpathy == csv_table
    image = home / "val2014/COCO_4.jpg"
    state = image.stat()
    data = bytearray(image.read_bytes())
    data[-1] ^= 1
    image.write_bytes(data)
    os.utime(image, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert sets_digests(sets, cached=True)["retrieval:coco"] == karpathy, "the cache uses name, size and time"
    assert sets_digests(sets, cached=False)["retrieval:coco"] != karpathy, "audits read all bytes"


def test_duplicate_set_names_are_errors(home):
    source = coco(home)
    with pytest.raises(VecapError, match="two sets of one task have the same name"):
        read(retrieval=[source, source])
    with pytest.raises(VecapError, match="no evaluation set; set"):
        read()
