"""Runs the tests of bags with each backend that is installed."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

# Modules beside the tests can be imported by them.
sys.path.insert(0, str(Path(__file__).parent))

BACKENDS = [
    pytest.param(
        "rosbag2_py",
        marks=pytest.mark.skipif(importlib.util.find_spec("rosbag2_py") is None, reason="rosbag2_py is not installed"),
    ),
    "rosbags",
]


@pytest.fixture(params=BACKENDS)
def bag_backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every installed bag backend in turn (only the forced one when IREVLA_BAG_BACKEND is set)."""
    forced = os.environ.get("IREVLA_BAG_BACKEND")
    if forced and forced != request.param:
        pytest.skip(f"IREVLA_BAG_BACKEND is {forced}")
    monkeypatch.setenv("IREVLA_BAG_BACKEND", request.param)
    return str(request.param)
