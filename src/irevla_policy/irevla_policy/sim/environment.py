"""The world as a gymnasium environment, for learning in process.

environments = gymnasium.vector.AsyncVectorEnv(
    [partial(WorldEnvironment, load_profile("sawyer"), tasks=["drawer-open"]) for _ in range(8)],
    context="spawn",
)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, SupportsFloat

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from irevla_policy.robot.kinematics import ArmKinematics
from irevla_policy.robot.observation import Observation
from irevla_policy.robot.profile import RobotProfile
from irevla_policy.robot.proprioception import proprioceptive_state
from irevla_policy.sim.tasks import TaskError
from irevla_policy.sim.world import World, WorldError

Observed = dict[str, npt.NDArray[Any]]

_SEEDS = 2**31
_BOUNDED = ("ee_delta", "joint_velocity")
"""Action spaces whose raw actions are meant to be in [-1, 1]: shares of the largest displacement, or rad/s."""
_LARGEST_STATE = 15.0  # m or rad: beyond what a profile may say


class WorldEnvironment(gymnasium.Env[Observed, npt.NDArray[np.float32]]):
    """One world with one robot.

    Observations are a dictionary of the profile's camera images (RGB uint8 `[H, W, 3]`, by camera name) and `state`,
    the proprioceptive state (float32 `[state_dim]`). Actions are raw actions in [-1, 1], `[action_dim]`. The reward is
    1 at success and 0 otherwise; success ends the episode. `info` has `success`, `instruction`, `task`, `variation`,
    `seed`, `step` and `privileged`, the state that scripted experts read.

    `reset(seed=s)` starts the episode of seed `s`, the same as `World.reset` with it; later resets without a seed draw
    the next ones from it. `options` may name `task`, `variation` and `instruction_index`; without a task, the
    environment's tasks take turns at random.

    Args:
        profile: The robot; actions must be `ee_delta` or `joint_velocity`.
        tasks: Tasks to draw from.
        variation: Variation of all tasks.
        max_steps: Decisions until an episode is given up; the tasks' own numbers by default.
        images: Whether to render; without, only `state` is observed.
        world: Makes the world; called at the first reset, in the process that uses it. Meta-World when left out.

    Raises:
        ValueError: No tasks.
        WorldError: The robot's action space has no bounds.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(
        self,
        profile: RobotProfile,
        tasks: Sequence[str],
        variation: str = "",
        max_steps: int | None = None,
        images: bool = True,
        world: Callable[[], World] | None = None,
        render_mode: str | None = None,
    ) -> None:
        if not tasks:
            raise ValueError("tasks: expected at least one")
        if profile.action_space not in _BOUNDED:
            raise WorldError(
                f"robot {profile.name!r}: expected an action space of {', '.join(_BOUNDED)}, "
                f"found {profile.action_space!r}"
            )
        self.render_mode = render_mode
        self._profile = profile
        self._tasks = tuple(tasks)
        self._variation = variation
        self._images = images
        self._kinematics = ArmKinematics(profile)
        self._make_world = world or (lambda: _metaworld(profile, max_steps, images))
        self._world: World | None = None
        self._last: Observation | None = None
        self.observation_space = observation_space(profile, images)
        self.action_space = spaces.Box(-1.0, 1.0, (profile.action_dim,), dtype=np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observed, dict[str, Any]]:
        """Start an episode; see the class.

        Raises:
            TaskError: Unknown task, variation, instruction or option.
        """
        super().reset(seed=seed)
        options = dict(options or {})
        task = options.pop("task", None) or self._tasks[int(self.np_random.integers(len(self._tasks)))]
        variation = options.pop("variation", self._variation)
        index = options.pop("instruction_index", None)
        if options:
            raise TaskError(f"options: unknown key {next(iter(options))!r}; known: task, variation, instruction_index")
        episode = int(self.np_random.integers(_SEEDS)) if seed is None else seed
        if self._world is None:
            self._world = self._make_world()
        observation = self._world.reset(task, variation, episode, index)
        self._episode = {"task": task, "variation": variation, "seed": episode, "instruction": observation.instruction}
        self._steps = 0
        return self._observed(observation), self._info(False)

    def step(self, action: npt.NDArray[np.float32]) -> tuple[Observed, SupportsFloat, bool, bool, dict[str, Any]]:
        """Carry out one raw action for one control period."""
        if self._world is None:
            raise gymnasium.error.ResetNeeded("call reset before step")
        result = self._world.step(np.asarray(action, dtype=np.float64))
        self._steps += 1
        observed = self._observed(result.observation)
        return observed, result.reward, result.terminated, result.truncated, self._info(result.success)

    def render(self) -> npt.NDArray[np.uint8] | None:
        """The newest image of the first camera in the mode `rgb_array`."""
        if self.render_mode != "rgb_array" or self._last is None:
            return None
        return next(iter(self._last.images.values()), None)

    def close(self) -> None:
        """Give the world back."""
        if self._world is not None:
            self._world.close()
            self._world = None

    def _observed(self, observation: Observation) -> Observed:
        self._last = observation
        state = proprioceptive_state(self._profile, self._kinematics, observation.joint_positions, observation.gripper)
        return {**observation.images, "state": state}

    def _info(self, success: bool) -> dict[str, Any]:
        assert self._world is not None
        return {**self._episode, "success": success, "step": self._steps, "privileged": self._world.state}


def observation_space(profile: RobotProfile, images: bool = True) -> spaces.Dict:
    """What is observed of a robot: the cameras' images by name, and `state`."""
    observed: dict[str, spaces.Space[Any]] = {}
    for camera in profile.cameras if images else ():
        observed[camera.name] = spaces.Box(0, 255, (camera.height, camera.width, 3), dtype=np.uint8)
    observed["state"] = spaces.Box(-_LARGEST_STATE, _LARGEST_STATE, (profile.state_dim,), dtype=np.float32)
    return spaces.Dict(observed)


def _metaworld(profile: RobotProfile, max_steps: int | None, images: bool) -> World:
    from irevla_policy.sim.metaworld import MetaWorld

    return MetaWorld(profile, max_steps=max_steps, images=images)
