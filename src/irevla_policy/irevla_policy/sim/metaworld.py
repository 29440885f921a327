"""Meta-World as a World: a Sawyer with actuated joints in front of 50 manipulation tasks."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from gymnasium.spaces import Box

from irevla_policy.robot.observation import Vector
from irevla_policy.robot.profile import RobotProfile
from irevla_policy.sim.light_meshes import lighten
from irevla_policy.sim.rendering import add_cameras, draw_simply
from irevla_policy.sim.sawyer import ENV_RATE, ActuatedSawyer, make_environment
from irevla_policy.sim.simulated import SimulatedWorld
from irevla_policy.sim.tasks import TaskError, TaskFile, Variation, load_tasks
from irevla_policy.sim.variations import vary
from irevla_policy.sim.world import WorldError

_TABLE = "tablelink"
_NOT_OBJECTS = (_TABLE, "RetainingWall", "base", "mocap")
"""Bodies of every scene that are none of a task's objects; bodies without a name are parts of the table."""

_APPROACH_STEP = 0.05  # m, between the inverse-kinematics steps from the home pose to a task's start


class MetaWorld(SimulatedWorld):
    """The 50 tasks of Meta-World; a substep is an environment step of 12.5 ms.

    Its privileged state is Meta-World's own, `[39]`: hand, gripper opening, objects, the same one step ago, goal; m.

    Args:
        profile: A Sawyer profile: its guard rate must be Meta-World's 80 Hz.
        tasks: The tasks; those of `config/tasks/metaworld.yaml` by default.
        settings: See `SimulatedWorld`.

    Raises:
        WorldError: The world cannot simulate the profile's robot.
    """

    def __init__(self, profile: RobotProfile, tasks: TaskFile | None = None, **settings: Any) -> None:
        if abs(profile.guard_rate - ENV_RATE) > 1e-9:
            raise WorldError(
                f"robot {profile.name!r}: Meta-World takes {ENV_RATE:g} setpoints a second, "
                f"guard_rate is {profile.guard_rate:g}"
            )
        super().__init__(profile, load_tasks() if tasks is None else tasks, **settings)

    def _build(self, task: str, variation: Variation) -> ActuatedSawyer:
        if variation.turn:
            raise TaskError("turn: Meta-World's scenes cannot be turned, only the kitchen")

        def edit(spec: mujoco.MjSpec) -> None:
            add_cameras(spec, self.profile.cameras, self.tasks.cameras, self.views)
            objects, table = _parts(spec)
            vary(spec, variation, objects, table)
            if not self.tasks.full_quality:
                draw_simply(spec, self.tasks.facets)
                if self.tasks.mesh_cell:
                    lighten(spec, self.tasks.mesh_cell)

        environment = make_environment(task, self.profile.joint_names, self._place_hand, spec_edits=[edit])
        # The first three random numbers of every task are the position of its main object.
        space = environment._random_reset_space
        low, high = space.low.copy(), space.high.copy()
        low[2], high[2] = low[2] * variation.height_factor, high[2] * variation.height_factor
        wider = (high[:3] - low[:3]) / 2.0 * (variation.spread - 1.0)
        low[:3] += variation.shift - wider
        high[:3] += variation.shift + wider
        environment._random_reset_space = Box(low, high, dtype=np.float64)
        return environment

    def _place_hand(self, position: Vector) -> Vector:
        """Joint positions at the start of an episode: from the home pose on a straight line to the task's own start."""
        joints = np.array(self.profile.home)
        here, rotation = self.kinematics.pose(joints)
        steps = int(np.ceil(np.linalg.norm(position - here) / _APPROACH_STEP)) + 1
        for share in np.arange(1, steps + 1) / steps:
            joints = self.kinematics.solve(joints, here + share * (position - here), rotation)
        return joints


def _parts(spec: mujoco.MjSpec) -> tuple[list[mujoco.MjsBody], list[mujoco.MjsBody]]:
    """The task's objects, and the table."""
    bodies = spec.worldbody.bodies
    objects = [body for body in bodies if body.name and body.name not in _NOT_OBJECTS]
    return objects, [body for body in bodies if body.name in (_TABLE, "")]
