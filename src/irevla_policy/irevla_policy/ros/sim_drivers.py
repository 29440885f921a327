"""What makes the simulated world of `irevla_sim` go on: what its drivers share, and the one in lock-step.

Each driver owns the world on a thread of its own (GL contexts belong to the thread that made them) and hands what it
sees to an `Output`. Executor callbacks only queue work.
"""

from __future__ import annotations

import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from irevla_policy.errors import UserError
from irevla_policy.robot.camera import Intrinsics
from irevla_policy.robot.observation import UInt8Image, Vector
from irevla_policy.sim.controller import CommandError, Trajectory
from irevla_policy.sim.world import WorldError

if TYPE_CHECKING:
    from irevla_policy.sim.simulated import SimulatedWorld

C = TypeVar("C", bound=tuple[object, Trajectory])

_REPEAT_SECONDS = 1.0
CLOSE_SECONDS = 2.0
"""How long the end of a driver waits for its thread, s."""


@dataclass(frozen=True)
class Reset:
    """What an episode starts from; a seed of -1 lets the node draw one."""

    task: str
    variation: str
    seed: int


@dataclass(frozen=True)
class Started:
    """A started episode: stamp of its first observation (ns), seed and instruction."""

    stamp: int
    seed: int
    instruction: str


class Output(Protocol):
    """Where a driver sends what it sees. Stamps in ns; called on the driver's threads."""

    def now(self) -> int:
        """The time of the node's clock."""
        ...

    def instruction(self, text: str) -> None:
        """What to do in the episode that starts."""
        ...

    def clock(self, stamp: int) -> None:
        """The simulated time."""
        ...

    def joints(self, stamp: int, positions: Vector, velocities: Vector, gripper: float) -> None:
        """Arm joints, rad and rad/s, `[n]`, and the gripper's opening, m."""
        ...

    def step_info(self, stamp: int, world: SimulatedWorld) -> None:
        """The world's account of its last control period."""
        ...

    def images(self, stamp: int, images: Mapping[str, UInt8Image], intrinsics: Mapping[str, Intrinsics]) -> None:
        """Images by camera, and what they are projected with."""
        ...

    def error(self, text: str) -> None:
        """Something is wrong."""
        ...

    def warn(self, text: str) -> None:
        """Something should be known."""
        ...


ResetWork = tuple[Reset, "Future[Started]"]


class WorldThread(ABC, Generic[C]):
    """A thread that owns a world and does what is asked for, in order; `C` is what becomes of a command.

    Args:
        make_world: Makes the world, on the thread.
        output: Where observations go.
    """

    def __init__(self, make_world: Callable[[], SimulatedWorld], output: Output) -> None:
        self._make_world = make_world
        self._output = output
        self._failure: Exception | None = None
        self._work: queue.Queue[C | ResetWork | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run, name="world", daemon=True)

    @property
    def failure(self) -> Exception | None:
        """What ended the thread; None while it works."""
        return self._failure

    def start(self) -> None:
        """Begin to work on what is asked for."""
        self._thread.start()

    def reset(self, reset: Reset) -> Future[Started]:
        """Start an episode; the future fails with UserError when it cannot."""
        started: Future[Started] = Future()
        self._work.put((reset, started))
        if not self._thread.is_alive():
            self._refuse_resets()
        return started

    @abstractmethod
    def command(self, stamp: int, trajectory: Trajectory) -> None:
        """A trajectory with a stamp in ns."""

    def close(self) -> None:
        """Stop and give the world back."""
        self._work.put(None)
        self._thread.join(CLOSE_SECONDS)

    @abstractmethod
    def _do_what_is_asked(self) -> None:
        """Work until None is asked for."""

    def _run(self) -> None:
        try:
            self._do_what_is_asked()
        except Exception as error:
            self._failure = error
        finally:
            self._refuse_resets()

    def _refuse_resets(self) -> None:
        """Nobody waits for a thread that has ended."""
        while not self._work.empty():
            work = self._work.get()
            if work is not None and isinstance(work[1], Future):
                work[1].set_exception(WorldError(f"the simulation has ended: {self._failure or 'it was told to'}"))


class LockStepDriver(WorldThread[tuple[int, Trajectory]]):
    """The world stands still until the command with the stamp of its last observation has come."""

    def command(self, stamp: int, trajectory: Trajectory) -> None:
        """Advance the world by one control period if this answers its last observation."""
        self._work.put((stamp, trajectory))

    def _do_what_is_asked(self) -> None:
        world: SimulatedWorld | None = None
        try:
            while True:
                waiting = world is not None and world.running
                try:
                    work = self._work.get(timeout=_REPEAT_SECONDS if waiting else None)
                except queue.Empty:
                    # The observation or its answer was lost, or nobody listened yet.
                    assert world is not None
                    self._publish(world)
                    continue
                if work is None:
                    return
                if isinstance(work[0], Reset):
                    world = self._reset(world, *work)
                elif world is not None:
                    self._advance(world, *work)
        finally:
            if world is not None:
                world.close()

    def _reset(self, world: SimulatedWorld | None, reset: Reset, started: Future[Started]) -> SimulatedWorld | None:
        try:
            if world is None:
                world = self._make_world()
            self._observation = world.reset(reset.task, reset.variation, reset.seed)
        except UserError as error:
            started.set_exception(error)
            return world
        except Exception as error:
            started.set_exception(error)
            raise
        self._output.instruction(world.instruction)
        self._publish(world)
        started.set_result(Started(world.stamp, world.seed, world.instruction))
        return world

    def _advance(self, world: SimulatedWorld, stamp: int, trajectory: Trajectory) -> None:
        if not world.running or stamp != world.stamp:
            return
        try:
            setpoints, gripper = trajectory.period(world.profile)
        except CommandError as error:
            self._output.error(str(error))
            return
        self._observation = world.apply(setpoints, world.gripper if gripper is None else gripper).observation
        self._publish(world)

    def _publish(self, world: SimulatedWorld) -> None:
        seen, out = self._observation, self._output
        out.clock(seen.stamp)
        out.joints(seen.stamp, seen.joint_positions, world.environment.joint_velocities, seen.gripper)
        out.step_info(seen.stamp, world)
        out.images(seen.stamp, seen.images, world.intrinsics)
