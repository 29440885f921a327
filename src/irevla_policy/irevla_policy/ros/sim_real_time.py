"""The driver of `irevla_sim` in real time: physics paced by the steady clock, images rendered beside it."""

from __future__ import annotations

import copy
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

import mujoco
import numpy as np

from irevla_policy.errors import UserError
from irevla_policy.robot.camera import Camera
from irevla_policy.ros.sim_drivers import CLOSE_SECONDS, Output, Reset, Started, WorldThread
from irevla_policy.sim.controller import Trajectory, TrajectoryController
from irevla_policy.sim.disturbance import Disturbance
from irevla_policy.sim.rendering import CameraRenderer, intrinsics_of
from irevla_policy.sim.simulated import SimulatedWorld, TaskEnvironment

_LATE_SECONDS = 0.1
# A reset is followed by silence, longer by this than watchdogs wait, so that they take notice of it.
_SILENCE_SECONDS = 0.1
# Commands that were meant for the arm before a reset are far from where it is now, rad, and cease soon, s.
_NEAR = 0.15
_OLD_COMMANDS_SECONDS = 1.0
_RENDERED_SCENES = 2


class RealTimeDriver(WorldThread[tuple[float, Trajectory]]):
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
        make_world: Callable[[], SimulatedWorld],
        output: Output,
        cameras: tuple[Camera, ...],
        views: dict[str, str],
        camera_rate: float,
    ) -> None:
        super().__init__(make_world, output)
        self._renderer = _RenderThread(output, cameras, views)
        self._camera_rate = camera_rate
        self._followed = self._succeeded = False
        self._began = self._due = self._on_time = 0.0

    @property
    def failure(self) -> Exception | None:
        """What ended one of the threads; None while they work."""
        return self._failure or self._renderer.failure

    def start(self) -> None:
        """Begin to work on what is asked for."""
        self._renderer.start()
        super().start()

    def command(self, stamp: int, trajectory: Trajectory) -> None:
        """Follow a trajectory from now on; its stamp does not matter."""
        self._work.put((time.monotonic(), trajectory))

    def close(self) -> None:
        """Stop and give the world back."""
        super().close()
        self._renderer.close()

    def _do_what_is_asked(self) -> None:
        world = self._first_episode()
        if world is not None:
            self._follow_the_clock(world)
            world.close()

    def _follow_the_clock(self, world: SimulatedWorld) -> None:
        period = 1.0 / world.profile.guard_rate
        frame_every = max(round(world.profile.guard_rate / self._camera_rate), 1)
        substep = 0
        while self._serve(world):
            setpoint, gripper = self._controller.sample(time.monotonic() + period)
            self._succeeded |= world.advance(setpoint, gripper)
            substep += 1
            if substep % world.profile.substeps == 0:
                world.end_period(self._succeeded)
                self._succeeded = False
            self._publish(world, substep, frame_every)
            self._pace(period)

    def _pace(self, period: float) -> None:
        """Wait for the end of the substep; when that is long past, say so and start over from now."""
        self._due += period
        late = time.monotonic() - self._due
        if late < 0.0:
            time.sleep(-late)
        elif late > _LATE_SECONDS:
            took = self._due + late - self._on_time
            self._output.warn(f"the simulation cannot hold real time: it runs at {1.0 - late / took:.0%} of it")
            self._due = self._on_time = time.monotonic()

    def _first_episode(self) -> SimulatedWorld | None:
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

    def _serve(self, world: SimulatedWorld) -> bool:
        """Do what was asked for since the last substep; False to stop."""
        while not self._work.empty():
            work = self._work.get()
            if work is None:
                return False
            if isinstance(work[0], Reset):
                self._start(world, work[0], work[1])
            elif self._is_for_now(world, work[1]):
                self._controller.follow(work[1], work[0])
        return True

    def _is_for_now(self, world: SimulatedWorld, trajectory: Trajectory) -> bool:
        """Whether a command is for the arm of this episode, not for where it was before the reset."""
        if not self._followed:
            apart = np.max(np.abs(trajectory.positions[0] - world.environment.joint_positions))
            waited = time.monotonic() - self._began > _OLD_COMMANDS_SECONDS
            self._followed = bool(apart <= _NEAR) or waited
        return self._followed

    def _start(self, world: SimulatedWorld, reset: Reset, started: Future[Started]) -> bool:
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
        self._renderer.disturbance = world.disturbance
        self._renderer.prepare(world.environment)
        time.sleep(world.profile.stale_timeout + _SILENCE_SECONDS)
        self._began = self._due = self._on_time = time.monotonic()
        stamp = self._output.now()
        self._output.instruction(world.instruction)
        self._seen(world, stamp)
        self._output.step_info(stamp, world)
        self._renderer.offer(stamp, world.environment)
        started.set_result(Started(stamp, world.seed, world.instruction))
        return True

    def _publish(self, world: SimulatedWorld, substep: int, frame_every: int) -> None:
        stamp = self._output.now()
        self._seen(world, stamp)
        if substep % world.profile.substeps == 0:
            self._output.step_info(stamp, world)
        if substep % frame_every == 0:
            self._renderer.offer(stamp, world.environment)

    def _seen(self, world: SimulatedWorld, stamp: int) -> None:
        arm = world.environment
        self._output.joints(stamp, world.disturbance.joints(arm.joint_positions), arm.joint_velocities, arm.opening)


class _RenderThread:
    """Renders the newest state that it was offered; older ones that it had no time for are left out."""

    def __init__(self, output: Output, cameras: tuple[Camera, ...], views: dict[str, str]) -> None:
        self._output = output
        self._cameras = cameras
        self._views = views
        self._newest: tuple[int, int | None, TaskEnvironment, mujoco.MjData] | None = None
        # Images on their way, as long as the latency of the cameras, and what is published of them.
        self._late: deque[tuple[int, Callable[[], None]]] = deque()
        self._episode = 0
        self._prepared: TaskEnvironment | None = None
        self._changed = threading.Condition()
        self._stop = False
        self.failure: Exception | None = None
        self.disturbance: Disturbance | None = None
        self._renderers: OrderedDict[TaskEnvironment, CameraRenderer] = OrderedDict()
        self._thread = threading.Thread(target=self._run, name="render", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def prepare(self, environment: TaskEnvironment) -> None:
        """Begin an episode: wait until its scene has been rendered once, and forget images of the one before.

        The first image of a scene takes so long that physics would fall behind.
        """
        with self._changed:
            self._episode += 1
            self._newest = None
            self._late.clear()
        if self._prepared is not environment:
            self.offer(None, environment)
        with self._changed:
            self._changed.wait_for(lambda: self._prepared is environment or self.failure or self._stop)

    def offer(self, stamp: int | None, environment: TaskEnvironment) -> None:
        """Render the scene as it is now; without a stamp the images are not published."""
        environment.show_targets()
        state = copy.copy(environment.data)
        with self._changed:
            self._newest = (self._episode, stamp, environment, state)
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._stop = True
            self._changed.notify_all()
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        try:
            while True:
                with self._changed:
                    due = (self._late[0][0] - self._output.now()) * 1e-9 if self._late else None
                    self._changed.wait_for(lambda: self._stop or self._newest is not None, due)
                    if self._stop:
                        return
                    newest, self._newest = self._newest, None
                if newest is not None:
                    self._render(*newest)
                self._send_due()
        except Exception as error:
            with self._changed:
                self.failure = error
                self._changed.notify_all()
        finally:
            for renderer in self._renderers.values():
                renderer.close()

    def _send_due(self) -> None:
        while True:
            with self._changed:
                if not self._late or self._late[0][0] > self._output.now():
                    return
                _, send = self._late.popleft()
            send()

    def _render(self, episode: int, stamp: int | None, environment: TaskEnvironment, state: mujoco.MjData) -> None:
        if environment not in self._renderers:
            if len(self._renderers) >= _RENDERED_SCENES:
                self._renderers.popitem(last=False)[1].close()
            self._renderers[environment] = CameraRenderer(environment.model, self._cameras, self._views)
        self._renderers.move_to_end(environment)
        images, latency = self._renderers[environment].render(state), 0.0
        if self.disturbance is not None and stamp is not None:
            images, latency = self.disturbance.images(images), self.disturbance.settings.latency
        with self._changed:
            if stamp is not None and episode == self._episode:
                intrinsics = intrinsics_of(environment.model, self._cameras, self._views)
                send = partial(self._output.images, stamp, images, intrinsics)
                self._late.append((stamp + round(latency * 1e9), send))
            self._prepared = environment
            self._changed.notify_all()
