"""What all tests share: graphs that tests bring up meet nobody else's."""

from __future__ import annotations

import os
import random
from pathlib import Path

import hypothesis
import pytest

from irevla_policy.graph.environment import default_environment

# Set before any node exists, as in every graph. In the middleware's own 512 KiB of shared memory, what killed readers
# leave unread lies scattered until no piece between holds an image, and a camera is silent for good. A person's own
# values are kept, but that processes beside each other count on from a domain that was set; a run without any takes
# domains of its own.
for _name, _value in default_environment().items():
    if _name != "PYTHONUNBUFFERED":  # what a command prints has to come without
        os.environ.setdefault(_name, _value)
os.environ.setdefault("ROS_DOMAIN_ID", str(random.SystemRandom().randint(20, 80)))
if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    os.environ["ROS_DOMAIN_ID"] = str(int(os.environ["ROS_DOMAIN_ID"]) + 1 + int(worker.removeprefix("gw")))
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A busy machine is no failure; what takes too long, pytest-timeout ends.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")

_TIMED = (("src", "irevla_policy", "test", "ros"), ("src", "irevla_policy", "test", "graph"), ("test",))
_UNTIMED = (
    "test_collect.py",
    "test_lock_step.py",
    "test_messages.py",
    "test_moveit.py",
    "test_parameters.py",
    "test_planner_process.py",
    "test_setup.py",
)
_ROOT = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests of what runs beside a robot, and of all packages together: their graphs keep times.

    The trainer's graphs, and those in lock-step, do not; every process has them on a domain of its own.
    """
    for item in items:
        if item.path.relative_to(_ROOT).parts[:-1] in _TIMED and item.path.name not in _UNTIMED:
            item.add_marker("graph")
