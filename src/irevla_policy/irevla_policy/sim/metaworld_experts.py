"""Scripted experts: Meta-World's own policies, which read the privileged state."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
from metaworld.policies import ENV_POLICY_MAP

from irevla_policy.robot.observation import Vector
from irevla_policy.sim.experts import checked_state
from irevla_policy.sim.tasks import load_tasks

STATE_SIZE = 39
"""Length of Meta-World's state."""


class MetaWorldExpert:
    """The scripted expert of one Meta-World task.

    Args:
        task: Name of the task, with or without version suffix.
        noise: Standard deviation of Gaussian noise on the displacement, for a spread of demonstrations;
            in units of actions. The gripper stays as it is.
        seed: Seed of the noise.

    Raises:
        TaskError: No such task.
        ValueError: Negative noise.
    """

    def __init__(self, task: str, noise: float = 0.0, seed: int = 0) -> None:
        if noise < 0.0:
            raise ValueError(f"noise: must be at least 0, found {noise}")
        self.task = load_tasks().task_name(task)
        self._policy = ENV_POLICY_MAP[f"{self.task}-v3"]()
        self._noise = noise
        self._random = np.random.default_rng(seed)

    def act(self, state: Vector) -> npt.NDArray[np.float64]:
        """The expert's raw action, to be held for one control period.

        Args:
            state: Meta-World's state, `[39]`.

        Returns:
            `ee_delta` and gripper, `[4]`, in [-1, 1].

        Raises:
            WorldError: The state is none of Meta-World.
        """
        state = checked_state(self.task, state, STATE_SIZE)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # at nearly every step: that the action will be clipped, as it is here
            action = np.clip(self._policy.get_action(state), -1.0, 1.0).astype(np.float64)
        if self._noise > 0.0:
            action[:3] = np.clip(action[:3] + self._random.normal(0.0, self._noise, 3), -1.0, 1.0)
        return action
