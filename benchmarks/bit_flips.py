"""Flips one bit in every kind of file before the next stage reads it, and checks that nothing is published from it.

    python -m benchmarks.bit_flips [--stage NAME …] [--seed 0] [--json FILE]

A small miniature web is run through all stages. Then, for each stage and each kind of file that exists before it, a bit
of one file is flipped in a copy of the store and the stage runs. A flip passes if the stage exits with an error that
names the file and writes no manifest, or if it writes the same bytes as without the flip (it did not use the flipped
byte). An input without a record, such as a model folder, also passes if the manifest names its new digest. Files that
exist only while a stage runs (links, candidates, receipts, batches, checkpoints) are flipped in an unfinished stage.
Exits with 1 if a flip fails.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks.interrupt import STAGES, Place, copy_until, miniature_web
from benchmarks.report import Measure, report
from tests.installation import INTERVAL, REPOSITORY, small_config
from vecap_tasks.cli.__main__ import main as vecap
from vecap_tasks.core.stage import STAGES as MODULES
from vecap_tasks.core.stage import stage_class

_UPSTREAM = {
    "quality": ("crawl",),
    "rewrite": ("crawl", "quality"),
    "assemble": ("crawl", "quality", "rewrite"),
    "train": ("assemble",),
    "evaluate": ("train",),
}
_UNREAD = re.compile(r"/_(shards|links|candidates|scores|judged|decided|checkpoints)/|/data_docs/")  # by no later stage
_NUMBER = re.compile(r"[0-9a-f]{8,}|\d+")
_EXTERNAL = {"rewrite": ("vlm", "llm"), "train": ("llm",), "evaluate": ("evaluation",)}


@dataclass(frozen=True, slots=True)
class Flip:
    """One flip and its result. `passed` is None if the flip could not be made."""

    stage: str
    file: str
    code: int
    seconds: float
    result: str
    passed: bool


def flip_bit(path: Path, chance: random.Random) -> None:
    """Flip a random bit of the file *path*."""
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.chmod(0o644)
    path.write_bytes(data)


def digests(place: Place, stage: str) -> dict[str, str]:
    """Return the digests of the manifests of *stage*, also of another version, by folder."""
    folder = place.home / "store" / "demo"
    found = sorted([*folder.glob(f"*/{stage}/manifest.json"), *folder.glob(f"*/{stage}/*/manifest.json")])
    return {str(path.parent.relative_to(folder)): json.loads(path.read_bytes())["digest"] for path in found}


def kinds(files: Sequence[Path], base: Path) -> dict[str, list[Path]]:
    """Return the *files* by kind: their path below *base* without numbers and digests."""
    found: dict[str, list[Path]] = {}
    for file in sorted(files):
        if file.stat().st_size:
            found.setdefault(_NUMBER.sub("N", file.relative_to(base).as_posix()), []).append(file)
    return found


@dataclass(slots=True)
class Drill:
    """The miniature web, an uninterrupted run in `reference`, and copies of it in `folder`."""

    folder: Path
    reference: Place
    chance: random.Random
    count: int = 0

    def place(self, stage: str) -> Place:
        """Return a copy of what existed before *stage*, with its own copy of the models and the evaluation set."""
        self.count += 1
        home = self.folder / f"home-{self.count:03d}"
        home.mkdir()
        shutil.copytree(self.reference.home / "web", home / "web")
        shutil.copytree(self.folder / "models", home / "models")
        place = Place(home, Path(shutil.copy(self.reference.config, home)), self.reference.port)
        copy_until(stage, self.reference, place)
        return place

    def run(self, place: Place, stage: str) -> tuple[int, str]:
        """Run *stage*; return the exit code and standard error."""
        (place.home / "tmp").mkdir(exist_ok=True)
        errors = place.home / "stderr"
        process = os.fork()  # starting Python takes longer than the stage
        if process == 0:
            with errors.open("wb", buffering=0) as stream, Path(os.devnull).open("wb", buffering=0) as null:
                os.dup2(stream.fileno(), 2)
                os.dup2(null.fileno(), 1)
            os.environ.clear()
            os.environ.update(place.environment)
            code = 70
            try:
                code = vecap([stage, "--config", str(place.config), "--version", INTERVAL])
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), errors.read_text(encoding="utf-8")

    def judge(self, place: Place, stage: str, file: Path, kind: str, start: float, *, external: bool) -> Flip:
        code, errors = self.run(place, stage)
        expected, written = digests(self.reference, stage), digests(place, stage)
        last = errors.strip().splitlines()[-1] if errors.strip() else ""
        names = file.name in errors or (
            file.name.startswith("manifest") and f"{file.parent.name}/{file.name}" in errors
        )
        if code != 0:
            passed = (names or external) and written in ({}, expected) and "Traceback" not in errors
            result = f"stopped: {last}"
        elif written == expected:
            passed = True
            result = f"not used{', reported' if file.name in errors else ''}"
        else:
            passed = external  # there is no record to compare with; the manifest has the new digest
            result = "recorded under another digest" if passed else "PUBLISHED"
        return Flip(stage, kind, code, time.monotonic() - start, result, passed)

    def boundary(self, stage: str) -> Iterator[Flip]:
        """Flip a bit in each kind of file that an earlier stage published, and in each kind of external file."""
        sample = self.place(stage)
        version = sample.home / "store" / "demo" / INTERVAL
        files = [version / "version.json"]
        for name in _UPSTREAM[stage]:
            published = [path for path in (version / name).rglob("*") if path.is_file()]
            files += [path for path in published if not _UNREAD.search(path.relative_to(version).as_posix())]
        for name in _EXTERNAL.get(stage, ()):
            root = _external(sample, name)
            files += [path for path in root.rglob("*") if path.is_file()]
        names = {kind: self.chance.choice(paths) for kind, paths in kinds(files, sample.home).items()}
        for kind, path in names.items():
            start = time.monotonic()
            place = self.place(stage)
            file = place.home / path.relative_to(sample.home)
            flip_bit(file, self.chance)
            yield self.judge(place, stage, file, kind, start, external=not kind.startswith("store"))
            shutil.rmtree(place.home)
        shutil.rmtree(sample.home)

    def unfinished(self, stage: str) -> Iterator[Flip]:
        """Flip a bit in each kind of file of the unfinished *stage*."""
        for pattern, discarded in _UNFINISHED[stage]:
            seen: set[str] = set()
            while True:
                start = time.monotonic()
                place = self.place(stage)
                folder = self._unfinish(place, stage, pattern, discarded)
                # Attachments are written again at the commit, and copied only if they differ.
                files = [path for path in folder.glob(pattern) if path.is_file() and "/report/" not in str(path)]
                found = kinds(files, place.home)
                left = [kind for kind in found if kind not in seen]
                if left:
                    file = self.chance.choice(found[left[0]])
                    flip_bit(file, self.chance)
                    yield self.judge(place, stage, file, left[0], start, external=False)
                    seen.add(left[0])
                shutil.rmtree(place.home)
                if len(left) <= 1:
                    break

    def _unfinish(self, place: Place, stage: str, pattern: str, discarded: Sequence[str] | None) -> Path:
        """Return the folder of the unfinished *stage*: killed when *pattern* exists, or without *discarded* files."""
        folder = place.home / "store" / "demo" / INTERVAL / stage
        if discarded is None:
            process = place.start(stage)
            while process.poll() is None and not any(folder.glob(pattern)):
                time.sleep(0.01)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return folder
        shutil.copytree(self.reference.home / "store" / "demo" / INTERVAL / stage, folder)
        for name in discarded:
            for path in list(folder.glob(name)):
                path.unlink()
        return folder


# Patterns of files below the stage's folder, and the files to delete from the finished stage; None: kill the stage when
# the first file exists.
_UNFINISHED: dict[str, tuple[tuple[str, tuple[str, ...] | None], ...]] = {
    "crawl": (
        ("**/*", ("manifest.json",)),
        ("_links/*", ("manifest.json", "_shards/*.json", "_candidates/*")),
        ("_candidates/*", ("manifest.json", "_shards/*.json")),
    ),
    "quality": (
        ("**/*", ("manifest.json",)),
        ("_judged/*", ("manifest.json", "_shards/*.json", "_decided/*")),
        ("_decided/*", ("manifest.json", "_shards/*.json")),
    ),
    "rewrite": (("*/*/*.jsonl", None), ("**/*", ("manifest.json",))),
    "assemble": (("**/*", ("manifest.json",)),),
    "train": (("*/_checkpoints/*/*.pt", None), ("**/*", ("*/manifest.json",))),
    "evaluate": (("**/*", ("*/manifest.json",)),),
}


def _external(place: Place, name: str) -> Path:
    if name != "evaluation":
        return place.home / "models" / name
    settings = yaml.safe_load(place.config.read_text(encoding="utf-8"))["evaluate"]["dataset"]
    return Path(re.sub(r"\$\{VECAP_HOME[^}]*\}", str(place.home), settings))


def main(arguments: list[str] | None = None) -> int:
    """Print the flips; return 1 if one fails."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bit_flips", description=__doc__.splitlines()[0])
    parser.add_argument("--stage", action="append", choices=STAGES, help="flip before this stage only; repeatable")
    parser.add_argument("--seed", type=int, default=0, help="seed of the flips")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the measures to FILE")
    options = parser.parse_args(arguments)
    flips: list[Flip] = []
    for stage in MODULES:
        stage_class(stage)  # imports what the forks would import again
    with tempfile.TemporaryDirectory(prefix="vecap-flips-") as name:
        folder = Path(name)
        with miniature_web(folder / "web") as port:
            config, models = small_config(folder), REPOSITORY / "vecap_tasks" / "demo" / "models"
            shutil.copytree(models, folder / "models")
            config.write_text(
                config.read_text(encoding="utf-8")
                .replace(str(models), "./models")
                .replace('"workers":2', '"workers":1'),
                encoding="utf-8",
            )
            home = folder / "reference"
            home.mkdir()
            (home / "web").symlink_to(folder / "web")
            reference = Place(home, config, port)
            if code := reference.start().wait():
                raise SystemExit(f"the run without a flip failed with {code}: {(home / 'stderr').read_text()}")
            drill = Drill(folder, reference, random.Random(options.seed))
            for stage in options.stage or STAGES:
                parts = [drill.boundary] if stage in _UPSTREAM else []
                for part in (*parts, drill.unfinished):
                    for flip in part(stage):
                        flips.append(flip)
                        mark = "ok  " if flip.passed else "FAIL"
                        print(f"{mark} {flip.stage:<8} {flip.file}: {flip.code} {flip.result}", flush=True)
    failed = sum(not flip.passed for flip in flips)
    values = (
        ("flips", "count", len(flips), None),
        ("flips that stopped the stage", "count", sum(flip.code != 0 for flip in flips), None),
        ("flips that failed", "count", failed, 0),
    )
    conditions = f"seed {options.seed}"
    report([Measure(name, unit, value, None, limit, conditions) for name, unit, value, limit in values], options.json)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
