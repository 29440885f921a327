"""How a training process shares the processor with the robot.

Linux lets what is scheduled as idle give way at once. Kernels with `sched_autogroup_enabled`, most desktops, share the
processor among sessions first, though, and then this holds only within one session. So a job belongs into the session
of the robot's nodes where that is the trainer's own, and else into one of its own that steps back as a whole, which
costs the robot some milliseconds a tick.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from irevla_policy.graph.groups import own_group

PRIORITIES = ("idle", "low", "normal")

_LOW, _LOWEST = 10, 19
"""Niceness of what gets a small share, and of what gets next to nothing."""

_GROUP = Path("/proc/self/autogroup")
"""Where Linux keeps the niceness of a session as a whole."""

_ROBOT = (b"irevla_guard", b"guard_node")
"""What the command line of the guard has in it, which runs beside every robot."""


def apart() -> dict[str, Any]:
    """Arguments of `subprocess.Popen` for a training process: a group of its own, and a session that suits it."""
    return own_group() if _beside_the_robot() else {"start_new_session": True}


def step_back(priority: str) -> None:
    """Let this process and those that it starts get out of the way of others.

    Niceness alone does not keep a robot's processes on time: woken up, they may still wait for what runs.

    Args:
        priority: One of `PRIORITIES`.
    """
    if priority == "idle" and hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    elif priority != "normal":
        os.nice(_LOWEST if priority == "idle" else _LOW)
    # Only a session's leader may speak for it: a process that shares its session would hold others back too.
    if priority != "normal" and os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):  # no such kernel
            _GROUP.write_text(str(_LOWEST if priority == "idle" else _LOW))


def _beside_the_robot() -> bool:
    """Whether a guard runs in this session."""
    session = os.getsid(0)
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if os.getsid(int(process.name)) != session:
                continue
            words = (process / "cmdline").read_bytes()
            if any(name in words for name in _ROBOT):
                return True
    return False
