"""The `vecap` command line: runs the same stage code as Airflow, and inspects versions.

Imports that take time are in the functions, so that Ctrl-C is handled before they begin.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack

TYPE_CHECKING = False  # as in `typing`, whose import takes time
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    Command = Callable[[argparse.Namespace], int]

_CHATTY = ("distributed", "distributed.worker", "alembic", "mlflow", "great_expectations", "botocore", "httpx2")
_OWN_INTERRUPTS = ("demo", "services")  # commands that start processes which outlive them


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 for success, 1 for a reported failure, 2 for wrong usage.

    Without *argv* this is the process of the command: Ctrl-C ends it at once, with exit code 130.
    """
    if argv is not None:
        return _run(argv)
    from vecap_tasks.cli import interrupt

    arguments = sys.argv[1:]
    if arguments[:1] and arguments[0] in _OWN_INTERRUPTS:
        return _run(arguments)
    interrupt.install()
    try:
        with ExitStack() as stack:
            _use_own_temporary_folder(stack)
            return _run(arguments)
    finally:
        interrupt.wait_if_interrupted()


def _use_own_temporary_folder(stack: ExitStack) -> None:
    """Have this process, its children and all libraries create temporary files in one folder until *stack* closes."""
    import tempfile

    from vecap_tasks.core.temporary import remove_abandoned, temporary_folder

    remove_abandoned()
    try:
        folder = stack.enter_context(temporary_folder())
    except OSError:  # the command reports it if it needs one
        return
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)


def _run(argv: Sequence[str]) -> int:
    import logging

    from vecap_tasks.cli.options import LogHandler
    from vecap_tasks.errors import VecapError, format_problems, missing_extra

    arguments = None
    try:
        arguments = build_parser().parse_args(argv)
        level = logging.DEBUG if arguments.verbose else logging.INFO
        logging.basicConfig(level=level, format="%(message)s", handlers=[LogHandler()])
        for chatty in _CHATTY:
            logging.getLogger(chatty).setLevel(logging.DEBUG if arguments.verbose else logging.WARNING)
        if not arguments.verbose:
            logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it reports that it builds its font cache
        command: Command = arguments.command
        return command(arguments)
    except KeyboardInterrupt:
        print("vecap: Interrupted; run the same command again to resume", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (VecapError, OSError, ModuleNotFoundError) as error:
        problems = format_problems(error)
        if isinstance(error, ModuleNotFoundError):
            if arguments is None:
                raise
            extra = missing_extra(error, arguments.subcommand)
            if extra is None:
                raise
            problems = [f"{arguments.subcommand} {extra}"]
        if arguments is not None and arguments.verbose:
            logging.exception("Traceback:")
        for problem in problems:
            print(f"vecap: {problem}", file=sys.stderr)
        return 1


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `vecap` with all its subcommands."""
    from vecap_tasks import __version__
    from vecap_tasks.cli import config, demo, doctor, export, init, mixture, quarantine, run, show, tune, versions
    from vecap_tasks.cli.options import Parser, add_command

    parser: argparse.ArgumentParser = Parser(
        prog="vecap",
        description="Visual-enriched captions from a web crawl, stage by stage.",
        epilog="example: vecap run --config configs/demo.yaml --version 2026-01-01",
    )
    parser.add_argument("--version", action="version", version=f"vecap {__version__}")
    parser.set_defaults(verbose=False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="subcommand", required=True)
    for module in (init, run, config, doctor, versions, show, quarantine, mixture, tune, export, demo):
        module.add_commands(commands)
    shell = add_command(
        commands,
        "completion",
        "print a script that completes commands and options in your shell",
        "source <(vecap completion bash)",
        configured=False,
    )
    shell.add_argument("shell", choices=("bash", "zsh"))
    shell.set_defaults(command=_completion)
    return parser


def _completion(arguments: argparse.Namespace) -> int:
    from vecap_tasks.cli.options import completion

    print(completion(build_parser(), arguments.shell), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
