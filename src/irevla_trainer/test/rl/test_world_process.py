"""Processes with a world each."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["rl.world_process", "jobs.worker", "cli"])
def test_a_world_starts_without_torch(module: str) -> None:
    """Each of many processes imports the world's module and the main module of the program that made it."""
    code = f"import sys, irevla_trainer.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
