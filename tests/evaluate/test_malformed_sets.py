"""Malformed evaluation sets are one clear line, and unusual but valid ones are read as written."""

import io
import json
import resource
import struct
import tarfile
import zlib

import pytest
from PIL import Image

from tests.data.images.picture import png
from vecap_tasks.config import CaptionTable, CaptionTars, ClassTars, KarpathySet
from vecap_tasks.errors import VecapError
from vecap_tasks.evaluate.sets.captions import read_caption_table, read_karpathy, read_lines
from vecap_tasks.evaluate.sets.classes import (
    label_indices,
    read_caption_tars,
    read_class_tars,
    read_names,
)
from vecap_tasks.evaluate.sets.types import ImageFile, find_images


def jpeg():
    out = io.BytesIO()
    Image.new("RGB", (4, 4)).save(out, "JPEG")
    return out.getvalue()


def tar(path, members):
    with tarfile.open(path, "w") as out:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    return path


def caption_tars(key=None):
    return CaptionTars(kind="webdataset", name="own", paths=["x"], caption_key=key)


@pytest.mark.parametrize("text", ["[" * 100_000, '["\\ud800"]', "9" * 5000, "[1]", '{"en": 5}', "[]", "{"])
def test_json_that_is_not_a_list_of_names_is_one_clear_line(tmp_path, text):
    file = tmp_path / "names.json"
    file.write_text(text)
    with pytest.raises(VecapError, match=r"names\.json (is|has)"):
        read_names(file, None if text.startswith("[") else "en")


@pytest.mark.parametrize("label", ["9" * 5000, "²", "٣", "-1", "2"])
def test_a_label_that_is_no_index_is_one_clear_line(tmp_path, label):
    with pytest.raises(VecapError, match="not one of 2 classes") as caught:
        label_indices([("a.jpg", label)], ("cat", "dog"), tmp_path)
    assert len(str(caught.value)) < 500


def test_labels_of_tars_are_indices_even_if_classes_are_named_by_numbers(tmp_path):
    members = [(f"{n}.{kind}", data) for n in range(3) for kind, data in (("jpg", jpeg()), ("cls", b"%d" % n))]
    source = ClassTars(kind="webdataset", name="own", paths=["x"], classes="x", templates="x")
    found = read_class_tars(source, [tar(tmp_path / "a.tar", members)], ("2", "1", "0"), ("a {}",))
    assert found.labels == (0, 1, 2)


@pytest.mark.parametrize("text", ['{"caption": ["a", null]}', '{"caption": "\\ud800"}', "[" * 100_000, '{"a": "b"}'])
def test_captions_in_json_must_be_text(tmp_path, text):
    path = tar(tmp_path / "a.tar", [("1.jpg", jpeg()), ("1.json", text.encode())])
    with pytest.raises(VecapError, match="correct `caption_key`"):
        read_caption_tars(caption_tars("caption"), [path])


def test_only_line_breaks_separate_captions(tmp_path):
    text = "in Paris\u2028by night\r\nan old\x85sign\x0bof\x1ciron\rlast"
    captions = ("in Paris\u2028by night", "an old\x85sign\x0bof\x1ciron", "last")
    path = tar(tmp_path / "a.tar", [("1.jpg", jpeg()), ("1.txt", text.encode())])
    assert read_caption_tars(caption_tars(), [path]).captions == captions
    (tmp_path / "lines.txt").write_bytes(text.encode())
    assert tuple(read_lines(tmp_path / "lines.txt")) == captions
    (tmp_path / "a.jpg").write_bytes(jpeg())
    (tmp_path / "table.csv").write_text("image,caption\na.jpg,in Paris\u2028by night\n")
    source = CaptionTable(kind="csv", name="own", path="x", images="x")
    for quotes in (True, False):
        table = source.model_copy(update={"quotes": quotes})
        assert read_caption_table(table, tmp_path / "table.csv", tmp_path).captions == captions[:1]


def test_a_caption_may_be_very_long_and_a_bad_table_is_one_clear_line(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg())
    source = CaptionTable(kind="csv", name="own", path="x", images="x")
    (tmp_path / "table.csv").write_text("image,caption\na.jpg," + "word " * 60_000)
    (text,) = read_caption_table(source, tmp_path / "table.csv", tmp_path).captions
    assert len(text) == 5 * 60_000 - 1
    (tmp_path / "table.csv").write_bytes(b"image,caption\na.jpg,one\rtwo\n\r\r")
    with pytest.raises(VecapError, match=r"table\.csv.*(row|line) "):
        read_caption_table(source, tmp_path / "table.csv", tmp_path)


IMAGE = {"filename": "a.jpg", "split": "test", "sentences": [{"raw": "a cat"}]}


@pytest.mark.parametrize(
    "image",
    [
        IMAGE | {"split": ["test"]}, IMAGE | {"filename": 5}, IMAGE | {"filepath": [1]},
        IMAGE | {"sentences": [{"raw": 5}]},
        IMAGE | {"sentences": [{"raw": "\ud800"}]}, IMAGE | {"sentences": 5}, 5, [], {}, "x",
    ],
)  # fmt: skip
def test_karpathy_fields_must_be_text(tmp_path, image):
    (tmp_path / "a.jpg").write_bytes(jpeg())
    (tmp_path / "split.json").write_text(json.dumps({"images": [IMAGE, image]}))
    source = KarpathySet(kind="karpathy", name="own", path="x", images="x")
    with pytest.raises(VecapError, match="is not a Karpathy split file"):
        read_karpathy(source, tmp_path / "split.json", tmp_path)


def test_names_that_no_file_can_have_are_missing_images(tmp_path):
    with pytest.raises(VecapError, match="2 of 2 images are missing") as caught:
        find_images(["x" * 5000, "a\0b"], tmp_path, "own")
    assert len(str(caught.value)) < 1000


def test_an_image_that_pillow_rejects_with_any_error_is_one_clear_line(tmp_path):
    file = tmp_path / "a.gif"
    file.write_bytes(
        b"GIF87a\x03\x00\x02\x00u\x00\x00,\x00\x00\x00\x03\x00\x00\x00 \x00;"
    )  # a frame outside the canvas
    with pytest.raises(VecapError, match=r"cannot decode .*a\.gif"):
        ImageFile("a.gif", file).load()


def test_a_png_without_its_palette_cannot_be_decoded(tmp_path):
    """Pillow alone reads it as black."""
    (tmp_path / "a.png").write_bytes(png((4, 4), 8, 3, b"\0\1\1\1\1" * 4))
    with pytest.raises(VecapError, match=r"cannot decode .*a\.png"):
        ImageFile("a.png", tmp_path / "a.png").load()


def png_header(width, height):
    """Return a gray PNG whose header has this size, with pixels for a few rows only."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(100))),
        (b"IEND", b""),
    ]
    parts = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("size", [(1, 33_554_433), (33_554_433, 1), (12_000, 12_000)])
def test_an_image_whose_header_is_too_large_is_refused_before_it_is_decoded(tmp_path, size):
    file = tmp_path / "a.png"
    file.write_bytes(png_header(*size))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(VecapError, match=rf"a\.png .* has {size[0]}x{size[1]} pixels; reduce its size"):
        ImageFile("a.png", file).load()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB
