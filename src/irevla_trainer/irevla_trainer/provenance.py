"""Where a checkpoint comes from: code, packages, machine, time."""

from __future__ import annotations

import platform
import subprocess
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from irevla_trainer import __version__

_PACKAGES = ("torch", "transformers", "peft", "numpy")


def code_version() -> str:
    """The suite's version, with the git commit where it runs from a git tree ('+dirty' with changes)."""
    here = Path(__file__).resolve().parent
    try:
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty=+dirty", "--abbrev=12", "--exclude=*"],
            cwd=here, capture_output=True, text=True, timeout=10, check=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return __version__
    return f"{__version__} ({commit})"


def origin() -> dict[str, Any]:
    """Code, packages, machine and time, for `provenance.json`."""
    return {
        "code": code_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
