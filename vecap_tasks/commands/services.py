"""`vecap services up|down|status`: the services of one machine, started and ended."""

from __future__ import annotations

import argparse

from vecap_tasks.commands.options import Commands, add_command


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = add_command(
        commands,
        "services",
        "start, end or show Airflow, Dask, MLflow and their database on this machine",
        "vecap services up",
        configured=False,
    )
    parser.add_argument("action", choices=("up", "down", "status"))
    parser.set_defaults(command=_services)


def _services(arguments: argparse.Namespace) -> int:
    from vecap_tasks.services.__main__ import main

    return main([arguments.action])
