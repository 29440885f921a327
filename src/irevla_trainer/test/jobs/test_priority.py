"""A training job leaves the processor to the robot."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

_CODE = """
import json, os, sys
from irevla_trainer.jobs.priority import step_back
step_back(sys.argv[1])
print(json.dumps([os.sched_getscheduler(0), os.nice(0)]))
"""


@pytest.mark.parametrize(("priority", "policy", "nice"), [
    ("idle", os.SCHED_IDLE, 0), ("low", os.SCHED_OTHER, 10), ("normal", os.SCHED_OTHER, 0),
])  # fmt: skip
def test_a_process_steps_back(priority: str, policy: int, nice: int):
    before = os.nice(0)
    found_policy, found_nice = json.loads(subprocess.check_output([sys.executable, "-c", _CODE, priority]))
    assert (found_policy, found_nice - before) == (policy, nice)
