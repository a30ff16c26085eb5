"""Training CLIP, beside open_clip 3.3: the same model, batch and precision, each by its own training loop.

    python -m benchmarks.clip [--json FILE] [--theirs PYTHON] [--python PYTHON] [--size SIZE] [--batch N]

`step` trains on one batch that lies in memory, texts filled to 77 tokens: what the loop and the model cost. `tars` goes
from JPEGs in tar shards to weights, each by its own way of reading. --theirs names the Python of an environment with
open_clip_torch, torchvision, webdataset, pandas and transformers; without it one is made (several GB). --python is the
one that ours runs by, this one by default: name the same for both, and both have the same torch. Where open_clip cannot
run, the report says so and has no number of it. On a GPU there is MFU, too.
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
_PICTURES = 64  # that the photographs are copies of; every one is decoded anew
_TEXT = "a photograph of soft shapes with finer ones upon them, some edges and the grain of a sensor, number {}"
_SMALL: dict[str, Any] = {
    "image_size": 128, "patch_size": 16, "vision_width": 256, "vision_layers": 6, "vision_heads": 4,
    "text_width": 256, "text_layers": 4, "text_heads": 4, "projection": 256,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.clip", description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the measures here, too")
    parser.add_argument("--theirs", metavar="PYTHON", help="of an environment that has open_clip and what it needs")
    parser.add_argument("--python", default=sys.executable, help="that ours runs by (default: this one)")
    parser.add_argument("--size", default="small", help="small, or a size of train.model (default: small)")
    parser.add_argument("--batch", type=int, default=64, help="samples (default: 64)")
    parser.add_argument("--steps", type=int, default=4, help="of an epoch; three are done (default: 4)")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    parser.add_argument("--workers", type=int, default=2, help="that decode: threads of ours, processes of theirs")
    parser.add_argument("--compile", action="store_true", help="torch.compile on both sides")
    parser.add_argument("--only", choices=("step", "tars"), help="one of the two measures")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each side, in turn (default: 3)")
    given = parser.parse_args()
    sized = _SMALL if given.size == "small" else {"size": given.size}
    model = ClipConfig.model_validate({"tokenizer": "../vecap_tasks/demo/models/llm", **sized})
    config = load_config(_REPOSITORY / "configs" / "demo.yaml", [f"train.model={model.model_dump_json()}"])
    measures = []
    with tempfile.TemporaryDirectory(prefix="vecap-clip-") as folder:
        work = Path(folder)
        tokenizer = load_tokenizer(config)
        tokenizer.save_pretrained(work / "tokenizer")
        task = {
            "model": model.model_dump(), "tokenizer": str(work / "tokenizer"), "vocabulary": len(tokenizer),
            "tars": [], "batch": given.batch, "steps": given.steps, "epochs": 3, "precision": given.precision,
            "threads": given.threads, "workers": given.workers, "compile": given.compile,
        }  # fmt: skip
        for kind in ("step", "tars") if given.only is None else (given.only,):
            if kind == "tars":
                task["tars"] = [str(tar) for tar in _write(work, given.batch * given.steps)]
            measures += _measure(given, work, {**task, "kind": kind})
    report(measures, given.json)


@dataclass(frozen=True, slots=True)
class _Took:
    """What a side said of the epochs after the first: `mfu` is None where there is no GPU that is known."""

    samples_per_second: float
    samples_per_cpu_second: float
    mfu: float | None
    name: str


def _measure(given: argparse.Namespace, work: Path, task: dict[str, Any]) -> list[Measure]:
    file = work / "task.json"
    file.write_text(json.dumps(task), "utf-8")
    ours = [given.python, "-m", "benchmarks.clip_ours", str(file)]
    theirs = [given.theirs, str(Path(__file__).with_name("clip_theirs.py")), str(file)]
    said = f"{given.size}, {given.precision}, batch {given.batch}, medians of {given.rounds}; {machine()}"
    try:
        theirs[0] = given.theirs or str(environment_with(*_THEIRS))
        tried = [theirs[0], "-c", "import open_clip_train.main, webdataset, pandas, transformers"]
        subprocess.run(tried, capture_output=True, text=True, check=True)
    except (subprocess.CalledProcessError, OSError) as error:
        line = (getattr(error, "stderr", "") or str(error)).strip().splitlines()[-1]
        print(f"open_clip cannot run here, so there is no number of it: {line}", file=sys.stderr)
        mine = [_run(ours, work) for _ in range(given.rounds)]
        rate = median(one.samples_per_second for one in mine)
        return [Measure(f"CLIP, {task['kind']}", "samples/s", rate, None, None, f"ours: {mine[0].name}; {said}")]
    mine, other = alternate(given.rounds, lambda: _run(ours, work), lambda: _run(theirs, work))
    said = f"ours: {mine[0].name}; theirs: {other[0].name}; {said}"
    rate, their_rate = (median(one.samples_per_second for one in side) for side in (mine, other))
    measures = [Measure(f"CLIP, {task['kind']}", "samples/s", rate, their_rate, None, said)]
    if task["kind"] == "step":  # of the process alone: open_clip reads in others
        rates = (median(one.samples_per_cpu_second for one in side) for side in (mine, other))
        measures.append(Measure("CLIP, step, CPU", "samples/CPU s", *rates, None, said))
    if mine[0].mfu is not None:
        mfu = median(one.mfu or 0 for one in mine)
        # The same model has the same operations for a sample, so that the rates say theirs.
        measures.append(Measure(f"CLIP, {task['kind']}, MFU", "share", mfu, mfu * their_rate / rate, 1.0, said))
    return measures


def _run(command: list[str], work: Path) -> _Took:
    """Have one side train, in a process of its own."""
    where = _REPOSITORY if "-m" in command else work
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command[1:3])} failed: {done.stderr.strip().splitlines()[-1]}")
    return _Took(**json.loads(done.stdout.splitlines()[-1]))


def _write(folder: Path, images: int) -> list[Path]:
    """Write *images* photographs, short side 256, with their texts into tars in *folder*."""
    pictures = [as_jpeg(photograph(number, (341, 256)), 95) for number in range(min(_PICTURES, images))]
    tars = []
    for shard in range(_SHARDS):
        tars.append(folder / f"{shard:05d}.tar")
        with TarWriter(tars[-1]) as tar:
            for number in range(shard * images // _SHARDS, (shard + 1) * images // _SHARDS):
                text = _TEXT.format(number)
                body = {"uid": f"{number:032x}", "alttext": text, "vec": text, "vecap": text}
                members = {"txt": text.encode(), "json": json.dumps(body).encode()}
                tar.write(f"{number:09d}", {"jpg": pictures[number % len(pictures)], **members})
    return tars


if __name__ == "__main__":
    main()
