"""Environments for the other tools, which need older libraries than ours."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path


def environment_with(*requirements: str) -> Path:
    """Return the Python of an environment with *requirements* (`name==version`), created on the first call.

    It is in `VECAP_HOME` (default: `.vecap`) and uses the package index configured for uv. Raises CalledProcessError
    if installation fails.
    """
    home = Path(os.environ.get("VECAP_HOME") or Path(__file__).parent.parent / ".vecap").resolve()
    folder = home / "benchmarks" / "-".join(name.replace("==", "-") for name in requirements)
    python = folder / "bin" / "python"
    complete = folder / "complete"
    if not complete.exists():
        uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}") or "uv"
        print(f"Installing {' '.join(requirements)} into {folder}", file=sys.stderr)
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--python", str(python), *requirements], check=True)
        complete.touch()
    return python
