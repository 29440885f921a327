"""What all simulated worlds share: episodes of tasks, control periods made of substeps, kept scenes, images.

A world of its own adds how a task's scene is built; see `MetaWorld` and `Kitchen`.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import mujoco
import numpy as np

from irevla_policy.robot.action import ActionMapper
from irevla_policy.robot.camera import Intrinsics
from irevla_policy.robot.kinematics import ArmKinematics
from irevla_policy.robot.limits import MotionLimiter, Setpoint
from irevla_policy.robot.observation import Observation, UInt8Image, Vector
from irevla_policy.robot.profile import RobotProfile
from irevla_policy.sim.disturbance import Disturbance
from irevla_policy.sim.rendering import CameraRenderer, intrinsics_of
from irevla_policy.sim.tasks import TaskError, TaskFile, Variation
from irevla_policy.sim.world import StepResult, WorldError

_World = TypeVar("_World", bound="SimulatedWorld")

OPEN = -1.0
"""Gripper command at the start of an episode."""


class TaskEnvironment(Protocol):
    """A compiled task: an arm whose joints follow setpoints, and the objects."""

    model: mujoco.MjModel
    data: mujoco.MjData

    def restart(self, seed: int) -> Vector:
        """Start an episode that depends on the seed alone; returns the privileged state."""
        ...

    def track(self, position: Vector, gripper: float) -> tuple[Vector, bool]:
        """Follow a setpoint for one substep.

        Args:
            position: Joint positions to have at its end, rad, `[n]`.
            gripper: Gripper command in [-1 (open), 1 (closed)].

        Returns:
            The privileged state, and whether the success condition holds.
        """
        ...

    def show_targets(self) -> None:
        """Put what is only seen, such as markers of targets, where it belongs in the next image."""
        ...

    @property
    def joint_positions(self) -> Vector:
        """Measured joint positions, rad, `[n]`."""
        ...

    @property
    def joint_velocities(self) -> Vector:
        """Measured joint velocities, rad/s, `[n]`."""
        ...

    @property
    def opening(self) -> float:
        """The gripper's joint-state position, m."""
        ...

    def close(self) -> None:
        """Give it back."""
        ...


@dataclass
class _Scene:
    """A compiled task with its renderer, which is made at the first image."""

    environment: TaskEnvironment
    renderer: CameraRenderer | None = None

    def close(self) -> None:
        if self.renderer is not None:
            self.renderer.close()
        self.environment.close()


class SimulatedWorld(ABC):
    """A world in MuJoCo.

    Deterministic: task, variation and seed of a reset and the actions after it decide every image and state. One
    control period is `profile.substeps` substeps, one setpoint each. Not thread-safe; images are rendered on the
    thread that resets and steps.

    Args:
        profile: The robot.
        tasks: The tasks.
        max_steps: Decisions until an episode is given up, for all tasks; the task file's numbers by default.
        images: Whether to render; without, observations have no images.
        cached_scenes: How many compiled tasks (with their GL contexts) are kept.
        views: The profile's name of a camera to the scene's name; the same where left out.

    Raises:
        WorldError: The profile has no gripper, or `max_steps` is below 1.
    """

    def __init__(
        self,
        profile: RobotProfile,
        tasks: TaskFile,
        *,
        max_steps: int | None = None,
        images: bool = True,
        cached_scenes: int = 4,
        views: Mapping[str, str] | None = None,
    ) -> None:
        if profile.gripper is None:
            raise WorldError(f"robot {profile.name!r}: the arm of {tasks.world} has a gripper, the profile has none")
        if max_steps is not None and max_steps < 1:
            raise WorldError(f"max_steps: must be at least 1, found {max_steps}")
        self.profile = profile
        self.tasks = tasks
        self.kinematics = ArmKinematics(profile)
        self._mapper = ActionMapper(profile, self.kinematics)
        self._limiter = MotionLimiter(profile, self.kinematics, 1.0 / profile.guard_rate)
        self._max_steps = max_steps
        self._images = images
        self.views = dict(views or {})
        self._cached_scenes = max(cached_scenes, 1)
        self._scenes: OrderedDict[tuple[str, str], _Scene] = OrderedDict()
        self._scene: _Scene | None = None
        self._ticks = 0
        # States of the last substeps, the oldest of which late images show.
        late = round(tasks.disturbance.latency * profile.guard_rate)
        self._past: deque[mujoco.MjData] = deque(maxlen=late + 1)
        self._clear()

    @abstractmethod
    def _build(self, task: str, variation: Variation) -> TaskEnvironment:
        """Compile a task.

        Raises:
            TaskError: The variation cannot be applied to it.
        """

    def _clear(self) -> None:
        self.task, self.variation, self.seed, self.instruction = "", "", 0, ""
        self.steps, self.max_steps = 0, 0
        self.success, self.terminated, self.truncated = False, False, False
        self.gripper = OPEN
        self.disturbance = Disturbance(self.tasks.disturbance, 0)
        self._state, self._measured = np.zeros(0), np.zeros(0)

    # -- episodes -------------------------------------------------------------------------------------------------

    def reset(self, task: str, variation: str = "", seed: int = 0, instruction_index: int | None = None) -> Observation:
        """Start an episode; see `World.reset`. Object positions and the choice of instruction depend on the seed."""
        task = self.tasks.task_name(task)
        if not isinstance(seed, int | np.integer) or seed < 0:
            raise TaskError(f"seed: must be a whole number of at least 0, found {seed!r}")
        instruction = self.tasks.instruction(task, variation, int(seed), instruction_index)
        scene = self._scene_of(task, variation)
        self._state = scene.environment.restart(int(seed))
        self._scene = scene
        self.task, self.variation, self.seed, self.instruction = task, variation, int(seed), instruction
        self.steps, self.max_steps = 0, self._max_steps or self.tasks.steps(task)
        self.success, self.terminated, self.truncated = False, False, False
        self.gripper = OPEN
        self.disturbance = Disturbance(self.tasks.disturbance, int(seed))
        self._past.clear()
        self._remember()
        self._mapper.reset()
        self._limiter.reset(scene.environment.joint_positions)
        # More than one period, so that guard and policy see by the stamp alone that an episode starts.
        self._ticks += 2
        return self.observe()

    def step(self, values: Sequence[float] | Vector) -> StepResult:
        """Carry out a raw action; see `World.step`."""
        self._running()
        target, gripper = self._mapper.target(self._measured, values)
        setpoints, limited = self._limiter.plan(target, self.profile.substeps)
        return self._finish(setpoints, gripper, limited)

    def apply(self, setpoints: Sequence[Setpoint], gripper: float) -> StepResult:
        """Carry out setpoints that were limited elsewhere; see `World.apply`."""
        self._running()
        if len(setpoints) != self.profile.substeps:
            raise WorldError(f"expected {self.profile.substeps} setpoints for a control period, found {len(setpoints)}")
        return self._finish(setpoints, gripper, 0)

    def _finish(self, setpoints: Sequence[Setpoint], gripper: float, limited: int) -> StepResult:
        successes = [self.advance(setpoint, gripper) for setpoint in setpoints]
        self.end_period(any(successes))
        reward = 1.0 if self.success else 0.0
        observation = self.observe()
        return StepResult(
            observation, reward, self.success, self.terminated, self.truncated, self._state.copy(), limited
        )

    def _running(self) -> TaskEnvironment:
        if self._scene is None:
            raise WorldError("no episode is running: reset the world first")
        if self.terminated or self.truncated:
            raise WorldError("the episode has ended: reset the world first")
        return self._scene.environment

    # -- finer than a control period: the simulator node in real time ----------------------------------------------

    def advance(self, setpoint: Setpoint, gripper: float) -> bool:
        """Move for one substep; also after an episode's end.

        Returns:
            Whether the task's success condition holds.
        """
        if self._scene is None:
            raise WorldError("no episode is running: reset the world first")
        self.gripper = gripper
        self._state, success = self._scene.environment.track(setpoint.position, gripper)
        self._remember()
        return success

    def _remember(self) -> None:
        """Keep the state for late images."""
        if self._images and (self._past.maxlen or 0) > 1:
            self._past.append(copy.copy(self.environment.data))

    def end_period(self, success: bool) -> None:
        """Count a control period in which the success condition held at some time, or did not."""
        self._ticks += 1
        self.success = success
        if self.terminated or self.truncated:
            return
        self.steps += 1
        self.terminated = success
        self.truncated = not success and self.steps >= self.max_steps

    @property
    def running(self) -> bool:
        """Whether an episode has started and not ended."""
        return self._scene is not None and not (self.terminated or self.truncated)

    # -- what is seen ---------------------------------------------------------------------------------------------

    @property
    def stamp(self) -> int:
        """Simulated time since the world was made, ns, resets included; a reset leaves a gap of one control period."""
        return self._ticks * round(1e9 / self.profile.control_rate)

    @property
    def state(self) -> Vector:
        """Privileged state that scripted experts read; its meaning is the world's."""
        return self._state.copy()

    @property
    def environment(self) -> TaskEnvironment:
        """The environment of the running episode."""
        if self._scene is None:
            raise WorldError("no episode is running: reset the world first")
        return self._scene.environment

    def observe(self) -> Observation:
        """The observation of this moment."""
        environment = self.environment
        # What the next action is relative to, as on the graph, where nobody knows better.
        self._measured = self.disturbance.joints(environment.joint_positions)
        return Observation(
            stamp=self.stamp,
            images=self.render() if self._images else {},
            joint_positions=self._measured.copy(),
            gripper=environment.opening,
            instruction=self.instruction,
        )

    def render(self) -> dict[str, UInt8Image]:
        """Images of all cameras of the profile, RGB uint8 `[H, W, 3]`."""
        environment = self.environment
        assert self._scene is not None
        environment.show_targets()
        if self._scene.renderer is None:
            self._scene.renderer = CameraRenderer(environment.model, self.profile.cameras, self.views)
        shown = self._past[0] if self._past else environment.data
        return self.disturbance.images(self._scene.renderer.render(shown))

    @property
    def intrinsics(self) -> dict[str, Intrinsics]:
        """What the images of all cameras of the profile are projected with, by name."""
        return intrinsics_of(self.environment.model, self.profile.cameras, self.views)

    def close(self) -> None:
        """Give renderers and models back; call it on the thread that rendered."""
        for scene in self._scenes.values():
            scene.close()
        self._scenes.clear()
        self._scene = None
        self._clear()

    def __enter__(self: _World) -> _World:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- scenes ---------------------------------------------------------------------------------------------------

    def _scene_of(self, task: str, variation: str) -> _Scene:
        key = (task, variation)
        if key not in self._scenes:
            while len(self._scenes) >= self._cached_scenes:
                self._scenes.popitem(last=False)[1].close()
            try:
                self._scenes[key] = _Scene(self._build(task, self.tasks.variation(task, variation)))
            except TaskError as error:
                raise TaskError(f"variation {variation!r} of task {task!r}: {error}") from None
        self._scenes.move_to_end(key)
        return self._scenes[key]
