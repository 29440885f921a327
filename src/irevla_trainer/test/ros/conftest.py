"""What the tests here share: the modules beside them, and graphs on a domain of their own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from irevla_policy.graph.environment import default_environment

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def private(monkeypatch) -> None:
    """The environment of a graph, on a domain that no other run is on."""
    monkeypatch.setenv("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    for name, value in default_environment().items():
        monkeypatch.setenv(name, value)
