"""A trained run: what it leaves, that it is reproducible, and that a kill costs nothing but the time."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessorPil, CLIPModel

from tests.core.factories import flip_bit
from tests.train.factories import Texts, configure, give_version, picture, run
from vecap_tasks.core.executor import run_shards
from vecap_tasks.core.preprocess import veclip_values
from vecap_tasks.core.stage import load_stage
from vecap_tasks.core.tar import read_samples
from vecap_tasks.core.version import Version
from vecap_tasks.errors import ConfigError, CorruptError, VecapError
from vecap_tasks.evaluate.features import Encoder
from vecap_tasks.evaluate.sets.types import ImageFile
from vecap_tasks.train.data.images import Normalize
from vecap_tasks.train.data.loader import open_training_data
from vecap_tasks.train.data.mixture_builder import training_sources
from vecap_tasks.train.trainer import learning_rate

NO_VERSION = Version("demo", "2026-01-01", 1, "")
SAMPLES = [Texts() for _ in range(20)]


def digests(manifest):
    return {entry.path: entry.sha256 for entry in manifest.files}


def weights(manifest, shard):
    return digests(manifest)[f"{shard}/model.safetensors"]


@pytest.fixture
def config(home):
    return configure(home, arms="[vecap]")


def test_exported_folder_works_by_itself(config):
    """transformers loads it, and its own preprocessing gives the pixels and token ids that training saw."""
    version = give_version(config, SAMPLES)
    manifest = run("train", config, version)
    stage = load_stage("train", config, version)
    folder = Path(stage.store.path(f"{stage.folder}/vecap-0"))
    model = CLIPModel.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    processor = CLIPImageProcessorPil.from_pretrained(folder)
    data = open_training_data(config, version, "vecap", 0, tokenizer)
    batch = next(data.batches(0))
    assert len(batch.uids) == 8
    seen = Normalize(0, 1.0, torch.device("cpu"))(torch.from_numpy(batch.pixels), batch.uids, 0)
    [source] = training_sources(config, version, "vecap")
    given = {}
    for shard in source.shards:
        with shard.open() as stream:
            given |= {json.loads(one.members["json"])["uid"]: one for one in read_samples(stream)}
    pictures = [Image.open(io.BytesIO(given[uid].members["jpg"])) for uid in batch.uids]
    torch.testing.assert_close(processor(pictures, return_tensors="pt")["pixel_values"], seen, rtol=0, atol=1e-5)
    words = [given[uid].members["txt"].decode() for uid in batch.uids]
    padded = tokenizer([text.upper() for text in words], padding=True, truncation=True, return_tensors="pt")
    assert padded["input_ids"].tolist() == batch.ids.tolist(), "lower case is the tokenizer's own"
    with torch.inference_mode():
        exported = model(input_ids=padded["input_ids"], attention_mask=padded["attention_mask"], pixel_values=seen)
        alone = model.get_text_features(**tokenizer([words[3]], padding="max_length", return_tensors="pt"))
    text = torch.nn.functional.normalize(alone.pooler_output, dim=-1)
    torch.testing.assert_close(text[0], exported.text_embeds[3], rtol=1e-4, atol=1e-5)
    assert {entry.path.split("/")[0] for entry in manifest.files} == {"vecap-0"}


def test_the_ways_of_the_released_models_are_exported_and_evaluated(home, tmp_path):
    """VeCLIP's pixels in training and evaluation, and texts without a mark in front."""
    config = configure(home, arms="[vecap]", epochs=1, model__preprocess="veclip", model__begin_token=False)
    version = give_version(config, SAMPLES)
    run("train", config, version)
    stage = load_stage("train", config, version)
    folder = Path(stage.store.path(f"{stage.folder}/vecap-0"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.bos_token is None
    assert tokenizer("a cat")["input_ids"][-1] == CLIPConfig.from_pretrained(folder).text_config.eos_token_id
    files = [tmp_path / f"{number}.jpg" for number in range(3)]
    for number, file in enumerate(files):
        file.write_bytes(picture(number))
    exact = torch.from_numpy(veclip_values([Image.open(file) for file in files], 32))
    model = CLIPModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        features = torch.nn.functional.normalize(model.get_image_features(pixel_values=exact).pooler_output, dim=-1)
    assert torch.equal(Encoder(folder, "cpu", 8).images([ImageFile(file.name, file) for file in files]), features)
    batch = next(open_training_data(config, version, "vecap", 0, tokenizer).batches(0))
    trained = dict(zip(batch.uids, batch.pixels, strict=True))
    for uid, pixels in trained.items():
        given = veclip_values([Image.open(io.BytesIO(picture(int(uid, 16))))], 32)[0]
        seen = Normalize(0, 1.0, torch.device("cpu"))(torch.from_numpy(pixels[None]), [uid], 0)[0].numpy()
        assert np.abs(seen - given).max() < 0.5 / 255 / 0.26 + 1e-5, "rounded to whole gray levels"


def test_the_same_run_has_the_same_bytes_and_another_seed_others(home, tmp_path_factory, monkeypatch):
    config = configure(home, arms="[mixed]", seeds="[0, 1]")
    version = give_version(config, SAMPLES)
    first = run("train", config, version)
    monkeypatch.setenv("VECAP_HOME", str(tmp_path_factory.mktemp("other")))
    how = {"image_cache_bytes": 0, "checkpoint_steps": 1, "checkpoints_kept": 1, "loader_threads": 1}
    elsewhere = configure(home, arms="[mixed]", seeds="[0, 1]", **how)
    second = run("train", elsewhere, give_version(elsewhere, SAMPLES))
    assert first.digest == second.digest
    assert weights(first, "mixed-0") != weights(first, "mixed-1")
    stage = load_stage("train", config, version)
    assert not stage.store.folders(f"{stage.folder}/_checkpoints")


def test_log_has_every_step_and_no_time(config):
    version = give_version(config, SAMPLES)
    manifest = run("train", config, version)
    stage = load_stage("train", config, version)
    lines = [json.loads(line) for line in stage.store.read(manifest.file("vecap-0/log.jsonl")).splitlines()]
    summary = json.loads(stage.store.read(manifest.file("vecap-0/training.json")))
    assert [line["step"] for line in lines] == list(range(1, 6)), "2 epochs of 20 samples in batches of 8"
    assert set(lines[0]) == {"step", "epoch", "loss", "learning_rate", "logit_scale", "gradient_norm"}
    rates = [learning_rate(step, len(lines), config.train) for step in range(len(lines))]
    assert [line["learning_rate"] for line in lines] == rates
    assert len(set(rates)) > 1
    assert summary["final_loss"] == lines[-1]["loss"]
    assert manifest.counters == {"runs": 1, "steps": 5, "samples": 20, "left_out": 0}


def test_samples_without_a_text_are_left_out_and_counted(home):
    config = configure(home, arms="[alttext, vec, mixed]")
    samples = [*SAMPLES, *(Texts(alttext="") for _ in range(6)), Texts(alttext="", vec="", vecap=""), Texts(vec="")]
    version = give_version(config, samples)
    manifest = run("train", config, version)
    read = load_stage("train", config, version).store.read
    said = {arm: json.loads(read(manifest.file(f"{arm}-0/training.json"))) for arm in ("alttext", "vec", "mixed")}
    assert {arm: (one["samples"], one["left_out"]) for arm, one in said.items()} == {
        "alttext": (21, 7),
        "vec": (26, 2),
        "mixed": (27, 1),
    }
    assert len({one["steps"] for one in said.values()}) == 1, "every arm sees as many samples"


def test_loss_falls_on_what_can_be_learned(home):
    config = configure(home, arms="[vecap]", epochs=100, learning_rate=0.003)
    version = give_version(config, SAMPLES)
    manifest = run("train", config, version)
    store = load_stage("train", config, version).store
    losses = [json.loads(line)["loss"] for line in store.read(manifest.file("vecap-0/log.jsonl")).splitlines()]
    assert losses[0] > 1.8, "about log 8 before anything is learned"
    assert np.mean(losses[-5:]) < 0.5


RUN = """
import json, sys
from pathlib import Path
from vecap_tasks.config import parse_config
from vecap_tasks.core.store import Store
from vecap_tasks.core.version import read_version
from vecap_tasks.core.stage import load_stage
config = parse_config(json.loads(sys.argv[1]), Path(sys.argv[2]))
store = Store(config.resolve(config.root))
load_stage("train", config, read_version(store, config.dataset, "2026-01-01")).run("mixed-0")
"""


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", ["file", "s3"])
def test_a_run_killed_at_a_checkpoint_ends_as_one_that_was_not(home, tmp_path_factory, monkeypatch, request, kind):
    """SIGKILL in another process, at some step after the first checkpoint; then the same run again, here."""
    settings = {"arms": "[mixed]", "epochs": 40, "checkpoint_steps": 20}
    config = configure(home, **settings)
    if kind == "s3":
        there = {"root": f"s3://{request.getfixturevalue('s3_bucket')}/store"}
        config = config.model_copy(update=there).with_base(config.base)
    version = give_version(config, SAMPLES)
    stage = load_stage("train", config, version)
    checkpoints = stage.checkpoints("mixed-0")
    killed = subprocess.Popen(
        [sys.executable, "-c", RUN, config.model_dump_json(), str(config.base)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        for _ in range(6000):
            if checkpoints.steps() or killed.poll() is not None:
                break
            time.sleep(0.01)
    finally:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    assert checkpoints.steps()
    assert not stage.receipts()
    steps = []
    stage.report = lambda progress: steps.append(progress.record.step)
    stage.run("mixed-0")
    resumed = stage.commit()
    assert steps[0] > 20, "it went on from the checkpoint"
    assert not checkpoints.steps()
    monkeypatch.setenv("VECAP_HOME", str(tmp_path_factory.mktemp("undisturbed")))
    other = configure(home, **settings)
    assert digests(run("train", other, give_version(other, SAMPLES))) == digests(resumed)


def stopped_after(stage, shard, step):
    """Train *shard* until SIGTERM comes after *step*, as Airflow sends it; return how the run took leave."""

    def tell(progress):
        if progress.record.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    stage.report = tell
    with pytest.raises(VecapError) as left:
        stage.run(shard)
    stage.report = None
    return str(left.value)


def test_told_to_end_it_saves_and_leaves_and_goes_on_from_there(config, tmp_path_factory, monkeypatch):
    """In the middle of an epoch, with no checkpoint due."""
    version = give_version(config, SAMPLES)
    stage = load_stage("train", config, version)
    assert stopped_after(stage, "vecap-0", 1).startswith("vecap-0: told to end, and saved after step 4 of 5")
    assert stage.checkpoints("vecap-0").steps() == [4]
    assert not stage.receipts()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    resumed = run("train", config, version)
    monkeypatch.setenv("VECAP_HOME", str(tmp_path_factory.mktemp("undisturbed")))
    assert digests(run("train", config, give_version(config, SAMPLES))) == digests(resumed)


def test_the_last_checkpoints_are_kept_and_one_cut_short_costs_itself(home):
    config = configure(home, arms="[vecap]", checkpoint_steps=1, checkpoints_kept=2)
    version = give_version(config, SAMPLES)
    stage = load_stage("train", config, version)
    stopped_after(stage, "vecap-0", 1)
    kept = stage.checkpoints("vecap-0").steps()
    assert len(kept) == 2
    place = f"{stage.folder}/_checkpoints/vecap-0"
    stage.store.put(f"{place}/{kept[1]:09d}.pt", b"PK\x03\x04 half of a checkpoint")
    steps = []
    stage.report = lambda progress: steps.append(progress.record.step)
    stage.run("vecap-0")
    assert steps[0] == kept[0] + 1
    assert len(stage.store.read(f"{stage.folder}/vecap-0/log.jsonl").splitlines()) == 5


def test_speeds_are_attached_and_no_part_of_the_digest(config):
    version = give_version(config, SAMPLES)
    manifest = run("train", config, version)
    [entry] = manifest.attachments
    speed = json.loads(load_stage("train", config, version).store.read(manifest.file(entry.path)).splitlines()[-1])
    assert entry.path == "vecap-0/throughput.jsonl"
    assert speed["step"] == 5
    assert speed["samples_per_second"] > 0
    assert speed["gpu_memory"] is speed["mfu"] is None, "there is no GPU"


def test_a_loss_that_is_not_finite_names_the_batch(home):
    config = configure(home, arms="[vecap]", learning_rate=1e30, epochs=10, gradient_clip=1e30)
    version = give_version(config, SAMPLES)
    with pytest.raises(VecapError, match=r"vecap-0: the loss is \S+ at step \d+ \(epoch \d+, batch \d+, .*sample 0"):
        run("train", config, version)
    assert load_stage("train", config, version).manifest() is None


def test_too_few_texts_is_one_clear_line(config):
    version = give_version(config, [Texts(), *(Texts(vecap="") for _ in range(5))])
    with pytest.raises(VecapError, match="1 of 6 samples have a text for the arm vecap"):
        run("train", config, version)


def test_one_changed_bit_of_a_shard_is_named_before_training_and_after(config):
    version = give_version(config, SAMPLES)
    stage = load_stage("train", config, version)
    name = f"{version.folder}/assemble/00001.tar"
    flip_bit(stage.store, name)
    with pytest.raises(CorruptError, match=rf"{name} is corrupt: .*; restore it, or delete .*/assemble"):
        stage.plan()
    flip_bit(stage.store, name)
    run_shards(stage, stage.plan())
    flip_bit(stage.store, name)
    with pytest.raises(CorruptError, match=rf"{name} is corrupt"):
        stage.commit()
    assert stage.manifest() is None
    assert stage.receipts() == [], "what was trained on it is trained again"


def test_settings_that_change_the_model_change_the_fingerprint(home):
    def fingerprint(**train):
        return load_stage("train", configure(home, **train), NO_VERSION).fingerprint

    base = fingerprint()
    assert (
        fingerprint(checkpoint_steps=7, image_cache_bytes=0, launch="{processes: 8}", activation_checkpointing=True)
        == base
    )
    changes = [{"epochs": 3}, {"mixed_p": 0.4}, {"model__context": 16}, {"threads": 2}, {"seeds": "[1]"}]
    changes += [{"device": "cuda"}, {"precision": "bfloat16"}, {"micro_batch": 4}, {"compile": True}]
    changes += [{"deterministic": False}]
    assert len({base, *(fingerprint(**change) for change in changes)}) == 1 + len(changes)


def test_a_tokenizer_that_is_not_there_is_one_clear_line(home):
    config = configure(home, model__tokenizer="./nowhere")
    with pytest.raises(ConfigError, match=r"train\.model\.tokenizer: folder .*nowhere does not exist"):
        load_stage("train", config, NO_VERSION).identity()
