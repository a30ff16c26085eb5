"""`vecap compare`: paired differences of two models from their stored answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_mistakes import run as run_command
from tests.conftest import DEMO, REPOSITORY
from tests.train.factories import Texts, configure, publish_version, run, write_evaluation_set
from vecap_tasks import lineage
from vecap_tasks.config import Config
from vecap_tasks.core.stage import load_stage
from vecap_tasks.core.version import Version
from vecap_tasks.errors import VecapError
from vecap_tasks.evaluate.results import read_results
from vecap_tasks.lineage.compare import compare

Output = pytest.CaptureFixture[str]
SAMPLES = [Texts() for _ in range(16)]
TOKENIZER = REPOSITORY / "vecap_tasks" / "demo" / "models" / "llm"


@pytest.fixture
def config(home: Path) -> Config:
    """A configuration of two models with an evaluation set; its file is `own.yaml` in *home*."""
    config = configure(home, arms="[alttext, vecap]", epochs=1, model__tokenizer=TOKENIZER)
    write_evaluation_set(config)
    (home / "own.yaml").write_text(config.model_dump_json(), encoding="utf-8")
    return config


def evaluate(config: Config, interval: str = "2026-01-01") -> Version:
    version = publish_version(config, SAMPLES, interval)
    run("train", config, version)
    run("evaluate", config, version)
    return version


def test_differences_are_those_of_the_arms_with_one_seed(config: Config, home: Path, capfd: Output) -> None:
    version = evaluate(config)
    stage = load_stage("evaluate", config, version)
    results = read_results(stage.store, stage.manifest())
    found = compare(config, "alttext-0", "2026-01-01/vecap-0")
    assert (found.first, found.second, found.warnings) == ("2026-01-01/alttext-0", "2026-01-01/vecap-0", ())
    expected = {comparison.metric: comparison for comparison in results.comparisons}
    assert [metric.key for metric in found.metrics] == list(results.titles)
    for metric in found.metrics:
        paired = expected[metric.key]
        assert (metric.difference.difference, metric.difference.low, metric.difference.high, metric.difference.p) == (
            pytest.approx((paired.difference, paired.low, paired.high, paired.p))
        )
        assert metric.first - metric.second == pytest.approx(metric.difference.difference)
    assert {(metric.images, metric.queries) for metric in found.metrics} == {(12, 12), (12, 24)}
    swapped = compare(config, "vecap-0", "alttext-0")
    for one, other in zip(found.metrics, swapped.metrics, strict=True):
        assert one.difference.low == pytest.approx(-other.difference.high)

    code, output, errors = run_command(f"compare --config {home}/own.yaml alttext-0 vecap-0", capfd)
    assert (code, errors) == (0, "")
    lines = output.splitlines()
    assert lines[:2] == ["A  2026-01-01/alttext-0", "B  2026-01-01/vecap-0"]
    assert lines[3].split()[:6] == ["metric", "A", "B", "A", "-", "B"]
    assert "95 % interval" in lines[3]
    assert len(lines[4:13]) == len(results.titles)
    code, output, _ = run_command(f"compare --config {home}/own.yaml alttext-0 vecap-0 --json", capfd)
    assert [metric["key"] for metric in json.loads(output)["metrics"]] == list(results.titles)


def test_only_the_same_sets_are_compared(config: Config, home: Path, capfd: Output) -> None:
    config = config.model_copy(update={"train": config.training.model_copy(update={"arms": ("vecap",)})})
    config = config.with_base(DEMO.parent)
    folder = Path(config.resolve(config.evaluation.dataset or ""))
    captions, labels = folder / "captions.csv", folder / "labels.csv"
    evaluate(config)
    before = captions.read_text(encoding="utf-8")
    captions.write_text(before.replace("a picture", "one picture"), encoding="utf-8")
    first, *lines = labels.read_text(encoding="utf-8").splitlines()
    labels.write_text("\n".join([first, *lines[::-1]]) + "\n", encoding="utf-8")
    version = evaluate(config, "2026-01-02")
    command = f"compare --config {home}/own.yaml 2026-01-01/vecap-0 2026-01-02/vecap-0"
    code, output, errors = run_command(command, capfd)
    assert (code, output, errors.count("\n")) == (1, "", 1)
    assert errors.startswith(
        "vecap: 2026-01-01/vecap-0 and 2026-01-02/vecap-0 were evaluated on different sets (retrieval "
    )
    assert errors.endswith("; evaluate both with the same settings of `evaluate`\n")

    captions.write_text(before, encoding="utf-8")
    run("evaluate", config, version)
    code, output, errors = run_command(command, capfd)
    assert code == 0
    assert "I2T R@1" in output
    assert "zero-shot" not in output
    assert errors == "vecap: not compared, because only one model was evaluated on the same set: zero_shot\n"


def test_the_newest_common_evaluation_is_used(config: Config) -> None:
    version = evaluate(config)
    before = compare(config, "alttext-0", "vecap-0")
    bootstrap = config.evaluation.bootstrap.model_copy(update={"rounds": 100})
    section = config.evaluation.model_copy(update={"ties": "open_clip", "bootstrap": bootstrap})
    other = config.model_copy(update={"evaluate": section}).with_base(config.base)
    run("evaluate", other, version)
    after = compare(other, "alttext-0", "vecap-0")
    assert (before.rounds, after.rounds, after.warnings) == (1000, 100, ())


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("mixed", "vecap-0"), "mixed is not the name of a model; give RUN or VERSION/RUN"),
        (("mixed-0", "vecap-0"), "dataset demo has no model mixed-0; give VERSION/ARM-SEED"),
        (("2026-01-01/vecap-7", "vecap-0"), "version 2026-01-01 has no model vecap-7"),
        (("2026-02-02/vecap-0", "vecap-0"), "no version 2026-02-02; its versions are: 2026-01-01"),
        (("vecap-0", "alttext-0"), "model 2026-01-01/vecap-0 has not been evaluated; run `vecap evaluate --version"),
        (("models:/demo-clip@champion", "vecap-0"), "has no models:/demo-clip@champion"),
    ],
)
def test_a_model_that_cannot_be_compared_is_one_line(config: Config, names: tuple[str, str], message: str) -> None:
    run("train", config, publish_version(config, SAMPLES))
    with pytest.raises(VecapError) as caught:
        compare(config, *names)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_registered_models_are_compared_by_their_answers_in_mlflow(config: Config, home: Path, capfd: Output) -> None:
    version = evaluate(config)
    arms = lineage.record_clip(config, version)
    lineage.move_champion(config, version)
    expected = compare(config, "alttext-0", "vecap-0")
    champion = compare(config, "models:/demo-clip@champion", "models:/demo-clip/1")
    assert champion.first.startswith("models:/demo-clip/1 (2026-01-01/")
    assert {metric.difference.difference for metric in champion.metrics} == {0.0}
    assert champion.warnings == ()
    run_name = champion.first.partition("(2026-01-01/")[2].rstrip(")")
    other = {"alttext-0": "vecap-0", "vecap-0": "alttext-0"}[run_name]
    mixed = compare(config, "models:/demo-clip@champion", other)
    sign = 1 if run_name == "alttext-0" else -1
    for one, metric in zip(expected.metrics, mixed.metrics, strict=True):
        assert metric.difference.difference == pytest.approx(sign * one.difference.difference)
    with pytest.raises(VecapError, match="is not a trained model"):
        compare(config, arms, "vecap-0")
    code, output, errors = run_command(f"lineage --config {home}/own.yaml models:/demo-clip@champion", capfd)
    assert (code, errors) == (0, "")
    assert output.splitlines()[0].startswith(f"model 2026-01-01/{run_name} ")
    assert "in MLflow: models:/demo-clip/1" in output
    assert f"model 2026-01-01/{run_name}: verified" in output
