"""A training job leaves the processor to the robot, whatever session its processes are in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

_CODE = """
import json, os, sys
from pathlib import Path
from irevla_trainer.jobs.priority import step_back
step_back(sys.argv[1])
group = Path("/proc/self/autogroup")
print(json.dumps([os.sched_getscheduler(0), os.nice(0), group.read_text() if group.exists() else ""]))
"""


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize(("priority", "policy", "nice", "group"), [
    ("idle", os.SCHED_IDLE, 0, 19), ("low", os.SCHED_OTHER, 10, 10), ("normal", os.SCHED_OTHER, 0, 0),
])  # fmt: skip
def test_a_process_steps_back(priority: str, policy: int, nice: int, group: int, alone: bool):
    before = os.nice(0)
    text = subprocess.check_output([sys.executable, "-c", _CODE, priority], start_new_session=alone)
    found_policy, found_nice, found_group = json.loads(text)
    assert (found_policy, found_nice - before) == (policy, nice)
    if found_group:
        # Of the root's session, which may be ours, the kernel tells nothing.
        expected = str(group) if alone else Path("/proc/self/autogroup").read_text().split()[-1]
        assert found_group.split()[-1] == expected
