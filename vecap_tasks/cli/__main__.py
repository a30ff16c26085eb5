"""The `vecap` command line: runs the same stage code as Airflow, and inspects versions."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence

from vecap_tasks import __version__
from vecap_tasks.errors import VecapError, format_error, missing_extra

Command = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 for success, 1 for a reported failure, 2 for wrong usage."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    logging.basicConfig(
        level=logging.DEBUG if arguments.verbose else logging.INFO, format="%(message)s", stream=sys.stderr
    )
    for chatty in ("distributed", "distributed.worker", "alembic", "mlflow", "great_expectations", "botocore"):
        logging.getLogger(chatty).setLevel(logging.DEBUG if arguments.verbose else logging.WARNING)
    command: Command = arguments.command
    try:
        return command(arguments)
    except KeyboardInterrupt:
        print("vecap: Interrupted; run the same command again to resume", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (VecapError, OSError, ModuleNotFoundError) as error:
        reason = format_error(error)
        if isinstance(error, ModuleNotFoundError):
            extra = missing_extra(error, arguments.subcommand)
            if extra is None:
                raise
            reason = f"{arguments.subcommand} {extra}"
        if arguments.verbose:
            logging.exception("Traceback:")
        print(f"vecap: {reason}", file=sys.stderr)
        return 1


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `vecap` with all its subcommands."""
    from vecap_tasks.cli import demo, mixture, quarantine, run, versions

    parser = argparse.ArgumentParser(
        prog="vecap",
        description="Visual-enriched captions from a web crawl, stage by stage.",
        epilog="example: vecap run --config configs/demo.yaml --version 2026-01-01",
    )
    parser.add_argument("--version", action="version", version=f"vecap {__version__}")
    parser.set_defaults(verbose=False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="subcommand", required=True)
    for module in (run, versions, quarantine, mixture, demo):
        module.add_commands(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
