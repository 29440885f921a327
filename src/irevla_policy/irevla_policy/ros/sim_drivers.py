"""What makes the simulated world of `irevla_sim` go on: the answer to its observation, or the wall clock.

Each driver owns the world on a thread of its own (GL contexts belong to the thread that made them) and hands what it
sees to an `Output`. Executor callbacks only queue work.
"""

from __future__ import annotations

import copy
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

import mujoco
import numpy as np

from irevla_policy.errors import UserError
from irevla_policy.robot.observation import UInt8Image, Vector
from irevla_policy.robot.profile import Camera
from irevla_policy.sim.controller import CommandError, Trajectory, TrajectoryController
from irevla_policy.sim.metaworld import MetaWorld
from irevla_policy.sim.rendering import CameraRenderer
from irevla_policy.sim.sawyer import ActuatedSawyer

_REPEAT_SECONDS = 1.0
_LATE_SECONDS = 0.1
# After a reset in real time nothing is published for longer than watchdogs wait by this, s, and commands count again
# when they are this near to the arm, rad: those before belong to where the arm was.
_SILENCE_SECONDS = 0.1
_NEAR = 0.15
_CLOSE_SECONDS = 2.0
_RENDERED_SCENES = 2


@dataclass(frozen=True)
class Reset:
    """What an episode starts from; a negative seed lets the node draw one."""

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

    def step_info(self, stamp: int, world: MetaWorld) -> None:
        """The world's account of its last control period."""
        ...

    def images(self, stamp: int, images: dict[str, UInt8Image]) -> None:
        """Images by camera."""
        ...

    def error(self, text: str) -> None:
        """Something is wrong."""
        ...

    def warn(self, text: str) -> None:
        """Something should be known."""
        ...


class LockStepDriver:
    """The world stands still until the command with the stamp of its last observation has come.

    Args:
        make_world: Makes the world, on the driver's thread.
        output: Where observations go.
    """

    def __init__(self, make_world: Callable[[], MetaWorld], output: Output) -> None:
        self._make_world = make_world
        self._output = output
        self.failure: Exception | None = None
        self._work: queue.Queue[tuple[int, Trajectory] | tuple[Reset, Future[Started]] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run, name="world", daemon=True)

    def start(self) -> None:
        """Begin to work on what is asked for."""
        self._thread.start()

    def reset(self, reset: Reset) -> Future[Started]:
        """Start an episode; the future fails with UserError when it cannot."""
        started: Future[Started] = Future()
        self._work.put((reset, started))
        return started

    def command(self, stamp: int, trajectory: Trajectory) -> None:
        """Advance the world by one control period if this answers its last observation."""
        self._work.put((stamp, trajectory))

    def close(self) -> None:
        """Stop and give the world back."""
        self._work.put(None)
        self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        world: MetaWorld | None = None
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
        except Exception as error:
            self.failure = error
        finally:
            if world is not None:
                world.close()

    def _reset(self, world: MetaWorld | None, reset: Reset, started: Future[Started]) -> MetaWorld | None:
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

    def _advance(self, world: MetaWorld, stamp: int, trajectory: Trajectory) -> None:
        if not world.running or stamp != world.stamp:
            return
        try:
            setpoints, gripper = trajectory.period(world.profile)
        except CommandError as error:
            self._output.error(str(error))
            return
        self._observation = world.apply(setpoints, world.gripper if gripper is None else gripper).observation
        self._publish(world)

    def _publish(self, world: MetaWorld) -> None:
        seen, out = self._observation, self._output
        out.clock(seen.stamp)
        out.joints(seen.stamp, seen.joint_positions, world.environment.joint_velocities, seen.gripper)
        out.step_info(seen.stamp, world)
        out.images(seen.stamp, seen.images)


class RealTimeDriver:
    """The world follows the steady clock; images are rendered beside it on copies of its state.

    Args:
        make_world: Makes the world, without images, on the driver's thread.
        output: Where observations go.
        cameras: What to render.
        views: The profile's name of a camera to the scene's name; the same where left out.
        camera_rate: Frames a second, Hz.
    """

    def __init__(
        self,
        make_world: Callable[[], MetaWorld],
        output: Output,
        cameras: tuple[Camera, ...],
        views: dict[str, str],
        camera_rate: float,
    ) -> None:
        self._make_world = make_world
        self._output = output
        self._renderer = _RenderThread(output, cameras, views)
        self._camera_rate = camera_rate
        self._due = self._on_time = 0.0
        self.failure: Exception | None = None
        self._followed = self._succeeded = False
        self._due = 0.0
        self._work: queue.Queue[tuple[float, Trajectory] | tuple[Reset, Future[Started]] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run, name="physics", daemon=True)

    def start(self) -> None:
        """Begin to work on what is asked for."""
        self._renderer.start()
        self._thread.start()

    def reset(self, reset: Reset) -> Future[Started]:
        """Start an episode; the future fails with UserError when it cannot."""
        started: Future[Started] = Future()
        self._work.put((reset, started))
        return started

    def command(self, stamp: int, trajectory: Trajectory) -> None:
        """Follow a trajectory from now on; its stamp does not matter."""
        self._work.put((time.monotonic(), trajectory))

    def close(self) -> None:
        """Stop and give the world back."""
        self._work.put(None)
        self._thread.join(_CLOSE_SECONDS)
        self._renderer.close()

    def _run(self) -> None:
        try:
            world = self._first_episode()
            if world is not None:
                self._follow_the_clock(world)
                world.close()
        except Exception as error:
            self.failure = error

    def _follow_the_clock(self, world: MetaWorld) -> None:
        period = 1.0 / world.profile.guard_rate
        frame_every = max(round(world.profile.guard_rate / self._camera_rate), 1)
        substep, self._succeeded, behind = 0, False, time.monotonic()
        self._due = behind
        while self._serve(world):
            setpoint, gripper = self._controller.sample(time.monotonic() + period)
            self._succeeded |= world.advance(setpoint, gripper)
            substep += 1
            if substep % world.profile.substeps == 0:
                world.end_period(self._succeeded)
                self._succeeded = False
            self._publish(world, substep, frame_every)
            self._due += period
            late = time.monotonic() - self._due
            if late < 0.0:
                time.sleep(-late)
            elif late > _LATE_SECONDS:
                now = time.monotonic()
                pace = 1.0 - late / max(now - behind, 1e-9)
                self._output.warn(f"the simulation cannot hold real time: it runs at {pace:.0%} of it")
                self._due = behind = now

    def _first_episode(self) -> MetaWorld | None:
        while (work := self._work.get()) is not None:
            if not isinstance(work[0], Reset):
                continue
            started: Future[Started] = work[1]
            try:
                world = self._make_world()
            except UserError as error:
                started.set_exception(error)
                continue
            if self._start(world, work[0], started):
                return world
            world.close()
        return None

    def _serve(self, world: MetaWorld) -> bool:
        """Do what was asked for since the last substep; False to stop."""
        while not self._work.empty():
            work = self._work.get()
            if work is None:
                return False
            if isinstance(work[0], Reset):
                self._start(world, work[0], work[1])
            elif self._is_near(world, work[1]):
                self._controller.follow(work[1], work[0])
        return True

    def _is_near(self, world: MetaWorld, trajectory: Trajectory) -> bool:
        """Whether a command is for the arm of this episode, not for where it was before the reset."""
        if not self._followed:
            apart = np.max(np.abs(trajectory.positions[0] - world.environment.joint_positions))
            self._followed = bool(apart <= _NEAR)
        return self._followed

    def _start(self, world: MetaWorld, reset: Reset, started: Future[Started]) -> bool:
        try:
            world.reset(reset.task, reset.variation, reset.seed)
        except UserError as error:
            started.set_exception(error)
            return False
        except Exception as error:
            started.set_exception(error)
            raise
        self._controller = TrajectoryController(world.environment.joint_positions, world.gripper)
        self._followed = self._succeeded = False
        time.sleep(world.profile.stale_timeout + _SILENCE_SECONDS)
        self._due = time.monotonic()
        stamp = self._output.now()
        self._output.instruction(world.instruction)
        self._seen(world, stamp)
        self._output.step_info(stamp, world)
        self._renderer.offer(stamp, world.environment)
        started.set_result(Started(stamp, world.seed, world.instruction))
        self._due = self._on_time = time.monotonic()
        return True

    def _publish(self, world: MetaWorld, substep: int, frame_every: int) -> None:
        stamp = self._output.now()
        self._seen(world, stamp)
        if substep % world.profile.substeps == 0:
            self._output.step_info(stamp, world)
        if substep % frame_every == 0:
            self._renderer.offer(stamp, world.environment)

    def _seen(self, world: MetaWorld, stamp: int) -> None:
        arm = world.environment
        self._output.joints(stamp, arm.joint_positions, arm.joint_velocities, arm.finger_distance)


class _RenderThread:
    """Renders the newest state that it was offered; older ones that it had no time for are left out."""

    def __init__(self, output: Output, cameras: tuple[Camera, ...], views: dict[str, str]) -> None:
        self._output = output
        self._cameras = cameras
        self._views = views
        self._newest: tuple[int, ActuatedSawyer, Any] | None = None
        self._changed = threading.Condition()
        self._stop = False
        self._renderers: OrderedDict[ActuatedSawyer, CameraRenderer] = OrderedDict()
        self._thread = threading.Thread(target=self._run, name="render", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def offer(self, stamp: int, environment: ActuatedSawyer) -> None:
        environment.show_targets()
        state = copy.copy(environment.data)
        with self._changed:
            self._newest = (stamp, environment, state)
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._stop = True
            self._changed.notify()
        self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._stop or self._newest is not None)
                    if self._stop:
                        return
                    assert self._newest is not None
                    stamp, environment, state = self._newest
                    self._newest = None
                self._render(stamp, environment, state)
        except UserError as error:
            self._output.error(str(error))
        finally:
            for renderer in self._renderers.values():
                renderer.close()

    def _render(self, stamp: int, environment: ActuatedSawyer, state: mujoco.MjData) -> None:
        if environment not in self._renderers:
            if len(self._renderers) >= _RENDERED_SCENES:
                self._renderers.popitem(last=False)[1].close()
            self._renderers[environment] = CameraRenderer(environment.model, self._cameras, self._views)
        self._renderers.move_to_end(environment)
        self._output.images(stamp, self._renderers[environment].render(state))
