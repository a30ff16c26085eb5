"""Which crop a sample is shown with."""

import numpy as np
import torch

from vecap_tasks.train.data.images import Normalize, crop_params

UIDS = [f"{number:032x}" for number in range(4000)]


def test_a_crop_follows_from_seed_uid_and_epoch_alone():
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), np.uint8))
    shown = Normalize(0, 0.5, torch.device("cpu"))
    whole = shown(pixels, UIDS[:6], 3)
    turned = shown(pixels.flip(0), UIDS[:6][::-1], 3).flip(0)
    torch.testing.assert_close(turned, whole, rtol=0, atol=0)
    parts = torch.cat([shown(pixels[:2], UIDS[:2], 3), shown(pixels[2:], UIDS[2:6], 3)])
    torch.testing.assert_close(parts, whole, rtol=0, atol=0)
    assert not torch.equal(shown(pixels, UIDS[:6], 4), whole)
    assert not torch.equal(Normalize(1, 0.5, torch.device("cpu"))(pixels, UIDS[:6], 3), whole)


def test_crops_are_drawn_evenly():
    drawn = crop_params(0, UIDS, 0)
    assert drawn.dtype == np.float32
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert np.abs(drawn.mean(0) - 0.5).max() < 0.02
    assert np.abs(np.corrcoef(drawn.T) - np.eye(3)).max() < 0.05
