"""The simulated world of a file of tasks."""

from __future__ import annotations

from typing import Any

from irevla_policy.robot.profile import RobotProfile
from irevla_policy.sim.simulated import SimulatedWorld
from irevla_policy.sim.tasks import KITCHEN, TABLETOP, TaskFile


def make_world(profile: RobotProfile, tasks: TaskFile, **settings: Any) -> SimulatedWorld:
    """Make the world that the tasks are in.

    Args:
        profile: The robot.
        tasks: The tasks.
        settings: See `SimulatedWorld`.

    Raises:
        WorldError: The world cannot simulate the robot.
    """
    # Each only where it is used: they take seconds to import.
    if tasks.world == KITCHEN:
        from irevla_policy.sim.kitchen import Kitchen

        return Kitchen(profile, tasks, **settings)
    if tasks.world == TABLETOP:
        from irevla_policy.sim.tabletop import Tabletop

        return Tabletop(profile, tasks, **settings)
    from irevla_policy.sim.metaworld import MetaWorld

    return MetaWorld(profile, tasks, **settings)
