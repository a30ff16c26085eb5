"""The paper's table in miniature: CLIP by each choice of text, at several sizes of data, over several seeds.

    python -m benchmarks.arms [--json FILE] [--sizes N …] [--seeds N] [--described P …] [--steps N]

For each size a miniature web is drawn and taken through every stage by `vecap run`, each in a folder of its own under
`.vecap/benchmarks/arms`: stopped and started again, the command goes on from where it was. A size is the number of
images that the crawl names; some three in four come through. All models are trained for as many steps, whatever the
size and the arm, so that data alone differs; they are measured on one evaluation set that no web has. The table gives
mean and interval (95 %, over images and seeds), then how far each arm is above `alttext` on the same drawn images.

`--described 0.16 0.9` does the same at the largest size for webs where so much of the AltText describes its picture:
it tests whether `mixed` loses to `vecap` because the AltText is noise.
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
from typing import get_args

from benchmarks.report import Measure, machine
from vecap_tasks.config import Arm, Config, load_config
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
_ARMS = [arm for arm in ("alttext", "alttext_rewritten", "vec", "vecap", "mixed") if arm in get_args(Arm)]
_USUAL = CATEGORY_WEIGHTS["good"] / sum(CATEGORY_WEIGHTS.values())


@dataclass(frozen=True, slots=True)
class Web:
    """A miniature web: how many images its crawl names, and how much of its AltText describes its picture."""

    images: int
    described: float | None = None

    @property
    def name(self) -> str:
        return f"{self.images}" if self.described is None else f"{self.images}-described-{self.described:g}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a web: the samples of its version, and the results of the arms."""

    web: Web
    samples: int
    results: Results


def outcome(web: Web, home: Path, seeds: int, steps: int) -> Outcome:
    """Take *web* through every stage in *home*, as far as that is not done, and read what came of it."""
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "web" / "complete").exists():
        generate_day(home / "web", _DAY, 0, web.images, described=web.described)
        write_evalset(home / "web" / "evaluation", 0, _EVALUATION_IMAGES)
        (home / "web" / "complete").touch()
    os.environ["VECAP_HOME"] = str(home)
    for name in ("VECAP_MLFLOW_URI", "VECAP_DASK_ADDRESS"):  # everything stays in *home*
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
    # An epoch is a pass over the samples: as many steps for every size take more epochs of a small one.
    epochs = max(1, round(steps * config.train.batch_size / samples))
    settings.append(f"train.epochs={epochs}")
    for name in ("train", "evaluate"):
        _vecap(name, settings)
    return Outcome(web, samples, _results(load_config(_DEMO, settings)))


def _vecap(stage: str, settings: Sequence[str]) -> None:
    chosen = [word for setting in settings for word in ("--set", setting)]
    given = ["--config", str(_DEMO), "--version", _DAY.isoformat(), *chosen]
    subprocess.run([sys.executable, "-m", "vecap_tasks.cli", stage, *given], check=True)


@contextmanager
def _served(web: Path) -> Iterator[int]:
    """Serve *web* on a free port of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
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
    """Return the stage train of the version that *config* makes."""
    version = open_version(config, Store(config.resolve(config.root)), _DAY.isoformat())
    return load_stage("train", config, version)


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the outcomes as Markdown: a row an arm and size."""
    first = outcomes[0].results
    titles = [first.titles[key] for key in _SHOWN]
    lines = [
        "| images | samples | arm | " + " | ".join(titles) + " |",
        "| ---: | ---: | --- |" + " ---: |" * len(titles),
    ]
    for one in outcomes:
        for arm in one.results.arms:
            cells = [f"{_percent(arm.mean[key])} ({_ends(arm.intervals[key])})" for key in _SHOWN]
            lines.append(f"| {one.web.name} | {one.samples:,} | {arm.arm} | " + " | ".join(cells) + " |")
        chance = [_percent(one.results.chance[key]) for key in _SHOWN]
        lines.append(f"| {one.web.name} | | chance | " + " | ".join(chance) + " |")
    lines += ["", "| images | difference | " + " | ".join(titles) + " |", "| ---: | --- |" + " ---: |" * len(titles)]
    for one in outcomes:
        known = {(found.arm, found.other, found.metric): found for found in one.results.comparisons}
        for pair in dict.fromkeys((found.arm, found.other) for found in one.results.comparisons):
            if not {"alttext", "vecap"} & set(pair):
                continue
            found = [known[(*pair, key)] for key in _SHOWN]
            # The later arm minus the earlier, as the table has them: what the work on the text has added.
            cells = [f"{-100 * f.difference:+.1f} ({-100 * f.high:+.1f} to {-100 * f.low:+.1f})" for f in found]
            lines.append(f"| {one.web.name} | {pair[1]} − {pair[0]} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _ends(interval: Sequence[float]) -> str:
    return f"{_percent(interval[0])} to {_percent(interval[1])}"


def plot(outcomes: Sequence[Outcome], path: Path) -> None:
    """Draw a panel a metric, a line an arm, over the samples of the versions, with intervals, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = ("image_to_text_1", "text_to_image_1", "zero_shot_top1")
    figure = Figure(figsize=(11, 3.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, key in zip(figure.subplots(1, len(shown)), shown, strict=True):
        for place, arm in enumerate(_ARMS):
            found = [next(a for a in one.results.arms if a.arm == arm) for one in outcomes]
            # Side by side, so that intervals do not hide each other.
            where = [one.samples * 1.03 ** (place - len(_ARMS) / 2) for one in outcomes]
            mean = [100 * a.mean[key] for a in found]
            below = [max(0.0, m - 100 * a.intervals[key][0]) for m, a in zip(mean, found, strict=True)]
            above = [max(0.0, 100 * a.intervals[key][1] - m) for m, a in zip(mean, found, strict=True)]
            axes.errorbar(where, mean, yerr=[below, above], marker="o", markersize=4, capsize=2, label=arm)
        axes.axhline(100 * outcomes[0].results.chance[key], color="black", linestyle="dotted", linewidth=1)
        axes.set_xscale("log")
        axes.set_xticks([one.samples for one in outcomes], [f"{one.samples:,}" for one in outcomes])
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
    """Return each arm's figures in percent beside those of `alttext` on the same web."""
    made = []
    for one in outcomes:
        base = next(arm for arm in one.results.arms if arm.arm == "alttext")
        for arm in one.results.arms:
            for key in _SHOWN:
                said = f"{one.samples} samples; 95 %: {_ends(arm.intervals[key])}; theirs: alttext; {conditions}"
                name = f"{one.web.name} {arm.arm} {one.results.titles[key]}"
                made.append(Measure(name, "%", 100 * arm.mean[key], 100 * base.mean[key], None, said))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--sizes", type=int, nargs="+", default=[300, 1000, 3000], help="images (default %(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="trainings of each arm (default %(default)s)")
    parser.add_argument("--steps", type=int, default=550, help="of each training (default %(default)s)")
    parser.add_argument("--described", type=float, nargs="*", default=[], help="shares of AltText that describes")
    parser.add_argument("--plot", type=Path, default=_REPOSITORY / "docs" / "images" / "arms-sizes.png")
    parser.add_argument("--table", type=Path, help="write the table to this file as well")
    given = parser.parse_args()
    begin = time.monotonic()
    place = Path(os.environ.get("VECAP_HOME") or _REPOSITORY / ".vecap").resolve() / "benchmarks" / "arms"
    webs = [Web(size) for size in sorted(given.sizes)]
    largest = webs[-1]
    webs += [replace(largest, described=share) for share in given.described if abs(share - _USUAL) > 1e-9]
    outcomes = [outcome(web, place / web.name, given.seeds, given.steps) for web in webs]
    conditions = f"{given.seeds} seeds, {given.steps} steps, {machine()}"
    said = table(outcomes)
    print(said)
    print(f"{conditions}; this call took {time.monotonic() - begin:.0f} s")
    plot([one for one in outcomes if one.web.described is None], given.plot)
    if given.table:
        given.table.write_text(said, "utf-8")
    if given.json:
        found = [asdict(one) | {"ratio": one.ratio} for one in measures(outcomes, conditions)]
        given.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
