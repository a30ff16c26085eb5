"""Progress bars on a pseudo-terminal, and lines elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_commands import write_data
from tests.installation import REPOSITORY, wait_until
from tests.terminal import Terminal, shown
from tests.train.factories import Texts, configure, publish_version
from vecap_tasks import progress
from vecap_tasks.progress import Bar, ProgressLines, format_duration, format_rate, format_seconds, recent_pace

WORK = """
import logging, sys, time
from vecap_tasks.cli.options import LogHandler
from vecap_tasks.progress import meter

logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[LogHandler()])
with meter("crawl") as shown:
    for done in range(5):
        shown.update(done, 4)
        logging.info("shard %d %s", done, "x" * 150)
        time.sleep(0.2)
    print("a line without an end", end="", file=sys.stderr)
print("done")
"""
LINES = [f"shard {done} {'x' * 150}" for done in range(5)]
CTRL_C = b"\x03"


def environment(**changes: str) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    return own | {"TERM": "xterm-256color", "PYTHONPATH": str(REPOSITORY)} | changes


def on_terminal(*command: str, columns: int = 100, **changes: str) -> tuple[int, str]:
    """Run Python with *command* on a terminal; return the exit code and all that it wrote."""
    terminal = Terminal.start([sys.executable, *command], environment(**changes), columns=columns)
    return terminal.wait(), terminal.output


def test_durations_and_rates_are_short() -> None:
    assert [format_seconds(n) for n in (0, 59.6, 61, 3600, 90_061)] == ["0:00", "1:00", "1:01", "1:00:00", "25:01:01"]
    rates = (1234, 123.4, 12.34, 1, 0.5, 1 / 60, 1 / 61, 0)
    assert [format_rate(n) for n in rates] == [
        *("1,234/s", "123/s", "12.3/s", "1.0/s", "30.0/min", "1.0/min", "59.0/h", "0.0/h"),
    ]


def test_durations_in_words_are_rounded() -> None:
    durations = [format_duration(n) for n in (0.4, 89, 90, 7199, 7200, 100_000)]
    assert durations == ["0 s", "89 s", "2 min", "2 h 0 min", "2 h 0 min", "27 h 47 min"]


def test_the_recent_pace_is_of_five_minutes_or_twenty_units() -> None:
    assert recent_pace([], 100, 130) == (0, 30)
    assert recent_pace([110, 120], 100, 130) == (2, 30)
    fast = [1000 + second for second in range(1000)]  # one unit a second
    assert recent_pace(fast, 999, 2000) == (300, 301)
    slow = [1000 + 60 * minute for minute in range(100)]  # one a minute
    assert recent_pace(slow, 940, slow[-1] + 30) == (20, 20 * 60 + 30)
    assert recent_pace([50], 100, 40) == (1, 1e-3), "clocks differ"


def test_lines_have_rates_and_the_remaining_time_of_recent_units(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    emitted: list[str] = []
    lines = ProgressLines(7_500, "shards", ("rows",), emitted.append, 10)
    lines.report(at_once=True)
    now += 60  # workers start
    lines.report()
    for _ in range(1_200):
        now += 1
        lines.add({"rows": 3, "captioned": 2})
        lines.report()
    assert emitted[:3] == [
        "0 of 7,500 shards",
        "0 of 7,500 shards",
        "10 of 7,500 shards, 0.4 rows/s, about 14 h 34 min left",
    ]
    assert len(emitted) == 2 + 1_200 // 10
    assert emitted[-1] == "1,200 of 7,500 shards, 3.0 rows/s, about 105 min left"
    for _ in range(60):  # ten times slower from here on
        now += 10
        lines.add({"rows": 3}, cost=0.5)
    assert lines.line() == (
        "1,260 of 7,500 shards, 0.3 rows/s, about 17 h 20 min left, cost 30.0000, estimated total 178.5714"
    )
    now += 3_600  # nothing finishes
    assert "about 329 h" in lines.line()


def test_the_last_line_has_the_rates_of_all_units(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    lines = ProgressLines(100, "parts prepared", (), list, 10)
    for _ in range(100):
        now += 100
        lines.add({})
    assert lines.line() == "100 of 100 parts prepared"
    lines = ProgressLines(100, "shards", ("rows",), list, 10)
    for number in range(100):
        now += 1 if number < 50 else 100
        lines.add({"rows": 101})
    assert lines.line() == "100 of 100 shards, 2.0 rows/s"


def test_a_line_that_says_all_is_not_repeated_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    emitted: list[str] = []
    lines = ProgressLines(2, "shards", (), emitted.append, 10)
    for seconds in (3, 8):  # the second one ends when a line is due
        now += seconds
        lines.add({})
        lines.report()
    lines.report(at_once=True)
    assert emitted == ["2 of 2 shards"]


def test_the_remaining_time_counts_down_between_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    bar = Bar("train")
    assert bar.texts() == ("train", "", "")
    bar.update(500, 1000, "steps", ", mixed-0")  # resumed
    now += 5
    assert bar.texts() == ("train", "500/1,000 steps, mixed-0", "0:05 elapsed")
    now += 5
    bar.update(600, 1000, "steps")
    assert bar.texts()[2] == "10.0/s  0:40 left"
    now += 30
    assert bar.texts()[2] == "10.0/s  0:10 left"
    now += 30
    assert bar.texts()[2] == "10.0/s  0:00 left"
    bar.update(1000, 1000, "steps")
    now += 100
    assert bar.texts()[2] == "took 1:10"
    bar.update(0, None, "committing")  # another unit starts again
    now += 2
    assert bar.texts() == ("train", "committing", "0:02 elapsed")


def test_a_bar_is_below_unbroken_log_lines_and_disappears() -> None:
    code, output = on_terminal("-c", WORK)
    assert code == 0
    assert re.search(r"crawl .*━.* 2/4 shards \S+/(s|min) +0:0\d left", output)
    assert re.search(r"\x1b\[[0-9;]+m━", output), "it has colors"
    assert output.count("\x1b[?25l") == output.count("\x1b[?25h") == 1, "the cursor is visible again"
    assert [line for line in shown(output) if line] == [*LINES, "a line without an enddone"]


@pytest.mark.parametrize("columns", [60, 36])
def test_a_bar_fits_into_a_narrow_terminal(columns: int) -> None:
    code, output = on_terminal("-c", WORK, columns=columns)
    assert code == 0
    assert [line for line in shown(output) if line] == [*LINES, "a line without an enddone"]
    bars = [line for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output).splitlines() if line.startswith("crawl ")]
    assert bars
    assert max(map(len, bars)) <= columns


def test_no_color_removes_the_colors() -> None:
    _, output = on_terminal("-c", WORK, NO_COLOR="1")
    assert "2/4 shards" in output
    assert not re.search(r"\x1b\[[0-9;]*m", output)


@pytest.mark.parametrize("kind", ["dumb", "unknown"])
def test_a_dumb_terminal_gets_lines(kind: str) -> None:
    code, output = on_terminal("-c", WORK, TERM=kind)
    assert code == 0
    assert "\x1b" not in output
    assert "━" not in output
    assert "crawl: 4 of 4 shards\n" in output.replace("\r", "")


def test_piped_output_has_lines_at_a_bounded_rate_and_no_bar() -> None:
    done = subprocess.run([sys.executable, "-c", WORK], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout == "done\n"
    assert done.stderr.splitlines() == [*LINES[:4], "crawl: 4 of 4 shards", LINES[4], "a line without an end"]


def test_lines_of_dask_workers_do_not_break_a_bar(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        """
import logging, pathlib, sys, time
from vecap_tasks.cli.options import LogHandler
from vecap_tasks.config import parse_config
from vecap_tasks.core.dask_cluster import connect
from vecap_tasks.progress import meter

def work(number):
    logging.getLogger("vecap_tasks.outages").warning("outage %d", number)
    time.sleep(0.3)

if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", handlers=[LogHandler()])
    values = {"dataset": "d", "root": ".", "crawl": {"source": {"kind": "folder", "path": "."}}, "dask": {"workers": 1}}
    with meter("crawl") as shown:
        shown.update(0, 3)
        with connect(parse_config(values, pathlib.Path.cwd())) as client:
            for number in range(3):
                client.submit(work, number).result()
                shown.update(number + 1, 3)
""",
        encoding="utf-8",
    )
    code, output = on_terminal(str(script))
    assert code == 0, output
    assert "1/3 shards" in output
    assert [line for line in shown(output) if line] == ["outage 0", "outage 1", "outage 2"]


def test_the_demo_web_has_a_bar_only_on_a_terminal(tmp_path: Path) -> None:
    command = ["-m", "vecap_tasks.cli", "demo", "web", "--out", str(tmp_path), "--images", "30"]
    code, output = on_terminal(*command)
    assert code == 0
    assert re.search(r"2026-01-01 .*━.* images", output)
    assert re.search(r"evaluation .*━.*/600 images .* left", output)
    lines = [line for line in shown(output) if line]
    assert [line.partition(" ")[0] for line in lines] == ["2026-01-01:", "evaluation:"]
    done = subprocess.run([sys.executable, *command], env=environment(), capture_output=True, text=True, check=True)
    assert "━" not in done.stdout + done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert "evaluation: 600 of 600 images\n" in done.stderr


@pytest.mark.slow
def test_ctrl_c_below_a_bar_ends_with_one_line(tmp_path: Path) -> None:
    write_data(tmp_path)
    config = tmp_path / "own.yaml"
    config.write_text("dataset: own\nroot: store\ncrawl:\n  source: {kind: folder, path: images}\n", encoding="utf-8")
    command = [sys.executable, "-m", "vecap_tasks.cli", "run", "--config", str(config), "--version", "2026-01-01"]
    terminal = Terminal.start(command, environment(VECAP_HOME=str(tmp_path)))
    wait_until(lambda: "/1 shards" in terminal.output or terminal.process.poll() is not None, 120, "the bar", 0.02)
    terminal.press(CTRL_C)
    assert terminal.wait(60) == 130
    lines = [line for line in shown(terminal.output) if line and line != "^C"]
    assert lines[-1].removeprefix("^C") == "vecap: Interrupted; run the same command again to resume"
    assert "Traceback" not in terminal.output
    assert "━" not in "".join(lines), "the bar is gone"
    assert terminal.output.endswith("\x1b[?25hvecap: Interrupted; run the same command again to resume\r\n")


@pytest.mark.slow
def test_a_training_shows_its_steps(home: Path) -> None:
    tokenizer = REPOSITORY / "vecap_tasks" / "demo" / "models" / "llm"
    config = configure(home, arms="[alttext, vecap]", epochs=4, model__tokenizer=tokenizer)
    publish_version(config, [Texts() for _ in range(32)])
    file = home / "config.yaml"
    file.write_text(config.model_dump_json(), encoding="utf-8")
    command = ["-m", "vecap_tasks.cli", "train", "--config", str(file), "--version", "2026-01-01"]
    code, output = on_terminal(*command, VECAP_HOME=str(home))
    assert code == 0, output
    assert re.search(r"/32 steps, (alttext|vecap)-0", output)
    assert re.search(r"steps, \S+ +\S+/s +0:\d\d left", output)
    assert not [line for line in shown(output) if "━" in line]
