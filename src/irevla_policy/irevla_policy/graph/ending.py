"""How processes end: asked, then told, then killed, all within three seconds."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

# Seconds after the first signal. Ctrl-C may take 3 s, of which a busy machine needs some to bury the dead.
TERMINATE_AFTER = 1.8
KILL_AFTER = 2.5

_POLL = 0.02


def send(process: int, number: signal.Signals) -> None:
    """Send a signal to a process that may be gone."""
    with suppress(ProcessLookupError):
        os.kill(process, number)


def kill_group(process: int) -> None:
    """Kill a process and everything that it started; it must lead a process group."""
    with suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)


def end(leaders: Iterable[int], alive: Callable[[int], bool]) -> list[int]:
    """End processes and what they started: SIGINT at once, SIGTERM after 1.8 s, SIGKILL after 2.5 s.

    SIGINT and SIGTERM go to the leaders alone, which know how to close what they opened; what is left of a group is
    killed as soon as its leader is gone.

    Args:
        leaders: Process ids that are also process group ids.
        alive: Tells whether a leader still runs.

    Returns:
        The leaders that had to be killed.
    """
    waiting = list(leaders)
    steps = [(TERMINATE_AFTER, signal.SIGTERM), (KILL_AFTER, signal.SIGKILL)]
    start = time.monotonic()
    killed: list[int] = []
    for leader in waiting:
        send(leader, signal.SIGINT)
        # A stopped process would sleep through its signals.
        send(leader, signal.SIGCONT)
    while waiting:
        for leader in [leader for leader in waiting if not alive(leader)]:
            kill_group(leader)
            waiting.remove(leader)
        if steps and time.monotonic() - start >= steps[0][0]:
            _, number = steps.pop(0)
            for leader in waiting:
                if number == signal.SIGKILL:
                    killed.append(leader)
                    kill_group(leader)
                else:
                    send(leader, number)
        if waiting and not steps and time.monotonic() - start >= KILL_AFTER + 1.0:
            # Even SIGKILL waits for a process that sleeps inside the kernel; nothing more can be done from here.
            break
        if waiting:
            time.sleep(_POLL)
    return killed
