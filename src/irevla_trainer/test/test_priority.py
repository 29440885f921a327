"""A training job leaves the processor to the robot, whatever session its processes are in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

_STEP_BACK = """
import json, os, sys
from pathlib import Path
from irevla_trainer.priority import step_back
os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))  # tests themselves may have stepped back
step_back(sys.argv[1])
group = Path("/proc/self/autogroup")
print(json.dumps([os.sched_getscheduler(0), os.nice(0), group.read_text() if group.exists() else ""]))
"""

_START = """
import json, os, subprocess, sys
from irevla_trainer.priority import apart
guards = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", name]) for name in sys.argv[1:]]
ids = "import json, os; print(json.dumps([os.getpid(), os.getpgid(0), os.getsid(0)]))"
print(json.dumps([os.getsid(0), *json.loads(subprocess.check_output([sys.executable, "-c", ids], **apart()))]))
for guard in guards:
    guard.kill()
"""


@pytest.fixture(scope="module")
def stepped_back() -> None:
    """Skips where the tests themselves have stepped back for good, as `make test` lets them, without privileges."""
    again = "import os; os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0)); assert os.nice(0) <= 9"
    if subprocess.run([sys.executable, "-c", again], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("may not step forward again: run this file by itself")


@pytest.mark.usefixtures("stepped_back")
@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize(("priority", "policy", "nice", "group"), [
    ("idle", os.SCHED_IDLE, 0, 19), ("low", os.SCHED_OTHER, 10, 10), ("normal", os.SCHED_OTHER, 0, 0),
])  # fmt: skip
def test_a_process_steps_back(priority: str, policy: int, nice: int, group: int, alone: bool):
    before = os.nice(0)
    text = subprocess.check_output([sys.executable, "-c", _STEP_BACK, priority], start_new_session=alone)
    found_policy, found_nice, found_group = json.loads(text)
    assert (found_policy, found_nice - before) == (policy, nice)
    if found_group:
        # Of the root's session, which may be ours, the kernel tells nothing.
        expected = str(group) if alone else Path("/proc/self/autogroup").read_text().split()[-1]
        assert found_group.split()[-1] == expected


@pytest.mark.parametrize(("beside", "shares"), [("irevla_guard", True), ("irevla_camera", False)])
def test_a_job_joins_the_session_of_the_robot(beside: str, shares: bool):
    text = subprocess.check_output([sys.executable, "-c", _START, beside], start_new_session=True)
    parent, process, group, session = json.loads(text)
    assert group == process, "one signal has to reach all of it"
    assert session == (parent if shares else process)
