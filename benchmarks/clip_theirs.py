"""Their side of `benchmarks.clip`: open_clip's training program; prints the speed after the first epoch as JSON.

Run it with the Python that has open_clip: `python clip_theirs.py TASK`. For `step`, a batch in memory replaces the data
loader; everything else is what `python -m open_clip_train.main` does.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import open_clip
import open_clip_train.main as program
import torch
from open_clip_train.data import DataInfo

_PRECISION = {"float32": "fp32", "bfloat16": "amp_bf16"}


class _OneBatch:
    """A loader that yields the same batch repeatedly."""

    def __init__(self, task: dict[str, Any], size: int) -> None:
        self.num_batches, self.num_samples = task["steps"], task["steps"] * task["batch"]
        rng = torch.Generator().manual_seed(0)
        self._images = torch.randn(task["batch"], 3, size, size, generator=rng)
        self._texts = torch.randint(10, task["vocabulary"] - 10, (task["batch"], 77), generator=rng)
        if torch.cuda.is_available():
            self._images, self._texts = self._images.pin_memory(), self._texts.pin_memory()

    def __iter__(self) -> Any:
        for _ in range(self.num_batches):
            yield self._images, self._texts


def main() -> None:
    task = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    torch.set_num_threads(task["threads"])
    seconds: list[float] = []
    cpu_seconds: list[float] = []
    samples: list[int] = []
    train = program.train_one_epoch

    def timed(*args: Any, **kwargs: Any) -> Any:
        begin, cpu = time.perf_counter(), time.process_time()
        result = train(*args, **kwargs)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
        cpu_seconds.append(time.process_time() - cpu)
        samples.append(args[1]["train"].dataloader.num_samples)  # rounded up to equal batches per worker
        return result

    program.train_one_epoch = timed
    if task["kind"] == "step":
        loader = _OneBatch(task, task["model"]["image_size"])
        program.get_data = lambda *args, **kwargs: {"train": DataInfo(dataloader=loader)}
    with tempfile.TemporaryDirectory(prefix="openclip-") as folder:
        (Path(folder) / "benchmarked.json").write_text(json.dumps(_model(task)), "utf-8")
        open_clip.add_model_config(Path(folder))
        program.main(_arguments(task, Path(folder)))
    rate, cpu = (sum(samples[1:]) / sum(spent[1:]) for spent in (seconds, cpu_seconds))
    name = f"open_clip {open_clip.__version__}, torch {torch.__version__}"
    result = {"samples_per_second": rate, "samples_per_cpu_second": cpu, "mfu": None, "name": name}
    print(json.dumps(result), flush=True)


def _arguments(task: dict[str, Any], folder: Path) -> list[str]:
    tars = [Path(tar) for tar in task["tars"]] or [folder / "none.tar"]  # `step` reads no tars
    braces = f"{tars[0].parent}/{{{tars[0].stem}..{tars[-1].stem}}}.tar" if len(tars) > 1 else str(tars[0])
    return [
        "--model", "benchmarked", "--train-data", braces, "--train-num-samples", str(task["steps"] * task["batch"]),
        "--dataset-type", "webdataset", "--batch-size", str(task["batch"]), "--epochs", str(task["epochs"]),
        "--workers", str(task["workers"]), "--precision", _PRECISION[task["precision"]], "--lr", "5e-4", "--wd", "0.2",
        "--warmup", "2000", "--grad-clip-norm", "1", "--logs", str(folder), "--name", "benchmark",
        "--save-frequency", "0", *(["--torchcompile"] if task["compile"] else []),
        "--local-loss", "--gather-with-grad",
    ]  # fmt: skip


def _model(task: dict[str, Any]) -> dict[str, Any]:
    """Return open_clip's configuration of our model."""
    model = task["model"]
    return {
        "embed_dim": model["projection"],
        "vision_cfg": {
            "image_size": model["image_size"], "patch_size": model["patch_size"], "width": model["vision_width"],
            "layers": model["vision_layers"], "head_width": model["vision_width"] // model["vision_heads"],
        },
        "text_cfg": {
            "context_length": model["context"], "vocab_size": task["vocabulary"], "width": model["text_width"],
            "layers": model["text_layers"], "heads": model["text_heads"], "hf_tokenizer_name": task["tokenizer"],
        },
    }  # fmt: skip


if __name__ == "__main__":
    main()
