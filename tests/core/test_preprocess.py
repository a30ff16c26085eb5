"""The pixels of training and evaluation match those of transformers and of VeCLIP's released models."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from vecap_tasks.core.preprocess import image_processor, preprocess_way, shrink, veclip_values

SIZES = [(64, 48), (48, 64), (50, 50), (333, 127), (20, 31), (32, 32), (31, 97)]


def _image(size, mode="RGB"):
    noise = np.random.default_rng(size[0]).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(noise).convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
@pytest.mark.parametrize("size", SIZES)
def test_default_pixels_match_the_exported_processor(size, mode):
    image = _image(size, mode)
    processor = image_processor(32)
    expected = processor([image], do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"][0]
    assert (shrink(image, 32, "default") == expected.transpose(1, 2, 0)).all()


@pytest.mark.parametrize("size", SIZES)
def test_veclip_pixels_are_bilinear_without_antialiasing(size):
    """Compared with torch, which uses TensorFlow 2's half-pixel centers."""
    image = _image(size)
    values = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float()
    scale = 32 / min(size)
    height, width = round(scale * size[1]), round(scale * size[0])
    resized = torch.nn.functional.interpolate(values, (height, width), mode="bilinear", antialias=False)[0]
    top, left = (height - 32) // 2, (width - 32) // 2
    expected = resized[:, top : top + 32, left : left + 32]
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    pixels = torch.from_numpy(veclip_values([image], 32)[0])
    torch.testing.assert_close(pixels, (expected / 255 - mean) / deviation, rtol=0, atol=2e-5)
    assert np.abs(shrink(image, 32, "veclip").transpose(2, 0, 1) - expected.numpy()).max() <= 0.5001


def test_veclip_pixels_match_tensorflow_bit_by_bit():
    recorded = np.load(Path(__file__).parents[1] / "data" / "veclip" / "tensorflow-2.21.0.npz")
    assert len(recorded) == 3
    for name, values in recorded.items():
        width, height = map(int, name.split("x"))
        image = _image((width, height))
        mean, deviation = np.array(OPENAI_CLIP_MEAN, np.float32), np.array(OPENAI_CLIP_STD, np.float32)
        expected = ((values - mean * 255) / (deviation * 255)).transpose(2, 0, 1)
        assert (veclip_values([image], 32)[0] == expected).all()


def test_the_variant_is_detected_from_the_exported_folder(tmp_path):
    for way in ("default", "veclip"):
        image_processor(32, way).save_pretrained(tmp_path / way)
        loaded = CLIPImageProcessorPil.from_pretrained(tmp_path / way)
        assert preprocess_way(loaded) == way
        assert loaded.crop_size["height"] == 32
    assert loaded.resample == Image.Resampling.BILINEAR


def test_training_pixels_come_from_the_stored_file():
    stored = io.BytesIO()
    _image((40, 60)).save(stored, "PNG")
    with Image.open(stored) as image:
        assert shrink(image, 32, "default").shape == (32, 32, 3)
        assert shrink(image, 32, "default").dtype == np.uint8
