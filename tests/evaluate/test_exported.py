"""A trained model is other people's too: plain transformers gives the features that evaluation measures."""

import torch
from torch.nn.functional import normalize
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

from tests.train.factories import Texts, configure, give_evaluation, give_version, run
from vecap_tasks.core.stage import load_stage
from vecap_tasks.evaluate.features import Encoder
from vecap_tasks.evaluate.sets import read_sets
from vecap_tasks.evaluate.stage import fetch_model


def test_plain_clip_model_gives_the_same_features(home):
    config = configure(home, arms="[vecap]", epochs=1)
    give_evaluation(config)
    version = give_version(config, [Texts() for _ in range(8)])
    manifest = run("train", config, version)
    folder = home / "model"
    fetch_model(load_stage("train", config, version).store, manifest, "vecap-0", folder)
    (given,) = read_sets(config).retrieval
    encoder = Encoder(folder, "cpu", 5)
    model = CLIPModel.from_pretrained(folder).eval()
    texts = AutoTokenizer.from_pretrained(folder)(list(given.captions), padding=True, return_tensors="pt")
    pixels = CLIPImageProcessorPil.from_pretrained(folder)([one.load() for one in given.images], return_tensors="pt")
    with torch.inference_mode():
        both = model(input_ids=texts["input_ids"], pixel_values=pixels["pixel_values"])
    torch.testing.assert_close(encoder.images(given.images), normalize(both.image_embeds, dim=-1))
    torch.testing.assert_close(encoder.texts(given.captions), normalize(both.text_embeds, dim=-1))
