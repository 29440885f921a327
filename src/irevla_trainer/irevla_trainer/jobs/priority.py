"""How a process shares the processor with others."""

from __future__ import annotations

import os

PRIORITIES = ("idle", "low", "normal")

_LOW, _LOWEST = 10, 19
"""Niceness of what gets a small share, and of what gets next to nothing."""


def step_back(priority: str) -> None:
    """Let this process and those that it starts get out of the way of others.

    Niceness alone does not keep a robot's processes on time: woken up, they may still wait for what runs. Linux lets
    them take over at once from what is scheduled as idle; where the kernel shares the processor among sessions first,
    only processes of the same session (see `irevla_policy.graph.groups`).

    Args:
        priority: One of `PRIORITIES`.
    """
    if priority == "idle" and hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    elif priority != "normal":
        os.nice(_LOWEST if priority == "idle" else _LOW)
