"""Random crops of training images."""

import numpy as np
import torch

from vecap_tasks.train.data.images import Normalize, crop_params

UIDS = [f"{number:032x}" for number in range(4000)]


def test_a_crop_depends_only_on_seed_uid_and_epoch():
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), np.uint8))
    normalize = Normalize(0, 0.5, torch.device("cpu"))
    expected = normalize(pixels, UIDS[:6], 3)
    reversed_order = normalize(pixels.flip(0), UIDS[:6][::-1], 3).flip(0)
    torch.testing.assert_close(reversed_order, expected, rtol=0, atol=0)
    parts = torch.cat([normalize(pixels[:2], UIDS[:2], 3), normalize(pixels[2:], UIDS[2:6], 3)])
    torch.testing.assert_close(parts, expected, rtol=0, atol=0)
    assert not torch.equal(normalize(pixels, UIDS[:6], 4), expected)
    assert not torch.equal(Normalize(1, 0.5, torch.device("cpu"))(pixels, UIDS[:6], 3), expected)


def test_crop_parameters_are_uniform():
    params = crop_params(0, UIDS, 0)
    assert params.dtype == np.float32
    assert params.min() >= 0
    assert params.max() < 1
    assert np.abs(params.mean(0) - 0.5).max() < 0.02
    assert np.abs(np.corrcoef(params.T) - np.eye(3)).max() < 0.05
