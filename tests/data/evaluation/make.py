"""Makes `golden.npz`: features, and the figures that CLIP_benchmark 1.6.2 and open_clip 3.3.0 give for them.

    uv pip install --no-deps --target THEIRS clip-benchmark==1.6.2 open_clip_torch==3.3.0 numpy==2.3.5
    PYTHONPATH=THEIRS python -m tests.data.evaluation.make

It needs torch, tqdm and scikit-learn besides; CLIP_benchmark's accuracy fails with a NumPy from 2.4 on. Its functions
are imported and called. open_clip's training cannot be imported without torchvision, so its function `get_clip_metrics`
is taken, as it stands, from the package's file. Features of small whole numbers have similarities that are exact, with
many ties; those of length 1 are as a model gives them, and some of them stand there several times.
"""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clip_benchmark.metrics.zeroshot_classification import accuracy
from clip_benchmark.metrics.zeroshot_retrieval import batchify, recall_at_k
from sklearn.metrics import balanced_accuracy_score
from torch.nn.functional import normalize

KS = (1, 5, 10)
HERE = Path(__file__).parent


def main() -> None:
    made: dict[str, Any] = {"torch": np.array(torch.__version__)}
    for name in ("ties", "usual"):
        images, texts, owners = features(name)
        made |= {f"{name}_images": images.numpy(), f"{name}_texts": texts.numpy(), f"{name}_owners": owners.numpy()}
        made[f"{name}_clip_benchmark"] = clip_benchmark(images, texts, owners)
        one_each = texts[torch.stack([(owners == image).nonzero()[0, 0] for image in range(len(images))])]
        made[f"{name}_paired"] = one_each.numpy()
        made[f"{name}_open_clip"] = open_clip(images, one_each)
        labels = torch.arange(len(images)) % 30
        made[f"{name}_zero_shot"] = zero_shot(images, texts[:30], labels)
    np.savez_compressed(HERE / "golden.npz", **made)


def features(name: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return 90 images, some 300 captions, and each caption's image: one to five an image."""
    generator = torch.Generator().manual_seed(6)
    counts = torch.randint(1, 6, (90,), generator=generator)
    owners = torch.arange(90).repeat_interleave(counts)
    owners = owners[torch.randperm(len(owners), generator=generator)]
    if name == "ties":
        images = torch.randint(0, 3, (90, 5), generator=generator).float()
        texts = (images[owners] + torch.randint(-1, 2, (len(owners), 5), generator=generator)).clamp(0, 3).float()
        return images, texts, owners
    images = normalize(torch.randn(90, 16, generator=generator), dim=-1)
    texts = normalize(images[owners] + 0.6 * torch.randn(len(owners), 16, generator=generator), dim=-1)
    texts[::7] = texts[3]  # the same caption of many images
    images[5::9] = images[5]
    return images, texts, owners


def clip_benchmark(images: torch.Tensor, texts: torch.Tensor, owners: torch.Tensor) -> np.ndarray:
    """Return recall@1, 5, 10 to text and to image, by the lines of its `evaluate` that follow the features."""
    scores = texts @ images.t()
    positive = torch.zeros_like(scores, dtype=bool)
    positive[torch.arange(len(scores)), owners] = True
    to_text = [(batchify(recall_at_k, scores.T, positive.T, 32, "cpu", k=k) > 0).float().mean().item() for k in KS]
    to_image = [(batchify(recall_at_k, scores, positive, 32, "cpu", k=k) > 0).float().mean().item() for k in KS]
    return np.array([to_text, to_image])


def open_clip(images: torch.Tensor, texts: torch.Tensor) -> np.ndarray:
    """Return recall@1, 5, 10 to text and to image of pairs, by open_clip's own function."""
    metrics = _get_clip_metrics()(images, texts, torch.tensor(1.0))
    ways = ("image_to_text", "text_to_image")
    return np.array([[metrics[f"{way}_R@{k}"] for k in KS] for way in ways])


def _get_clip_metrics() -> Any:
    spec = find_spec("open_clip_train")
    assert spec is not None
    assert spec.submodule_search_locations
    file = Path(spec.submodule_search_locations[0]) / "train.py"
    (function,) = [
        node
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name == "get_clip_metrics"
    ]
    scope: dict[str, Any] = {"torch": torch, "np": np}
    exec(compile(ast.Module([function], []), str(file), "exec"), scope)  # noqa: S102
    return scope["get_clip_metrics"]


def zero_shot(images: torch.Tensor, classes: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
    """Return top-1, top-5 and mean per class recall, by the lines of CLIP_benchmark's own `evaluate`."""
    logits = images @ classes.t()
    top1, top5 = accuracy(logits, labels, topk=(1, 5))
    return np.array([top1, top5, balanced_accuracy_score(labels, logits.argmax(axis=1))])


if __name__ == "__main__":
    main()
