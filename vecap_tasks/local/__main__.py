"""`python -m vecap_tasks.local up|down|status`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from vecap_tasks.errors import VecapError, format_error
from vecap_tasks.local import control
from vecap_tasks.local.settings import Settings

_EXAMPLE = "example: VECAP_AIRFLOW_PORT=8081 python -m vecap_tasks.local up"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = argparse.ArgumentParser(prog="vecap services", description=__doc__, epilog=_EXAMPLE)
    parser.add_argument("command", choices=("up", "down", "status"), help="start, stop or show the services")
    command = parser.parse_args(arguments).command
    try:
        settings = Settings.from_environment()
        if command == "up":
            print("\n".join(control.up(settings, _report).lines()))
        elif command == "down":
            control.down(settings, _report)
        else:
            return _status(settings)
    except VecapError as error:
        print(f"vecap: {format_error(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "vecap: Interrupted; run `make up` to continue waiting, or `make down` to stop the services",
            file=sys.stderr,
        )
        return 130
    return 0


def _status(settings: Settings) -> int:
    state = control.status(settings)
    if state is None:
        print("No services are running")
        return 1
    for name, service in state.services.items():
        print(f"{name:22} {service.phase:9} {service.log}")
    print("\n".join(control.endpoints(settings).lines()))
    return 0 if state.ready else 1


def _report(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
