"""What the tests here share: the modules beside them, and the environment of graphs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from irevla_policy.graph.environment import default_environment

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def private(monkeypatch) -> None:
    """The environment of a graph, on the domain of this process, which no other one is on."""
    for name, value in default_environment().items():
        monkeypatch.setenv(name, value)
