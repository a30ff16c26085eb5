"""Recall and zero-shot accuracy against the plainest reference, ties included."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from vecap_tasks.evaluate import retrieval
from vecap_tasks.evaluate.zero_shot import class_features, class_sentences, top1


def reference(images, texts, owners, k, direction):
    """Recall@k by sorting, wrong answers before right ones of the same similarity."""
    similar = (images @ texts.T).numpy()
    hits = []
    if direction == "image":
        for image in sorted(set(owners)):
            order = sorted(range(len(owners)), key=lambda t: (-similar[image, t], owners[t] == image))
            hits.append(any(owners[t] == image for t in order[:k]))
    else:
        candidates = sorted(set(owners))
        for text, owner in enumerate(owners):
            order = sorted(candidates, key=lambda i: (-similar[i, text], i == owner))
            hits.append(owner in order[:k])
    return float(np.mean(hits))


def features(seed, count, size, *, ties):
    generator = torch.Generator().manual_seed(seed)
    if ties:  # a few values, so that similarities are exact and often equal
        return torch.randint(0, 2, (count, size), generator=generator).float()
    return normalize(torch.randn(count, size, generator=generator), dim=-1)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("block", [1, 7, 10_000])
@pytest.mark.parametrize("seed", range(5))
def test_recall_is_the_reference_s(ties, block, seed, monkeypatch):
    monkeypatch.setattr(retrieval, "_BLOCK", block)
    rng = np.random.default_rng(seed)
    owners = [int(owner) for owner in rng.integers(0, 12, 30)]  # several captions for some, none for others
    images, texts = features(seed, 12, 4, ties=ties), features(seed + 100, 30, 4, ties=ties)
    by_image = retrieval.image_ranks(images, texts, owners)
    by_text = retrieval.text_ranks(images, texts, owners)
    for k in (1, 5, 10):
        assert retrieval.recall(by_image, k) == reference(images, texts, owners, k, "image")
        assert retrieval.recall(by_text, k) == reference(images, texts, owners, k, "text")


def test_a_model_that_says_the_same_of_everything_scores_nothing():
    images, texts = torch.ones(20, 3), torch.ones(20, 3)
    owners = list(range(20))
    assert retrieval.recall(retrieval.image_ranks(images, texts, owners), 10) == 0
    assert retrieval.recall(retrieval.text_ranks(images, texts, owners), 10) == 0
    assert top1(images, torch.ones(4, 3), [0] * 20) == 0


def test_a_perfect_model_scores_all():
    images = torch.eye(6)
    owners = [0, 0, 1, 2, 3, 4, 5]
    texts = images[owners]
    assert retrieval.recall(retrieval.image_ranks(images, texts, owners), 1) == 1
    assert retrieval.recall(retrieval.text_ranks(images, texts, owners), 1) == 1


def test_chance_is_what_random_orders_give():
    owners = [0, 0, 0, 1, 2, 2]
    for k in (1, 2, 5):
        orders = list(itertools.permutations(range(6)))
        hits = [any(owners[t] == image for t in order[:k]) for image in range(3) for order in orders]
        assert retrieval.chance_image_to_text(owners, k) == pytest.approx(np.mean(hits))
    assert retrieval.chance_text_to_image(owners, 1) == pytest.approx(1 / 3)
    assert retrieval.chance_text_to_image(owners, 10) == 1


def test_zero_shot_averages_normalised_templates():
    sentences = class_sentences(["cat", "dog"], ["a {}", "two {}s"])
    assert sentences == ["a cat", "two cats", "a dog", "two dogs"]
    rows = features(0, 4, 5, ties=False)
    made = class_features(rows, 2)
    expected = torch.stack([normalize(rows[:2].mean(0), dim=0), normalize(rows[2:].mean(0), dim=0)])
    torch.testing.assert_close(made, expected)
    images = features(1, 9, 5, ties=False)
    labels = [0, 1, 0, 1, 1, 0, 0, 1, 0]
    right = ((images @ expected.T).argmax(1) == torch.tensor(labels)).double().mean()
    assert top1(images, made, labels) == float(right)
