"""Their side of `benchmarks.loading`: reads the tars once and prints the cost as JSON.

Run it with the Python that has open_clip: `python loading_theirs.py open_clip TARS SAMPLES BATCH`, TARS with
webdataset's braces. `webdataset` instead of `open_clip` runs a pipeline of webdataset and PIL with transforms
equivalent to open_clip's; the result is labeled accordingly.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

SIDE = 224
_SCALE = (0.9, 1.0)  # of the crop's area, open_clip's default
_RATIO = (3 / 4, 4 / 3)


def main() -> None:
    pipeline, tars, samples, batch = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    import torch

    torch.set_num_threads(1)
    name, batches = (open_clip_batches if pipeline == "open_clip" else webdataset_batches)(tars, samples, batch)
    count, wall, cpu = 0, time.monotonic(), time.process_time()
    for images, texts in batches:
        assert len(images) == len(texts)
        assert tuple(images.shape[1:]) == (3, SIDE, SIDE)
        count += len(images)
    cost = {"cpu": time.process_time() - cpu, "wall": time.monotonic() - wall}
    print(json.dumps({"name": name, "samples": count, **cost}))


def open_clip_batches(tars: str, samples: int, batch: int) -> tuple[str, Iterable[Any]]:
    """Return open_clip's training loader, running in this process, and its name."""
    import open_clip
    import torch
    from open_clip_train.data import get_wds_dataset

    _, preprocess, _ = open_clip.create_model_and_transforms("ViT-B-32")
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    settings = argparse.Namespace(
        train_data=tars,
        train_num_samples=samples,
        train_data_upsampling_factors=None,
        dataset_resampled=False,
        seed=0,
        workers=0,
        world_size=1,
        batch_size=batch,
    )
    loader = get_wds_dataset(settings, preprocess, is_train=True, floor=True, tokenizer=tokenizer).dataloader
    return f"open_clip {open_clip.__version__}, torch {torch.__version__}", loader


def webdataset_batches(tars: str, samples: int, batch: int) -> tuple[str, Iterable[Any]]:
    """Return a webdataset pipeline with open_clip's steps, and its name."""
    import torch
    import webdataset as wds
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(sys.argv[5], trust_remote_code=False)

    def ids(text: str) -> Any:
        return tokenizer(text, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids[0]

    pipeline = wds.DataPipeline(
        wds.SimpleShardList(tars),
        wds.detshuffle(bufsize=2000, initial=500, seed=0),
        wds.split_by_worker,
        wds.tarfile_to_samples(),
        wds.shuffle(bufsize=5000, initial=1000),
        wds.decode("pilrgb"),
        wds.rename(image="jpg", text="txt"),
        wds.map_dict(image=transform(), text=ids),
        wds.to_tuple("image", "text"),
        wds.batched(batch, partial=False),
    ).with_epoch(samples // batch)
    return f"webdataset {wds.__version__} with PIL (not open_clip), torch {torch.__version__}", pipeline


def transform() -> Callable[[Any], Any]:
    """Return open_clip's training transform: random crop, bicubic resize with PIL, normalized float tensor."""
    import numpy as np
    import torch
    from PIL import Image

    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]

    def apply(image: Any) -> Any:
        width, height = image.size
        area = width * height * random.uniform(*_SCALE)
        ratio = math.exp(random.uniform(math.log(_RATIO[0]), math.log(_RATIO[1])))
        crop_width = min(width, round(math.sqrt(area * ratio)))
        crop_height = min(height, round(math.sqrt(area / ratio)))
        left, top = random.randint(0, width - crop_width), random.randint(0, height - crop_height)
        crop = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, (left, top, left + crop_width, top + crop_height))
        values = torch.from_numpy(np.array(crop)).permute(2, 0, 1).contiguous().float().div(255)
        return values.sub_(mean).div_(deviation)

    return apply


if __name__ == "__main__":
    main()
