"""What all tests share: graphs that tests bring up meet nobody else's."""

from __future__ import annotations

import os
import random
from pathlib import Path

import hypothesis
import pytest

# Set before any node exists. Values that a person has set are kept; a run without any takes a domain of its own.
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
os.environ.setdefault("ROS_DOMAIN_ID", str(random.SystemRandom().randint(20, 100)))
os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A busy machine is no failure; what takes too long, pytest-timeout ends.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")

_GRAPHS = {"ros", "graph"}
_ROOT = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that bring up node graphs: those in folders of these names, and those of all packages together."""
    for item in items:
        folders = item.path.relative_to(_ROOT).parts[:-1]
        if _GRAPHS & set(folders) or folders == ("test",):
            item.add_marker("graph")
