"""Scripted experts of the simulated worlds, which read the privileged state."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from irevla_policy.robot.observation import Vector
from irevla_policy.robot.profile import RobotProfile
from irevla_policy.sim.tasks import METAWORLD, TABLETOP
from irevla_policy.sim.world import WorldError


class Expert(Protocol):
    """What solves a task."""

    def act(self, state: Vector) -> npt.NDArray[np.float64]:
        """The expert's raw action, `[action_dim]`, to be held for one control period.

        Args:
            state: The world's privileged state.

        Raises:
            WorldError: The state is that of another world.
        """
        ...


def expert_for(
    task: str, noise: float = 0.0, seed: int = 0, world: str = METAWORLD, profile: RobotProfile | None = None
) -> Expert:
    """The scripted expert of a task, for one episode.

    Args:
        task: Name of the task.
        noise: Standard deviation of Gaussian noise on the arm's action, for a spread of demonstrations; in units of
            actions. The gripper stays as it is.
        seed: Of the noise, and of what else differs between demonstrations.
        world: Name of the world.
        profile: The robot; Meta-World's experts need none.

    Raises:
        TaskError: No such task.
        WorldError: The robot's actions are not those of the world's experts.
        ValueError: Negative noise.
    """
    if world == METAWORLD:
        from irevla_policy.sim.metaworld_experts import MetaWorldExpert

        return MetaWorldExpert(task, noise, seed)
    if profile is None:
        raise WorldError(f"the experts of world {world!r} need a robot profile")
    if world == TABLETOP:
        from irevla_policy.sim.tabletop_experts import TabletopExpert

        return TabletopExpert(task, profile, noise, seed)
    from irevla_policy.sim.kitchen_experts import KitchenExpert

    return KitchenExpert(task, profile, noise, seed)


def checked_state(task: str, state: npt.ArrayLike, size: int) -> Vector:
    """A privileged state, `[size]`.

    Raises:
        WorldError: It is that of another world, or not finite.
    """
    found = np.asarray(state, dtype=np.float64)
    finite = bool(np.isfinite(found).all())
    if found.shape != (size,) or not finite:
        what = f"{found.size} values" if finite else "one that is not finite"
        raise WorldError(f"state of task {task!r}: expected {size} finite values, found {what}")
    return found
