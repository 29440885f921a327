"""The pages about files of settings say what the code says."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[4] / "scripts" / "settings_reference.py"


@pytest.mark.parametrize("page", ["train-settings.md", "trainer-settings.md", "robot-profile.md"])
def test_the_reference_is_current(page: str) -> None:
    made = runpy.run_path(str(SCRIPT))
    assert (made["FOLDER"] / page).read_text() == made["document"](page), f"run .venv/bin/python {SCRIPT}"
