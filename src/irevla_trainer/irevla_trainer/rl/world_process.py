"""A world in a process of its own, asked through a pipe.

The process lives as long as the pipe: when the learner is killed, its worlds end too, without a word. Ctrl-C is for
the learner alone, which ends its worlds in order.

What a process imports is imported once, in the process that all are forked from. Nothing here may import torch: every
process would, for seconds.
"""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import numpy.typing as npt

from irevla_policy.errors import RunError
from irevla_policy.robot.profile import RobotProfile
from irevla_policy.sim.environment import Observed, WorldEnvironment
from irevla_policy.sim.tasks import TaskFile
from irevla_policy.sim.worlds import make_world

_PRELOADED = ["irevla_policy.sim.metaworld", "irevla_trainer.rl.world_process"]
_TIME_TO_END = 5.0
"""s that a process gets for the step at hand before it is killed."""

_GONE = (EOFError, ConnectionResetError, BrokenPipeError)

Reset = dict[str, Any]
"""Arguments of `WorldEnvironment.reset`."""


@dataclass(frozen=True)
class Reply:
    """What an action led to.

    Attributes:
        observed: What was seen after it; None where there was no action.
        terminated: Whether the episode ended in success.
        truncated: Whether it was given up.
        first: What is seen of the next episode, where it was asked for and has begun.
    """

    observed: Observed | None
    terminated: bool
    truncated: bool
    first: Observed | None

    @property
    def ended(self) -> bool:
        """Whether the episode is over."""
        return self.terminated or self.truncated


def make_environment(profile: RobotProfile, tasks: TaskFile, max_steps: int | None) -> WorldEnvironment:
    """The world of each process; nothing is loaded before its first episode.

    Raises:
        WorldError: The world cannot simulate the robot, or its actions have no bounds.
    """
    world = partial(make_world, profile, tasks, max_steps=max_steps)
    return WorldEnvironment(profile, list(tasks.tasks), world=world)


class WorldProcess:
    """A process with one world.

    Args:
        number: Of the process, for messages.
        make: Makes the world, in the process.
    """

    def __init__(self, number: int, make: Callable[[], WorldEnvironment]) -> None:
        _start_forkserver()
        self._name = f"world {number}"
        self._waiting = 0
        context = multiprocessing.get_context("forkserver")
        self._pipe, far = context.Pipe()
        self._process = context.Process(target=_serve, args=(far, make), name=self._name, daemon=True)
        try:
            self._process.start()
        finally:
            far.close()

    def ask(self, action: npt.NDArray[np.float32] | None, following: Reset | None) -> None:
        """Ask for a step without waiting for it.

        Args:
            action: Raw action `[a]`; None to start with `following` at once.
            following: The episode to start when this one has ended.

        Raises:
            RunError: The process has ended.
        """
        try:
            self._pipe.send((action, following))
        except _GONE as error:
            raise self._ended() from error
        self._waiting += 1

    def answer(self) -> Reply:
        """Wait for the answer to the oldest question.

        Raises:
            RunError: The process has ended.
            Exception: What the world raised.
        """
        try:
            reply = self._pipe.recv()
        except _GONE as error:
            raise self._ended() from error
        self._waiting -= 1
        if isinstance(reply, _Failure):
            raise reply.error from RuntimeError(f"in {self._name}:\n{reply.trace}")
        assert isinstance(reply, Reply)
        return reply

    def settle(self) -> None:
        """Wait for answers that nobody wants any more."""
        while self._waiting:
            self._pipe.recv()
            self._waiting -= 1

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        if self._process.pid is None:
            return
        self._process.join(_TIME_TO_END)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()

    def _ended(self) -> RunError:
        self._process.join(_TIME_TO_END)
        code = self._process.exitcode
        how = f"was ended by signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"
        memory = " (out of memory? fewer worlds take less)" if code == -signal.SIGKILL else ""
        return RunError(f"the process of {self._name} {how}{memory}")


@dataclass(frozen=True)
class _Failure:
    """What the world raised, and where."""

    error: Exception
    trace: str


def _start_forkserver() -> None:
    """Start the process that all worlds are forked from, deaf to SIGINT from its first moment, as they are then."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(_PRELOADED)
    # First: starting the tracker unblocks SIGINT.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: Connection, make: Callable[[], WorldEnvironment]) -> None:
    environment: WorldEnvironment | None = None
    try:
        while True:
            action, following = pipe.recv()
            try:
                environment = environment or make()
                reply: Reply | _Failure = _reply(environment, action, following)
            except Exception as error:
                reply = _Failure(error, traceback.format_exc())
            pipe.send(reply)
    except _GONE:
        # The learner has closed its end, or is no more.
        pass
    finally:
        if environment is not None:
            environment.close()


def _reply(environment: WorldEnvironment, action: npt.NDArray[np.float32] | None, following: Reset | None) -> Reply:
    if action is None:
        assert following is not None
        return Reply(None, False, False, environment.reset(**following)[0])
    # The privileged state and the like stay here: nobody learns from them, and they would go through the pipe.
    observed, _, terminated, truncated, _ = environment.step(action)
    over = terminated or truncated
    first = environment.reset(**following)[0] if over and following is not None else None
    return Reply(observed, terminated, truncated, first)
