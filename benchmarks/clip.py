"""CLIP training compared with open_clip 3.3: same model, batch and precision, each with its own training loop.

    python -m benchmarks.clip [--json FILE] [--theirs PYTHON] [--python PYTHON] [--size SIZE] [--batch N]

`step` trains on one batch in memory, with texts of 77 tokens: the cost of loop and model. `tars` trains from JPEGs in
tar shards, each side with its own data loading. --theirs is the Python of an environment with open_clip_torch,
torchvision, webdataset, pandas and transformers; by default one is created (several GB). --python is the Python for our
side (default: this one); pass the same for both to compare with the same torch. If open_clip cannot run, the report
contains only our side. On a GPU, MFU is reported as well.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.other import environment_with
from benchmarks.photographs import as_jpeg, photograph
from benchmarks.report import Measure, alternate, machine, median, report
from vecap_tasks.config import ClipConfig, load_config
from vecap_tasks.core.tar import TarWriter
from vecap_tasks.train.data.tokenizer import load_tokenizer

_REPOSITORY = Path(__file__).resolve().parent.parent
_THEIRS = ("open_clip_torch==3.3.0", "webdataset==0.2.86", "pandas", "transformers==5.23.0")
_SHARDS = 4
_IMAGES = 64  # distinct photographs; copies are decoded each time
_TEXT = "a photograph of soft shapes with finer ones upon them, some edges and the grain of a sensor, number {}"
_SMALL: dict[str, Any] = {
    "image_size": 128, "patch_size": 16, "vision_width": 256, "vision_layers": 6, "vision_heads": 4,
    "text_width": 256, "text_layers": 4, "text_heads": 4, "projection": 256,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.clip", description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the measures to this file")
    parser.add_argument("--theirs", metavar="PYTHON", help="Python of an environment with open_clip")
    parser.add_argument("--python", default=sys.executable, help="Python for our side (default: this one)")
    parser.add_argument("--size", default="small", help="small, or a size of train.model (default: small)")
    parser.add_argument("--batch", type=int, default=64, help="batch size (default: 64)")
    parser.add_argument("--steps", type=int, default=4, help="steps per epoch; three epochs run (default: 4)")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    parser.add_argument("--workers", type=int, default=2, help="for decoding: threads on our side, processes on theirs")
    parser.add_argument("--compile", action="store_true", help="torch.compile on both sides")
    parser.add_argument("--only", choices=("step", "tars"), help="run only this measure")
    parser.add_argument("--rounds", type=int, default=3, help="alternating rounds per side (default: 3)")
    arguments = parser.parse_args()
    sized = _SMALL if arguments.size == "small" else {"size": arguments.size}
    model = ClipConfig.model_validate({"tokenizer": "../vecap_tasks/demo/models/llm", **sized})
    config = load_config(_REPOSITORY / "configs" / "demo.yaml", [f"train.model={model.model_dump_json()}"])
    measures = []
    with tempfile.TemporaryDirectory(prefix="vecap-clip-") as folder:
        work = Path(folder)
        tokenizer = load_tokenizer(config)
        tokenizer.save_pretrained(work / "tokenizer")
        task = {
            "model": model.model_dump(), "tokenizer": str(work / "tokenizer"), "vocabulary": len(tokenizer),
            "tars": [], "batch": arguments.batch, "steps": arguments.steps, "epochs": 3,
            "precision": arguments.precision, "threads": arguments.threads,
            "workers": arguments.workers, "compile": arguments.compile,
        }  # fmt: skip
        for kind in ("step", "tars") if arguments.only is None else (arguments.only,):
            if kind == "tars":
                task["tars"] = [str(tar) for tar in _write(work, arguments.batch * arguments.steps)]
            measures += _measure(arguments, work, {**task, "kind": kind})
    report(measures, arguments.json)


@dataclass(frozen=True, slots=True)
class _Speed:
    """Speed of a side after the first epoch; `mfu` is None without a known GPU."""

    samples_per_second: float
    samples_per_cpu_second: float
    mfu: float | None
    name: str


def _measure(arguments: argparse.Namespace, work: Path, task: dict[str, Any]) -> list[Measure]:
    file = work / "task.json"
    file.write_text(json.dumps(task), "utf-8")
    ours = [arguments.python, "-m", "benchmarks.clip_ours", str(file)]
    theirs = [arguments.theirs, str(Path(__file__).with_name("clip_theirs.py")), str(file)]
    conditions = (
        f"{arguments.size}, {arguments.precision}, batch {arguments.batch}, medians of {arguments.rounds}; {machine()}"
    )
    try:
        theirs[0] = arguments.theirs or str(environment_with(*_THEIRS))
        check = [theirs[0], "-c", "import open_clip_train.main, webdataset, pandas, transformers"]
        subprocess.run(check, capture_output=True, text=True, check=True)
    except (subprocess.CalledProcessError, OSError) as error:
        line = (getattr(error, "stderr", "") or str(error)).strip().splitlines()[-1]
        print(f"open_clip cannot run here and is left out: {line}", file=sys.stderr)
        mine = [_run(ours, work) for _ in range(arguments.rounds)]
        rate = median(run.samples_per_second for run in mine)
        return [Measure(f"CLIP, {task['kind']}", "samples/s", rate, None, None, f"ours: {mine[0].name}; {conditions}")]
    mine, other = alternate(arguments.rounds, lambda: _run(ours, work), lambda: _run(theirs, work))
    conditions = f"ours: {mine[0].name}; theirs: {other[0].name}; {conditions}"
    rate, their_rate = (median(run.samples_per_second for run in side) for side in (mine, other))
    measures = [Measure(f"CLIP, {task['kind']}", "samples/s", rate, their_rate, None, conditions)]
    if task["kind"] == "step":  # only for the main process: open_clip loads data in others
        rates = (median(run.samples_per_cpu_second for run in side) for side in (mine, other))
        measures.append(Measure("CLIP, step, CPU", "samples/CPU s", *rates, None, conditions))
    if mine[0].mfu is not None:
        mfu = median(run.mfu or 0 for run in mine)
        # Same model and operations per sample, so their MFU follows from the rates.
        measures.append(Measure(f"CLIP, {task['kind']}, MFU", "share", mfu, mfu * their_rate / rate, 1.0, conditions))
    return measures


def _run(command: list[str], work: Path) -> _Speed:
    """Train one side in a separate process."""
    folder = _REPOSITORY if "-m" in command else work
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"{' '.join(command[1:3])} failed: {result.stderr.strip().splitlines()[-1]}")
    return _Speed(**json.loads(result.stdout.splitlines()[-1]))


def _write(folder: Path, images: int) -> list[Path]:
    """Write *images* photographs, short side 256, with texts, to tars in *folder*."""
    images_jpeg = [as_jpeg(photograph(number, (341, 256)), 95) for number in range(min(_IMAGES, images))]
    tars = []
    for shard in range(_SHARDS):
        tars.append(folder / f"{shard:05d}.tar")
        with TarWriter(tars[-1]) as tar:
            for number in range(shard * images // _SHARDS, (shard + 1) * images // _SHARDS):
                text = _TEXT.format(number)
                body = {"uid": f"{number:032x}", "alttext": text, "vec": text, "vecap": text}
                members = {"txt": text.encode(), "json": json.dumps(body).encode()}
                tar.write(f"{number:09d}", {"jpg": images_jpeg[number % len(images_jpeg)], **members})
    return tars


if __name__ == "__main__":
    main()
