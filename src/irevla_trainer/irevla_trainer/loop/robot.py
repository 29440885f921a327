"""Rollouts of a live robot: a process of its own acts, while this one learns and never delays a command.

The robot goes on while the learner is busy with what came before, so that it acts with weights that are one rollout
old.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from torch import Tensor

from irevla_policy.errors import RunError
from irevla_policy.graph.groups import own_group
from irevla_policy.model.checkpoint import save_checkpoint
from irevla_policy.model.policy import VLAPolicy
from irevla_trainer.rl.asking import Ask, Asking, Noise, Role
from irevla_trainer.rl.latents import LatentStore
from irevla_trainer.rl.rollout import Rollout
from irevla_trainer.rl.rollout_file import read_rollout
from irevla_trainer.rl.worlds import EpisodeRequest

_POLL = 0.05  # s
_AGAIN_AFTER = 1.0
"""s until an actor that has ended is started again."""

_LEAVES = 5.0
"""s until an actor that does not leave by itself is killed."""

_GIVES_UP_AFTER = 5
"""Actors in a row that ended without an episode."""

_STARTER = ThreadPoolExecutor(1, thread_name_prefix="starter")
"""The thread that starts actors, and the only one that never steps back: a child does as its parent does, and whoever
has stepped back cannot return."""


class RobotRollouts:
    """Rollouts by a process of its own; leave the context to end it.

    Args:
        folder: Keeps what is asked for and what came of it, also for the next learner.
        policy: With its frozen backbone; what learns of it goes along with every request.
        role: Who acts.
    """

    def __init__(self, folder: Path, policy: VLAPolicy, role: Role) -> None:
        self._asking = Asking(folder)
        self._asking.role = role
        save_checkpoint(self._asking.policy, policy, {"made_by": "irevla train"})
        self._ending, self._failed = threading.Event(), ""
        _step_back(except_for=_STARTER.submit(threading.get_native_id).result())
        self._keeper = threading.Thread(target=self._keep, name="actor", daemon=True)
        self._keeper.start()

    def __enter__(self) -> RobotRollouts:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the actor; the robot brakes and holds."""
        self._ending.set()
        self._keeper.join()

    def ask(self, number: int, requests: Sequence[EpisodeRequest], noise: Noise, weights: Mapping[str, Tensor]) -> None:
        """Let the actor begin a rollout once it is done with those before."""
        self._asking.ask(Ask(number, tuple(requests), noise), weights)

    def take(self, number: int, store: LatentStore) -> Rollout:
        """Wait for a rollout.

        Args:
            number: Of what was asked for.
            store: Gets its observations.

        Raises:
            RunError: The actor ends again and again, or cannot be started.
        """
        ask, _ = self._asking.read(number)
        while self._asking.missing(ask):
            if self._failed:
                raise RunError(f"the process that acts on the robot {self._failed}")
            time.sleep(_POLL)
        return read_rollout([self._asking.episode(number, place) for place in range(len(ask.requests))], store)

    def learnt(self, number: int) -> None:
        """A rollout, and all before it, has been learnt from; it is removed."""
        self._asking.forget(number)

    def _keep(self) -> None:
        """Keep an actor running until the end, or say why there is none."""
        failures, episodes = 0, self._asking.episodes()
        command = [sys.executable, "-m", "irevla_trainer.ros.actor", str(self._asking.folder)]
        while not self._ending.is_set():
            try:
                process = _STARTER.submit(_start, command).result()
            except OSError as error:
                how = f"cannot be started: {error}"
            else:
                try:
                    while process.poll() is None and not self._ending.wait(_POLL):
                        if self._asking.episodes() != episodes:
                            failures, episodes = 0, self._asking.episodes()
                finally:
                    _end(process)
                how = f"has ended {failures + 1} times, with exit code {process.returncode}; it says why above"
            failures += 1
            if failures == _GIVES_UP_AFTER:
                self._failed = how
                return
            self._ending.wait(_AGAIN_AFTER)


def _start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdin=subprocess.PIPE, **own_group())


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let the actor leave: it acts no more once its pipe is closed, and ends the recording of its episode."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(_LEAVES)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _step_back(except_for: int | None) -> None:
    """Let all threads of this process but one give way to the robot's at once."""
    if not hasattr(os, "SCHED_IDLE"):
        return
    for thread in (int(path.name) for path in Path("/proc/self/task").iterdir()):
        if thread != except_for:
            with contextlib.suppress(ProcessLookupError):
                os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))
