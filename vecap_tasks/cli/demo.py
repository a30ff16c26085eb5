"""`vecap demo` and `vecap services`: the demo website, and the local services."""

from __future__ import annotations

import argparse
import datetime as dt
import sys
from functools import partial
from pathlib import Path

from vecap_tasks.cli.options import Commands, add_command
from vecap_tasks.config import expand

_HOME = "${VECAP_HOME:-.vecap}/web"
_DAYS = 1
_IMAGES = 2400
_EVALUATION_IMAGES = 600
_SEED = 0


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    summary = "create and serve a demo website, and run it through the pipeline"
    parser = commands.add_parser("demo", help=summary, description=summary, epilog="example: vecap demo web --days 3")
    parts = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    web = add_command(
        parts,
        "web",
        "write the demo website, its crawls and the evaluation set",
        "vecap demo web --days 3",
        configured=False,
    )
    web.add_argument("--out", type=Path, default=None, metavar="DIR", help=f"output folder (default: {_HOME})")
    web.add_argument(
        "--day", type=dt.date.fromisoformat, default=dt.date(2026, 1, 1), help="first day (default: 2026-01-01)"
    )
    web.add_argument("--days", type=_positive, default=_DAYS, metavar="N", help="daily crawls to write (default: 1)")
    web.add_argument(
        "--images", type=_positive, default=_IMAGES, metavar="N", help=f"images per day (default: {_IMAGES})"
    )
    web.add_argument(
        "--bad-day",
        type=dt.date.fromisoformat,
        action="append",
        default=[],
        metavar="DAY",
        help="day on which every download fails, so that the quality gate rejects it (repeatable)",
    )
    web.add_argument("--seed", type=int, default=_SEED, help="random seed; the output is deterministic (default: 0)")
    web.add_argument(
        "--described",
        type=_share,
        default=None,
        metavar="P",
        help="share of AltText that describes its image (default: 0.16)",
    )
    web.set_defaults(command=_web)

    serve = add_command(
        parts, "serve", "serve the demo website on localhost until interrupted", "vecap demo serve", configured=False
    )
    serve.add_argument("--out", type=Path, default=None, metavar="DIR", help=f"folder of the website ({_HOME})")
    serve.add_argument("--port", type=int, default=None, help="port (default: ${VECAP_WEB_PORT:-8765})")
    serve.set_defaults(command=_serve)

    run = add_command(
        parts,
        "run",
        "run one crawl through Airflow to an evaluated model, as `make demo` does",
        "vecap demo run",
        configured=False,
    )
    run.set_defaults(command=_run)
    _add_services(commands)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def _share(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"must be between 0 and 1, not {text}")
    return number


def _out(arguments: argparse.Namespace) -> Path:
    return Path(arguments.out or expand(_HOME))


def _web(arguments: argparse.Namespace) -> int:
    from vecap_tasks.demo.evalset import write_evalset
    from vecap_tasks.demo.web import generate_day
    from vecap_tasks.progress import meter

    out, described = _out(arguments), arguments.described
    for number in range(arguments.days):
        day = arguments.day + dt.timedelta(days=number)
        bad = day in arguments.bad_day
        with meter(str(day)) as shown:
            report = partial(shown.update, unit="images")
            ledger = generate_day(
                out, day, arguments.seed, arguments.images, bad=bad, described=described, report=report
            )
        print(f"{day}: {ledger.references:,} images on {ledger.pages:,} pages, {ledger.warc}", file=sys.stderr)
    with meter("evaluation") as shown:
        report = partial(shown.update, unit="images")
        evaluation = write_evalset(out / "evaluation", arguments.seed, _EVALUATION_IMAGES, report)
    print(f"evaluation: {evaluation.images:,} images", file=sys.stderr)
    return 0


def _serve(arguments: argparse.Namespace) -> int:
    from vecap_tasks.demo.serve import serve

    port = arguments.port or int(expand("${VECAP_WEB_PORT:-8765}"))
    serve(_out(arguments), port=port)
    return 0


def _run(arguments: argparse.Namespace) -> int:
    from vecap_tasks.local.settings import require_checkout

    require_checkout()
    from vecap_tasks.local.demo import main

    return main()


def _add_services(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = add_command(
        commands,
        "services",
        "start, stop or show Airflow, Dask, MLflow and their database on this machine",
        "vecap services up",
        configured=False,
    )
    parser.add_argument("action", choices=("up", "down", "status"))
    parser.set_defaults(command=_services)


def _services(arguments: argparse.Namespace) -> int:
    from vecap_tasks.local.settings import require_checkout

    require_checkout()
    from vecap_tasks.local.__main__ import main

    return main([arguments.action])
