"""How a process shares the processor with others."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

PRIORITIES = ("idle", "low", "normal")

_LOW, _LOWEST = 10, 19
"""Niceness of what gets a small share, and of what gets next to nothing."""

_GROUP = Path("/proc/self/autogroup")
"""Where Linux keeps the niceness of a session as a whole, on kernels that share the processor among sessions first."""


def step_back(priority: str) -> None:
    """Let this process and those that it starts get out of the way of others.

    Niceness alone does not keep a robot's processes on time: woken up, they may still wait for what runs. Linux lets
    them take over at once from what is scheduled as idle.

    Args:
        priority: One of `PRIORITIES`.
    """
    if priority == "idle" and hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    elif priority != "normal":
        os.nice(_LOWEST if priority == "idle" else _LOW)
    # What a process is within its session counts for nothing against the sessions of the other nodes. Only a session's
    # leader may speak for it: a process that shares its session would hold others back too.
    if priority != "normal" and os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):  # no such kernel
            _GROUP.write_text(str(_LOWEST if priority == "idle" else _LOW))
