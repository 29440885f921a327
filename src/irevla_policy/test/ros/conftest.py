"""The robot that recorder and success classifier listen to, and the modules beside the tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from recorded_robot import Robot

from irevla_policy.graph.environment import default_environment


@pytest.fixture
def robot(monkeypatch: pytest.MonkeyPatch) -> Iterator[Robot]:
    # Images go through shared memory that can hold them, as in every graph.
    for name, value in default_environment().items():
        if name not in os.environ:
            monkeypatch.setenv(name, value)
    robot = Robot()
    yield robot
    robot.close()
