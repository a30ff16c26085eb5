"""The train stage: its outputs, reproducibility and resuming."""

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
from tests.train.factories import Texts, configure, publish_version, run, scene_image
from vecap_tasks.core.executor import run_shards
from vecap_tasks.core.preprocess import veclip_values
from vecap_tasks.core.stage import load_stage
from vecap_tasks.core.tar import read_samples
from vecap_tasks.core.verify import verify_version
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


def test_the_exported_folder_is_self_contained(config):
    """transformers loads it, and its preprocessing gives the pixels and token ids of training."""
    version = publish_version(config, SAMPLES)
    manifest = run("train", config, version)
    stage = load_stage("train", config, version)
    folder = Path(stage.store.path(f"{stage.folder}/vecap-0"))
    model = CLIPModel.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    processor = CLIPImageProcessorPil.from_pretrained(folder)
    data = open_training_data(config, version, "vecap", 0, tokenizer)
    batch = next(data.batches(0))
    assert len(batch.uids) == 8
    pixels = Normalize(0, 1.0, torch.device("cpu"))(torch.from_numpy(batch.images), batch.uids, 0)
    [source] = training_sources(config, version, "vecap")
    samples = {}
    for shard in source.shards:
        with shard.open() as stream:
            samples |= {json.loads(sample.members["json"])["uid"]: sample for sample in read_samples(stream)}
    images = [Image.open(io.BytesIO(samples[uid].members["jpg"])) for uid in batch.uids]
    torch.testing.assert_close(processor(images, return_tensors="pt")["pixel_values"], pixels, rtol=0, atol=1e-5)
    texts = [samples[uid].members["txt"].decode() for uid in batch.uids]
    padded = tokenizer([text.upper() for text in texts], padding=True, truncation=True, return_tensors="pt")
    assert padded["input_ids"].tolist() == batch.ids[:, 0].tolist(), "the tokenizer lowercases"
    with torch.inference_mode():
        exported = model(input_ids=padded["input_ids"], attention_mask=padded["attention_mask"], pixel_values=pixels)
        single = model.get_text_features(**tokenizer([texts[3]], padding="max_length", return_tensors="pt"))
    text = torch.nn.functional.normalize(single.pooler_output, dim=-1)
    torch.testing.assert_close(text[0], exported.text_embeds[3], rtol=1e-4, atol=1e-5)
    assert {entry.path.split("/")[0] for entry in manifest.files} == {"vecap-0"}


def test_training_and_evaluation_use_veclip_preprocessing(home, tmp_path):
    """VeCLIP's pixels, and texts without BOS."""
    config = configure(home, arms="[vecap]", epochs=1, model__preprocess="veclip", model__begin_token=False)
    version = publish_version(config, SAMPLES)
    run("train", config, version)
    stage = load_stage("train", config, version)
    folder = Path(stage.store.path(f"{stage.folder}/vecap-0"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.bos_token is None
    assert tokenizer("a cat")["input_ids"][-1] == CLIPConfig.from_pretrained(folder).text_config.eos_token_id
    files = [tmp_path / f"{number}.jpg" for number in range(3)]
    for number, file in enumerate(files):
        file.write_bytes(scene_image(number))
    pixel_values = torch.from_numpy(veclip_values([Image.open(file) for file in files], 32))
    model = CLIPModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        outputs = model.get_image_features(pixel_values=pixel_values).pooler_output
    features = torch.nn.functional.normalize(outputs, dim=-1)
    assert torch.equal(Encoder(folder, "cpu", 8).images([ImageFile(file.name, file) for file in files]), features)
    batch = next(open_training_data(config, version, "vecap", 0, tokenizer).batches(0))
    trained = dict(zip(batch.uids, batch.images, strict=True))
    for uid, pixels in trained.items():
        expected = veclip_values([Image.open(io.BytesIO(scene_image(int(uid, 16))))], 32)[0]
        result = Normalize(0, 1.0, torch.device("cpu"))(torch.from_numpy(pixels[None]), [uid], 0)[0].numpy()
        assert np.abs(result - expected).max() < 0.5 / 255 / 0.26 + 1e-5, "rounded to integer pixel values"


def test_a_repeated_run_has_the_same_bytes_and_another_seed_has_others(home, tmp_path_factory, monkeypatch):
    config = configure(home, arms="[mixed]", seeds="[0, 1]")
    version = publish_version(config, SAMPLES)
    first = run("train", config, version)
    monkeypatch.setenv("VECAP_HOME", str(tmp_path_factory.mktemp("other")))
    settings = {"image_cache_bytes": 0, "checkpoint_steps": 1, "checkpoints_kept": 1, "loader_threads": 1}
    other = configure(home, arms="[mixed]", seeds="[0, 1]", **settings)
    second = run("train", other, publish_version(other, SAMPLES))
    assert first.digest == second.digest
    assert weights(first, "mixed-0") != weights(first, "mixed-1")
    stage = load_stage("train", config, version)
    assert not stage.store.folders(f"{stage.folder}/_checkpoints")


def test_the_log_has_every_step_and_no_timestamps(config):
    version = publish_version(config, SAMPLES)
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
    version = publish_version(config, samples)
    manifest = run("train", config, version)
    read = load_stage("train", config, version).store.read
    summaries = {arm: json.loads(read(manifest.file(f"{arm}-0/training.json"))) for arm in ("alttext", "vec", "mixed")}
    assert {arm: (summary["samples"], summary["left_out"]) for arm, summary in summaries.items()} == {
        "alttext": (21, 7),
        "vec": (26, 2),
        "mixed": (27, 1),
    }
    assert len({summary["steps"] for summary in summaries.values()}) == 1, "all arms have the same number of steps"


def test_the_loss_decreases_on_learnable_data(home):
    config = configure(home, arms="[vecap]", epochs=100, learning_rate=0.003)
    version = publish_version(config, SAMPLES)
    manifest = run("train", config, version)
    store = load_stage("train", config, version).store
    losses = [json.loads(line)["loss"] for line in store.read(manifest.file("vecap-0/log.jsonl")).splitlines()]
    assert losses[0] > 1.8, "about log 8 for an untrained model"
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
def test_a_killed_run_resumes_to_the_same_bytes(home, tmp_path_factory, monkeypatch, request, kind):
    """Another process gets SIGKILL after its first checkpoint; then this process resumes the run."""
    settings = {"arms": "[mixed]", "epochs": 40, "checkpoint_steps": 20}
    config = configure(home, **settings)
    if kind == "s3":
        root = {"root": f"s3://{request.getfixturevalue('s3_bucket')}/store"}
        config = config.model_copy(update=root).with_base(config.base)
    version = publish_version(config, SAMPLES)
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
    assert steps[0] > 20, "it resumed from the checkpoint"
    assert not checkpoints.steps()
    monkeypatch.setenv("VECAP_HOME", str(tmp_path_factory.mktemp("undisturbed")))
    other = configure(home, **settings)
    assert digests(run("train", other, publish_version(other, SAMPLES))) == digests(resumed)


def stop_after(stage, shard, step):
    """Train *shard*, send SIGTERM after *step* as Airflow does, and return the error message."""

    def stop(progress):
        if progress.record.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    stage.report = stop
    with pytest.raises(VecapError) as raised:
        stage.run(shard)
    stage.report = None
    return str(raised.value)


def test_sigterm_saves_a_checkpoint_from_which_the_run_resumes(config, tmp_path_factory, monkeypatch):
    """SIGTERM in the middle of an epoch, with no checkpoint due."""
    version = publish_version(config, SAMPLES)
    stage = load_stage("train", config, version)
    message = stop_after(stage, "vecap-0", 1)
    assert message.startswith("vecap-0: received SIGTERM, saved a checkpoint after step 4 of 5; run the same command")
    assert stage.checkpoints("vecap-0").steps() == [4]
    assert not stage.receipts()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    resumed = run("train", config, version)
    monkeypatch.setenv("VECAP_HOME", str(tmp_path_factory.mktemp("undisturbed")))
    assert digests(run("train", config, publish_version(config, SAMPLES))) == digests(resumed)


def test_a_checkpoint_with_a_flipped_bit_is_not_used(home):
    config = configure(home, arms="[vecap]", checkpoint_steps=1, checkpoints_kept=2)
    stage = load_stage("train", config, publish_version(config, SAMPLES))
    stop_after(stage, "vecap-0", 1)
    checkpoints = stage.checkpoints("vecap-0")
    folder = f"{stage.folder}/_checkpoints/vecap-0"
    flip_bit(stage.store, f"{folder}/{stage.store.files(folder)[-1]}")
    state = checkpoints.load()
    assert state is not None
    assert len(state.records) == checkpoints.steps()[0]


def test_a_run_resumes_from_the_latest_readable_checkpoint(home):
    config = configure(home, arms="[vecap]", checkpoint_steps=1, checkpoints_kept=2)
    version = publish_version(config, SAMPLES)
    stage = load_stage("train", config, version)
    stop_after(stage, "vecap-0", 1)
    kept = stage.checkpoints("vecap-0").steps()
    assert len(kept) == 2
    folder = f"{stage.folder}/_checkpoints/vecap-0"
    last = max(stage.store.files(folder))
    stage.store.put(f"{folder}/{last}", b"PK\x03\x04 half of a checkpoint")
    steps = []
    stage.report = lambda progress: steps.append(progress.record.step)
    stage.run("vecap-0")
    assert steps[0] == kept[0] + 1
    assert len(stage.store.read(f"{stage.folder}/vecap-0/log.jsonl").splitlines()) == 5


def test_throughput_is_an_attachment(config):
    version = publish_version(config, SAMPLES)
    manifest = run("train", config, version)
    [entry] = manifest.attachments
    speed = json.loads(load_stage("train", config, version).store.read(manifest.file(entry.path)).splitlines()[-1])
    assert entry.path == "vecap-0/throughput.jsonl"
    assert speed["step"] == 5
    assert speed["samples_per_second"] > 0
    assert speed["gpu_memory"] is speed["mfu"] is None, "no GPU"


def test_a_slower_run_does_not_change_the_files_of_a_committed_stage(config, tmp_path):
    version = publish_version(config, SAMPLES)
    manifest = run("train", config, version)
    load_stage("train", config, version).process("vecap-0", tmp_path)
    verification = verify_version(load_stage("train", config, version).store, version)
    assert [entry.path for entry in manifest.attachments] == ["vecap-0/throughput.jsonl"]
    assert verification.corruptions == ()


def test_the_error_for_a_nonfinite_loss_includes_the_batch(home):
    config = configure(home, arms="[vecap]", learning_rate=1e30, epochs=10, gradient_clip=1e30)
    version = publish_version(config, SAMPLES)
    with pytest.raises(VecapError, match=r"vecap-0: loss is \S+ at step \d+ \(epoch \d+, batch \d+, first sample 0"):
        run("train", config, version)
    assert load_stage("train", config, version).manifest() is None


def test_too_few_samples_with_a_text_is_one_clear_line(config):
    version = publish_version(config, [Texts(), *(Texts(vecap="") for _ in range(5))])
    with pytest.raises(VecapError, match="1 of 6 samples have a text for the arm vecap"):
        run("train", config, version)


def test_a_changed_shard_is_reported_before_and_after_training(config):
    version = publish_version(config, SAMPLES)
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
    assert stage.receipts() == [], "the run will be trained again"


def test_settings_that_change_the_model_change_the_fingerprint(home):
    def fingerprint(**train):
        return load_stage("train", configure(home, **train), NO_VERSION).fingerprint

    base = fingerprint()
    assert (
        fingerprint(checkpoint_steps=7, image_cache_bytes=0, launch="{processes: 8}", activation_checkpointing=True)
        == base
    )
    changes = [
        {"epochs": 3},
        {"texts__mixed": "{alttext: 0.4, vecap: 0.6}", "arms": "[mixed]"},
        {"model__context": 16},
        {"threads": 2},
        {"seeds": "[1]"},
    ]
    changes += [{"device": "cuda"}, {"precision": "bfloat16"}, {"micro_batch": 4}, {"compile": True}]
    changes += [{"deterministic": False}]
    assert len({base, *(fingerprint(**change) for change in changes)}) == 1 + len(changes)


def test_a_missing_tokenizer_is_one_clear_line(home):
    config = configure(home, model__tokenizer="./nowhere")
    with pytest.raises(ConfigError, match=r"train\.model\.tokenizer: folder .*nowhere does not exist"):
        load_stage("train", config, NO_VERSION).identity()
