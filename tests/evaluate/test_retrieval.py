"""Retrieval and zero-shot classification against a naive reference, CLIP_benchmark and open_clip."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from tests.conftest import REPOSITORY
from vecap_tasks.core.private_data import HIDDEN
from vecap_tasks.evaluate import features as features_module
from vecap_tasks.evaluate import metrics, retrieval
from vecap_tasks.evaluate.charts import plot_retrieved
from vecap_tasks.evaluate.features import Features, class_features, class_sentences, zero_shot_hits
from vecap_tasks.evaluate.retrieval import image_to_text_hits, text_to_image_hits
from vecap_tasks.evaluate.sets import ImageFile, RetrievalSet

KS = (1, 5, 10)


def reference(images, texts, owners, k, direction):
    """Return recall@k by sorting; wrong answers rank before correct ones of the same similarity."""
    similar = (images @ texts.T).numpy()
    hits = []
    if direction == "image":
        for image in range(len(images)):
            order = sorted(range(len(owners)), key=lambda t: (-similar[image, t], owners[t] == image))
            hits.append(any(owners[t] == image for t in order[:k]))
    else:
        for text, owner in enumerate(owners):
            order = sorted(range(len(images)), key=lambda i: (-similar[i, text], i == owner))
            hits.append(owner in order[:k])
    return float(np.mean(hits))


def features(seed, count, size, *, ties):
    generator = torch.Generator().manual_seed(seed)
    if ties:  # few distinct values, so that similarities are exact and often equal
        return torch.randint(0, 2, (count, size), generator=generator).float()
    return normalize(torch.randn(count, size, generator=generator), dim=-1)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("block", [1, 70, 10_000])
@pytest.mark.parametrize("seed", range(3))
def test_recall_matches_the_reference(ties, block, seed, monkeypatch):
    monkeypatch.setattr(retrieval, "BLOCK", block)
    rng = np.random.default_rng(seed)
    owners = rng.permutation(
        [*range(12), *rng.integers(0, 12, 18)]
    ).tolist()  # one caption for some, several for others
    images, texts = features(seed, 12, 4, ties=ties), features(seed + 100, 30, 4, ties=ties)
    by_image, by_text = image_to_text_hits(images, texts, owners), text_to_image_hits(images, texts, owners)
    for column, k in enumerate(KS):
        assert by_image[:, column].mean() == reference(images, texts, owners, k, "image")
        assert by_text[:, column].mean() == reference(images, texts, owners, k, "text")


@pytest.fixture(scope="module")
def golden():
    return np.load(REPOSITORY / "tests/data/evaluation/golden.npz")


def golden_tensor(golden, name, part):
    return torch.from_numpy(golden[f"{name}_{part}"])


@pytest.mark.parametrize("block", [1000, 4_000_000])
@pytest.mark.parametrize("name", ["ties", "usual"])
def test_retrieval_matches_clip_benchmark_including_ties(golden, name, block, monkeypatch):
    monkeypatch.setattr(retrieval, "BLOCK", block)
    images, texts = golden_tensor(golden, name, "images"), golden_tensor(golden, name, "texts")
    owners = golden_tensor(golden, name, "owners").tolist()
    expected = golden[f"{name}_clip_benchmark"]
    recalls = [
        hits(images, texts, owners, "clip_benchmark").mean(axis=0) for hits in (image_to_text_hits, text_to_image_hits)
    ]
    assert np.abs(recalls - expected).max() < 1e-6
    pessimistic = [hits(images, texts, owners).mean(axis=0) for hits in (image_to_text_hits, text_to_image_hits)]
    assert (np.array(pessimistic) <= expected + 1e-6).all()
    if name == "ties":
        assert (np.array(pessimistic) < expected - 0.01).any(), "ties must affect the recall"


@pytest.mark.parametrize("name", ["ties", "usual"])
def test_retrieval_matches_open_clip_including_ties(golden, name):
    images, texts = golden_tensor(golden, name, "images"), golden_tensor(golden, name, "paired")
    owners = list(range(len(images)))
    recalls = [
        hits(images, texts, owners, "open_clip").mean(axis=0) for hits in (image_to_text_hits, text_to_image_hits)
    ]
    assert np.abs(recalls - golden[f"{name}_open_clip"]).max() < 1e-6


@pytest.mark.parametrize("block", [1000, 4_000_000])
@pytest.mark.parametrize("name", ["ties", "usual"])
def test_zero_shot_matches_clip_benchmark_including_ties(golden, name, block, monkeypatch):
    monkeypatch.setattr(features_module, "BLOCK", block)
    images, classes = golden_tensor(golden, name, "images"), golden_tensor(golden, name, "texts")[:30]
    labels = [number % 30 for number in range(len(images))]
    hits = zero_shot_hits(images, classes, labels, "clip_benchmark")
    # Each class has three images, so the mean over classes is the mean over images.
    assert np.abs(hits.mean(axis=0) - golden[f"{name}_zero_shot"]).max() < 1e-6


def test_a_constant_model_scores_zero():
    images, texts = torch.ones(20, 3), torch.ones(20, 3)
    owners = list(range(20))
    assert not image_to_text_hits(images, texts, owners).any()
    assert not text_to_image_hits(images, texts, owners).any()
    assert not zero_shot_hits(images, torch.ones(6, 3), [0] * 20).any()


def test_a_perfect_model_scores_one():
    images = torch.eye(6)
    owners = [0, 0, 1, 2, 3, 4, 5]
    texts = images[owners]
    for ties in ("pessimistic", "clip_benchmark", "open_clip"):
        assert image_to_text_hits(images, texts, owners, ties).all()
        assert text_to_image_hits(images, texts, owners, ties).all()


def test_chance_is_the_mean_over_random_rankings():
    owners = [0, 0, 0, 1, 2, 2]
    for k in (1, 2, 5):
        orders = list(itertools.permutations(range(6)))
        hits = [any(owners[t] == image for t in order[:k]) for image in range(3) for order in orders]
        assert metrics.chance_image_to_text(owners, k) == pytest.approx(np.mean(hits))
    assert metrics.chance_text_to_image(owners, 1) == pytest.approx(1 / 3)
    assert metrics.chance_text_to_image(owners, 10) == 1


def test_zero_shot_averages_normalized_templates():
    sentences = class_sentences(["cat", "dog"], ["a {}", "two {}s"])
    assert sentences == ["a cat", "two cats", "a dog", "two dogs"]
    rows = features(0, 4, 5, ties=False)
    result = class_features(rows, 2)
    expected = torch.stack([normalize(rows[:2].mean(0), dim=0), normalize(rows[2:].mean(0), dim=0)])
    torch.testing.assert_close(result, expected)
    images = features(1, 9, 5, ties=False)
    labels = [0, 1, 0, 1, 1, 0, 0, 1, 0]
    correct = (images @ expected.T).argmax(1) == torch.tensor(labels)
    assert zero_shot_hits(images, result, labels)[:, 0].tolist() == correct.tolist()


def test_example_sheets_hide_captions_with_private_data(tmp_path):
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.png")
    encoded = Features(torch.ones(1, 1), torch.ones(1, 1))
    for name, caption in (("private", "A van, call 212-555-0142"), ("hidden", HIDDEN), ("other", "A van")):
        dataset = RetrievalSet("", (ImageFile("a.png", tmp_path / "a.png"),), (caption,), (0,))
        plot_retrieved(dataset, encoded, tmp_path / f"{name}.png")
    private, hidden, other = ((tmp_path / f"{name}.png").read_bytes() for name in ("private", "hidden", "other"))
    assert private == hidden != other
