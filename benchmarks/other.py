"""The other tools, each in an environment of its own: they need older libraries than ours."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path


def environment_with(*requirements: str) -> Path:
    """Return the Python of an environment with *requirements* (`name==version`), made at the first time.

    It lies under `VECAP_HOME` (`.vecap` here) and comes from the package index that uv is configured for. Raises
    CalledProcessError where it cannot be made.
    """
    home = Path(os.environ.get("VECAP_HOME") or Path(__file__).parent.parent / ".vecap").resolve()
    place = home / "benchmarks" / "-".join(name.replace("==", "-") for name in requirements)
    python = place / "bin" / "python"
    done = place / "complete"
    if not done.exists():
        uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}") or "uv"
        print(f"installing {' '.join(requirements)} into {place}", file=sys.stderr)
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(place)], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--python", str(python), *requirements], check=True)
        done.touch()
    return python
