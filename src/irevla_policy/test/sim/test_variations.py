"""Variations of colour, size, shape and position: they change what they say, and the tasks can still be solved."""

from __future__ import annotations

from dataclasses import replace

import mujoco
import numpy as np
import pytest

from irevla_policy.robot.profile import load_profile
from irevla_policy.sim.experts import expert_for
from irevla_policy.sim.metaworld import MetaWorld
from irevla_policy.sim.tasks import TaskError, TaskFile, Variation, load_tasks

PROFILE = load_profile("sawyer")
RED, GREEN = (1.0, 0.0, 0.0, 1.0), (0.0, 1.0, 0.0, 1.0)


def tasks_with(**variations: Variation) -> TaskFile:
    return replace(load_tasks(), variations=variations)


def extent(world: MetaWorld, top: str) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest point of the boxes and meshes below a body of the scene, in the axes of the scene."""
    model, data = world.environment.model, world.environment.data
    points = []
    for geom in np.flatnonzero(model.body_rootid[model.geom_bodyid] == model.body(top).id):
        if model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_MESH:
            mesh = model.geom_dataid[geom]
            own = model.mesh_vert[model.mesh_vertadr[mesh] :][: model.mesh_vertnum[mesh]]
        elif model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_BOX:
            own = model.geom_size[geom] * (2.0 * np.indices((2, 2, 2)).reshape(3, 8).T - 1.0)
        else:
            continue
        points.append(data.geom_xpos[geom] + own @ data.geom_xmat[geom].reshape(3, 3).T)
    assert points
    return np.concatenate(points).min(axis=0), np.concatenate(points).max(axis=0)


# Bodies that are turned in the scene, meshes and boxes that are turned in their body, joints along x, y and z.
@pytest.mark.parametrize(
    ("task", "top"),
    [("button-press-topdown", "box"), ("door-open", "door"), ("handle-press-side", "box"), ("window-open", "window")],
)
def test_three_factors_stretch_along_the_axes_of_the_scene(task: str, top: str) -> None:
    factors = np.array([1.3, 0.9, 1.15])
    with MetaWorld(PROFILE, tasks_with(stretched=Variation(scale=tuple(factors))), images=False) as world:
        world.reset(task, seed=2)
        low, high = extent(world, top)
        before, mass = world.environment.model, world.environment.model.body_subtreemass
        world.reset(task, "stretched", seed=2)
        stretched_low, stretched_high = extent(world, top)
        after = world.environment.model

        assert np.allclose((stretched_high - stretched_low) / (high - low), factors, atol=0.01)
        assert np.isclose(stretched_low[2], 1.15 * low[2], atol=0.003)  # the foot stays on the table
        heavier = after.body_subtreemass[after.body(top).id] / mass[before.body(top).id]
        assert np.isclose(heavier, factors.prod(), rtol=0.02)
        for joint in np.flatnonzero(before.jnt_type == mujoco.mjtJoint.mjJNT_SLIDE):
            if before.body_rootid[before.jnt_bodyid[joint]] != before.body(top).id:
                continue
            axis = np.abs(world.environment.data.xaxis[joint]).round()
            assert np.allclose(after.jnt_range[joint], before.jnt_range[joint] * (axis @ factors), atol=1e-4)


def test_a_round_object_can_become_flat_or_oval() -> None:
    tasks = tasks_with(oval=Variation(scale=(1.5, 1.0, 1.0)), flat=Variation(scale=(1.0, 1.0, 0.5)))
    with MetaWorld(PROFILE, tasks, images=False) as world:
        world.reset("push", seed=0)
        radius, half, _ = world.environment.model.geom("objGeom").size
        world.reset("push", "flat", seed=0)
        assert np.allclose(world.environment.model.geom("objGeom").size[:2], [radius, half / 2.0])
        world.reset("push", "oval", seed=0)
        low, high = extent(world, "obj")
        assert np.allclose(sorted(high - low), sorted([3.0 * radius, 2.0 * radius, 2.0 * half]), atol=1e-3)
        world.reset("soccer", seed=0)
        mass = world.environment.model.body("soccer_ball").subtreemass[0]
        world.reset("soccer", "oval", seed=0)
        assert np.isclose(world.environment.model.body("soccer_ball").subtreemass[0], 1.5 * mass, rtol=1e-3)


def test_only_the_named_body_is_stretched_though_others_use_its_mesh() -> None:
    tasks = tasks_with(one=Variation(scale=1.4, bodies=("bin_goal", "binB")))
    with MetaWorld(PROFILE, tasks, images=False) as world:
        world.reset("bin-picking", seed=0)
        start, goal = extent(world, "bin_start"), extent(world, "bin_goal")
        world.reset("bin-picking", "one", seed=0)
        assert np.allclose(extent(world, "bin_start"), start)
        low, high = extent(world, "bin_goal")
        assert np.allclose(high - low, 1.4 * (goal[1] - goal[0]))  # once, though a body and its carrier are named


@pytest.mark.parametrize(
    "variation",
    [Variation(scale=(1.2, 1.0, 0.85)), Variation(scale=1.3, rgba=RED), Variation(shift=(-0.08, -0.05, 0.0), spread=2)],
    ids=["shape", "size and colour", "position"],
)
def test_the_expert_opens_a_modestly_varied_drawer(variation: Variation) -> None:
    with MetaWorld(PROFILE, tasks_with(varied=variation), images=False) as world:
        world.reset("drawer-open", "varied", seed=1)
        expert = expert_for("drawer-open")
        while world.running:
            world.step(expert.act(world.state))
        assert world.success


def test_spread_widens_the_positions_about_their_middle() -> None:
    def positions(world: MetaWorld, task: str, variation: str) -> np.ndarray:
        seen = []
        for seed in range(4):
            world.reset(task, variation, seed)
            seen.append(world.state[4:7])
        return np.array(seen)

    variations = {
        "wide": Variation(spread=1.5, shift=(0.02, 0.0, 0.0)),
        "still": Variation(spread=0.0),
    }
    with MetaWorld(PROFILE, tasks_with(**variations), images=False, cached_scenes=6) as world:
        plain = positions(world, "button-press-topdown", "")
        middle = positions(world, "button-press-topdown", "still")
        assert np.ptp(plain[:, 0]) > 0.05
        assert np.allclose(np.ptp(middle, axis=0), 0.0, atol=1e-6)
        wide = positions(world, "button-press-topdown", "wide")
        assert np.allclose(wide - [0.02, 0.0, 0.0] - middle, 1.5 * (plain - middle), atol=1e-6)
        # Meta-World puts the drawer to the left or right only.
        assert np.ptp(positions(world, "drawer-open", "wide")[:, 1]) == 0.0


def test_table_and_single_bodies_take_their_own_colours() -> None:
    def share(image: np.ndarray, channel: int) -> float:
        others = np.delete(image.astype(int), channel, axis=2).max(axis=2)
        return float(np.mean(image[..., channel] > others + 80))

    tasks = tasks_with(
        table=Variation(table_rgba=GREEN), drawer=Variation(colours={"drawer": RED, "drawer_link": GREEN})
    )
    with MetaWorld(PROFILE, tasks) as world:
        plain = world.reset("drawer-open", seed=0).images["corner"]
        table = world.reset("drawer-open", "table", seed=0).images["corner"]
        assert share(plain, 1) < 0.02
        assert share(table, 1) > 0.3
        assert np.mean(np.any(table != plain, axis=2)) < 0.9  # arm, wall and drawer are as before
        drawer = world.reset("drawer-open", "drawer", seed=0).images["corner"]
        assert share(drawer, 0) > share(plain, 0) + 0.01
        assert share(drawer, 1) > share(plain, 1) + 0.01
        assert share(world.reset("pick-out-of-hole", "table", seed=0).images["corner"], 1) > 0.3


def test_a_colour_of_a_body_that_is_not_there_is_refused() -> None:
    with MetaWorld(PROFILE, tasks_with(odd=Variation(colours={"lid": RED})), images=False) as world:
        with pytest.raises(
            TaskError, match=r"variation 'odd' of task 'push': colours: .* no body 'lid'; known bodies: .*obj"
        ):
            world.reset("push", "odd")
        world.reset("push")  # and the world goes on
