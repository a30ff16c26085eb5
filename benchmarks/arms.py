"""The paper's table in miniature: CLIP trained on each arm, for several dataset sizes and seeds.

    python -m benchmarks.arms [--json FILE] [--sizes N …] [--seeds N] [--described P …] [--steps N]

For each size, generates a miniature web and runs every stage with `vecap run`, in its own folder under
`.vecap/benchmarks/arms`; an interrupted benchmark resumes. A size is the number of images in the crawl, of which about
three in four are accepted. All models train for the same number of steps, so that only the data differs, and share one
held-out evaluation set. The table shows means and 95 % intervals (over images and seeds), and each arm's difference to
`alttext`, paired by evaluation image.

`--described 0.16 0.9` repeats the largest size with these shares of descriptive AltText, to test whether `mixed` loses
to `vecap` because the AltText is noise.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.report import Measure, machine
from vecap_tasks.config import Config, load_config
from vecap_tasks.core.open_version import open_version
from vecap_tasks.core.stage import Stage, load_stage
from vecap_tasks.core.store import Store
from vecap_tasks.demo.alttext import CATEGORY_WEIGHTS
from vecap_tasks.demo.evalset import write_evalset
from vecap_tasks.demo.web import generate_day
from vecap_tasks.evaluate.results import Results, read_results

_REPOSITORY = Path(__file__).resolve().parent.parent
_DEMO = _REPOSITORY / "configs" / "demo.yaml"
_DAY = dt.date(2026, 1, 1)
_EVALUATION_IMAGES = 1000
_SHOWN = ("image_to_text_1", "text_to_image_1", "text_to_image_10", "zero_shot_top1")
_ARMS = ["alttext", "alttext_rewritten", "vec", "vecap", "mixed"]
_DEFAULT_DESCRIBED = CATEGORY_WEIGHTS["good"] / sum(CATEGORY_WEIGHTS.values())


@dataclass(frozen=True, slots=True)
class Web:
    """A miniature web: number of images in its crawl, and share of descriptive AltText."""

    images: int
    described: float | None = None

    @property
    def name(self) -> str:
        return f"{self.images}" if self.described is None else f"{self.images}-described-{self.described:g}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result for one web: number of samples in its version, and results of the arms."""

    web: Web
    samples: int
    results: Results


def outcome(web: Web, home: Path, seeds: int, steps: int) -> Outcome:
    """Run the stages of *web* in *home* that are not complete, and return the results."""
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "web" / "complete").exists():
        generate_day(home / "web", _DAY, 0, web.images, described=web.described)
        write_evalset(home / "web" / "evaluation", 0, _EVALUATION_IMAGES)
        (home / "web" / "complete").touch()
    os.environ["VECAP_HOME"] = str(home)
    for name in ("VECAP_MLFLOW_URI", "VECAP_DASK_ADDRESS"):  # keep all files in *home*
        os.environ.pop(name, None)
    settings = ["train.arms=" + json.dumps(_ARMS), f"train.seeds={list(range(seeds))}"]
    if "alttext_rewritten" in _ARMS:
        settings.append("rewrite.alttext_prompt=rewrite")
    with _served(home / "web") as port:
        os.environ["VECAP_WEB_PORT"] = str(port)
        for name in ("crawl", "quality", "rewrite", "assemble"):
            _vecap(name, settings)
    config = load_config(_DEMO, settings)
    samples = _samples(config)
    # Train for the same number of steps at every size: smaller sets take more epochs.
    epochs = max(1, round(steps * config.train.batch_size / samples))
    settings.append(f"train.epochs={epochs}")
    for name in ("train", "evaluate"):
        _vecap(name, settings)
    return Outcome(web, samples, _results(load_config(_DEMO, settings)))


def _vecap(stage: str, settings: Sequence[str]) -> None:
    overrides = [word for setting in settings for word in ("--set", setting)]
    arguments = ["--config", str(_DEMO), "--version", _DAY.isoformat(), *overrides]
    subprocess.run([sys.executable, "-m", "vecap_tasks.cli", stage, *arguments], check=True)


@contextmanager
def _served(web: Path) -> Iterator[int]:
    """Serve *web* on a free port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vecap_tasks.demo.serve", "--out", str(web), "--port", str(port)]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield port
    finally:
        server.terminate()
        server.wait()


def _samples(config: Config) -> int:
    return _version(config).upstream_manifest("assemble").counters["samples"]


def _results(config: Config) -> Results:
    evaluate = _version(config).upstream_stage("evaluate")
    manifest = evaluate.manifest()
    assert manifest is not None
    return read_results(evaluate.store, manifest)


def _version(config: Config) -> Stage:
    """Return the train stage of the version that *config* creates."""
    version = open_version(config, Store(config.resolve(config.root)), _DAY.isoformat())
    return load_stage("train", config, version)


def table(outcomes: Sequence[Outcome]) -> str:
    """Return a Markdown table of the outcomes: one row per arm and size."""
    first = outcomes[0].results
    titles = [first.titles[key] for key in _SHOWN]
    lines = [
        "| images | samples | arm | " + " | ".join(titles) + " |",
        "| ---: | ---: | --- |" + " ---: |" * len(titles),
    ]
    for result in outcomes:
        for arm in result.results.arms:
            cells = [f"{_percent(arm.mean[key])} ({_ends(arm.intervals[key])})" for key in _SHOWN]
            lines.append(f"| {result.web.name} | {result.samples:,} | {arm.arm} | " + " | ".join(cells) + " |")
        chance = [_percent(result.results.chance[key]) for key in _SHOWN]
        lines.append(f"| {result.web.name} | | chance | " + " | ".join(chance) + " |")
    lines += ["", "| images | difference | " + " | ".join(titles) + " |", "| ---: | --- |" + " ---: |" * len(titles)]
    for result in outcomes:
        known = {(item.arm, item.other, item.metric): item for item in result.results.comparisons}
        for pair in dict.fromkeys((item.arm, item.other) for item in result.results.comparisons):
            if not {"alttext", "vecap"} & set(pair):
                continue
            comparisons = [known[(*pair, key)] for key in _SHOWN]
            # The later arm minus the earlier result, in table order.
            cells = [
                f"{-100 * item.difference:+.1f} ({-100 * item.high:+.1f} to {-100 * item.low:+.1f})"
                for item in comparisons
            ]
            lines.append(f"| {result.web.name} | {pair[1]} − {pair[0]} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _ends(interval: Sequence[float]) -> str:
    return f"{_percent(interval[0])} to {_percent(interval[1])}"


def plot(outcomes: Sequence[Outcome], path: Path) -> None:
    """Plot the metrics over the number of samples as PNG: one panel per metric, one line per arm, with intervals."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = ("image_to_text_1", "text_to_image_1", "zero_shot_top1")
    figure = Figure(figsize=(11, 3.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, key in zip(figure.subplots(1, len(shown)), shown, strict=True):
        for position, arm in enumerate(_ARMS):
            arms = [next(a for a in result.results.arms if a.arm == arm) for result in outcomes]
            # Shifted horizontally, so that the intervals do not overlap.
            x = [result.samples * 1.03 ** (position - len(_ARMS) / 2) for result in outcomes]
            mean = [100 * a.mean[key] for a in arms]
            below = [max(0.0, m - 100 * a.intervals[key][0]) for m, a in zip(mean, arms, strict=True)]
            above = [max(0.0, 100 * a.intervals[key][1] - m) for m, a in zip(mean, arms, strict=True)]
            axes.errorbar(x, mean, yerr=[below, above], marker="o", markersize=4, capsize=2, label=arm)
        axes.axhline(100 * outcomes[0].results.chance[key], color="black", linestyle="dotted", linewidth=1)
        axes.set_xscale("log")
        axes.set_xticks([result.samples for result in outcomes], [f"{result.samples:,}" for result in outcomes])
        axes.minorticks_off()
        axes.set_xlabel("samples")
        axes.set_ylim(bottom=0)
        axes.set_title(outcomes[0].results.titles[key])
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("percent (dotted: chance)")
    shown_as = figure.axes[0].get_legend_handles_labels()
    figure.legend(*shown_as, loc="outside right upper", title="arm", frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", metadata={"Software": None})


def measures(outcomes: Sequence[Outcome], conditions: str) -> list[Measure]:
    """Return each arm's results in percent, compared with `alttext` on the same web."""
    rows = []
    for result in outcomes:
        base = next(arm for arm in result.results.arms if arm.arm == "alttext")
        for arm in result.results.arms:
            for key in _SHOWN:
                details = f"{result.samples} samples; 95 %: {_ends(arm.intervals[key])}; theirs: alttext; {conditions}"
                name = f"{result.web.name} {arm.arm} {result.results.titles[key]}"
                rows.append(Measure(name, "%", 100 * arm.mean[key], 100 * base.mean[key], None, details))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the measures to this file")
    parser.add_argument("--sizes", type=int, nargs="+", default=[300, 1000, 3000], help="images (default %(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="seeds per arm (default %(default)s)")
    parser.add_argument("--steps", type=int, default=550, help="training steps (default %(default)s)")
    parser.add_argument("--described", type=float, nargs="*", default=[], help="shares of descriptive AltText")
    parser.add_argument("--plot", type=Path, default=_REPOSITORY / "docs" / "images" / "arms-sizes.png")
    parser.add_argument("--table", type=Path, help="write the table to this file as well")
    arguments = parser.parse_args()
    begin = time.monotonic()
    folder = Path(os.environ.get("VECAP_HOME") or _REPOSITORY / ".vecap").resolve() / "benchmarks" / "arms"
    webs = [Web(size) for size in sorted(arguments.sizes)]
    largest = webs[-1]
    webs += [
        replace(largest, described=share) for share in arguments.described if abs(share - _DEFAULT_DESCRIBED) > 1e-9
    ]
    outcomes = [outcome(web, folder / web.name, arguments.seeds, arguments.steps) for web in webs]
    conditions = f"{arguments.seeds} seeds, {arguments.steps} steps, {machine()}"
    text = table(outcomes)
    print(text)
    print(f"{conditions}; total time {time.monotonic() - begin:.0f} s")
    plot([result for result in outcomes if result.web.described is None], arguments.plot)
    if arguments.table:
        arguments.table.write_text(text, "utf-8")
    if arguments.json:
        rows = [asdict(row) | {"ratio": row.ratio} for row in measures(outcomes, conditions)]
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
