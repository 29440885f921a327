"""Coarser visual meshes look alike and leave the physics as it is."""

from __future__ import annotations

import dataclasses
import os

import numpy as np

os.environ.setdefault("MUJOCO_GL", "egl")

from irevla_policy.robot.profile import load_profile
from irevla_policy.sim.experts import expert_for
from irevla_policy.sim.metaworld import MetaWorld
from irevla_policy.sim.tasks import load_tasks


def drive(cell: float, task: str = "drawer-open") -> tuple[np.ndarray, np.ndarray, int]:
    """Joint positions and images of an expert's first decisions, and the number of triangles that are drawn."""
    tasks = dataclasses.replace(load_tasks(), mesh_cell=cell)
    with MetaWorld(load_profile("sawyer"), tasks) as world:
        world.reset(task, seed=3)
        expert = expert_for(task)
        results = [world.step(expert.act(world.state)) for _ in range(12)]
        model = world.environment.model
        drawn = sum(
            int(model.mesh_facenum[model.geom_dataid[geom]])
            for geom in range(model.ngeom)
            if model.geom_dataid[geom] >= 0 and model.geom_group[geom] <= 2
        )
    positions = np.array([result.observation.joint_positions for result in results])
    return positions, np.array([result.observation.images["corner"] for result in results]), drawn


def test_fewer_triangles_same_motion_nearly_same_images():
    full, light = drive(0.0), drive(0.01)
    assert light[2] < full[2] / 3
    assert np.array_equal(light[0], full[0])
    difference = np.abs(light[1].astype(int) - full[1].astype(int))
    assert 0.0 < difference.mean() < 1.0


def test_a_coarser_grid_draws_less():
    assert drive(0.03)[2] < drive(0.01)[2]
