"""What every simulated world offers, to the simulator node and to in-process environments alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from irevla_policy.errors import UserError
from irevla_policy.robot.limits import Setpoint
from irevla_policy.robot.observation import Observation, Vector
from irevla_policy.robot.profile import RobotProfile


class WorldError(UserError, RuntimeError):
    """The world cannot do this now, or cannot simulate this robot."""


@dataclass(frozen=True, eq=False)
class StepResult:
    """What one control period led to.

    Attributes:
        observation: Observation at its end.
        reward: 1 when the task's success condition held in it, else 0.
        success: The same as a truth value.
        terminated: The episode ended in success.
        truncated: The episode ended at its longest duration.
        state: Privileged state that scripted experts read; length and units as the world defines them.
        limited: LIMITED_* bits of `irevla_msgs/Command` when the world limited the motion itself, else 0.
    """

    observation: Observation
    reward: float
    success: bool
    terminated: bool
    truncated: bool
    state: Vector
    limited: int = 0


class World(Protocol):
    """A simulated world: action -> kinematics -> limits -> physics -> images."""

    profile: RobotProfile

    def reset(self, task: str, variation: str = "", seed: int = 0, instruction_index: int | None = None) -> Observation:
        """Start an episode that depends on the arguments alone.

        Raises:
            TaskError: No such task, variation or instruction, or a negative seed.
        """
        ...

    def step(self, values: Sequence[float] | Vector) -> StepResult:
        """Carry out one raw action, `[action_dim]`, through kinematics and limits, for one control period.

        Raises:
            ActionError: Wrong length or not finite.
            WorldError: No episode is running.
        """
        ...

    def apply(self, setpoints: Sequence[Setpoint], gripper: float) -> StepResult:
        """Carry out setpoints that were limited elsewhere (`profile.substeps` of them) for one control period.

        Raises:
            WorldError: No episode is running, or the wrong number of setpoints.
        """
        ...

    @property
    def state(self) -> Vector:
        """Privileged state that scripted experts read."""
        ...

    @property
    def success(self) -> bool:
        """Whether the task's success condition held in the last control period."""
        ...

    def close(self) -> None:
        """Give renderers and models back."""
        ...
