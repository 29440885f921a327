"""The page with the settings of `irevla train` says what the code says."""

from __future__ import annotations

import runpy
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[4] / "scripts" / "train_settings.py"


def test_the_reference_is_current() -> None:
    made = runpy.run_path(str(SCRIPT))
    assert made["PATH"].read_text() == made["document"](), f"settings have changed: .venv/bin/python {SCRIPT}"
