"""Meta-World as a World: the same seed gives the same episode, and errors name what there is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from irevla_policy.robot.action import ActionError
from irevla_policy.robot.limits import Setpoint
from irevla_policy.robot.profile import load_profile
from irevla_policy.sim.experts import expert_for
from irevla_policy.sim.metaworld import MetaWorld
from irevla_policy.sim.sawyer import ENV_RATE
from irevla_policy.sim.tasks import TaskError, load_tasks
from irevla_policy.sim.world import WorldError

PROFILE = load_profile("sawyer")


@pytest.fixture
def world() -> Iterator[MetaWorld]:
    with MetaWorld(PROFILE) as world:
        yield world


def episode(world: MetaWorld, task: str, seed: int, decisions: int = 60, variation: str = "") -> list[np.ndarray]:
    """All that can be seen of an episode of the expert."""
    observation = world.reset(task, variation, seed)
    seen = [world.state, observation.joint_positions, *observation.images.values()]
    expert = expert_for(task)
    for _ in range(decisions):
        result = world.step(expert.act(world.state))
        seen += [result.state, result.observation.joint_positions, *result.observation.images.values()]
        seen.append(np.array([result.success, result.reward, result.observation.gripper, result.limited]))
        if result.terminated or result.truncated:
            break
    return seen


def same(first: list[np.ndarray], second: list[np.ndarray]) -> bool:
    return len(first) == len(second) and all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("task", ["drawer-open", "push"])
def test_the_same_seed_gives_the_same_images_states_and_success(world: MetaWorld, task: str) -> None:
    first = episode(world, task, 3)
    episode(world, task, 4, decisions=5)
    again = episode(world, task, 3)
    with MetaWorld(PROFILE) as other:
        elsewhere = episode(other, task, 3)
    assert same(first, again)
    assert same(first, elsewhere)
    assert not same(first[:3], episode(world, task, 4, decisions=0))


# Tasks that place their targets by where the objects were: the ones that could remember the last episode.
FORGETFUL = ("box-close", "disassemble", "door-lock", "handle-press", "peg-unplug-side", "stick-pull")


@pytest.mark.parametrize(
    "tasks", [FORGETFUL, pytest.param(tuple(load_tasks().tasks), marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_tasks_start_the_same_whatever_came_before(tasks: tuple[str, ...]) -> None:
    with MetaWorld(PROFILE, images=False, cached_scenes=1) as world:
        for task in tasks:
            fresh = episode(world, task, 7, decisions=2)
            episode(world, task, 8, decisions=1)
            assert same(fresh, episode(world, task, 7, decisions=2)), task
            joints = world.reset(task, seed=8).joint_positions
            hand = world.environment.get_endeff_pos()
            assert np.abs(hand - world.environment.hand_init_pos).max() < 0.005, task
            for joint, position in zip(PROFILE.joints, joints, strict=True):
                assert joint.position[0] < position < joint.position[1], (task, joint.name)


def test_the_expert_opens_the_drawer_and_the_episode_ends(world: MetaWorld) -> None:
    world.reset("drawer-open-v3", seed=1)
    expert = expert_for("drawer-open")
    while world.running:
        result = world.step(expert.act(world.state))
    assert (result.success, result.terminated, result.truncated, result.reward) == (True, True, False, 1.0)
    assert world.success
    with pytest.raises(WorldError, match="has ended"):
        world.step(np.zeros(4))


def test_an_idle_arm_stays_where_it_is_until_the_episode_is_given_up() -> None:
    with MetaWorld(PROFILE, images=False, max_steps=20) as world:
        start = world.reset("reach", seed=0).joint_positions
        while world.running:
            result = world.step(np.zeros(4))
        assert (result.success, result.terminated, result.truncated) == (False, False, True)
        assert world.steps == 20
        assert np.abs(result.observation.joint_positions - start).max() < 2e-3


def test_setpoints_are_followed() -> None:
    with MetaWorld(PROFILE, images=False) as world:
        joints = world.reset("reach", seed=0).joint_positions
        goal = joints + 0.1
        for share in np.linspace(0.1, 1.0, 10):
            setpoint = Setpoint(joints + share * (goal - joints), np.zeros(7))
            world.apply([setpoint] * PROFILE.substeps, 1.0)
        for _ in range(8):
            result = world.apply([Setpoint(goal, np.zeros(7))] * PROFILE.substeps, 1.0)
        assert np.abs(result.observation.joint_positions - goal).max() < 2e-3
        assert result.observation.gripper < 0.04
        with pytest.raises(WorldError, match="expected 4 setpoints"):
            world.apply([Setpoint(goal, np.zeros(7))], 0.0)


def test_stamps_rise_by_a_control_period_and_leave_a_gap_at_resets(world: MetaWorld) -> None:
    stamps = [world.reset("reach", seed=0).stamp]
    stamps += [world.step(np.zeros(4)).observation.stamp for _ in range(2)]
    stamps.append(world.reset("reach", seed=0).stamp)
    assert stamps[0] > 0
    assert np.diff(stamps).tolist() == [50_000_000, 50_000_000, 100_000_000]


def test_images_are_upright_and_show_hand_and_object(world: MetaWorld) -> None:
    image = world.reset("button-press-topdown", seed=0).images["corner"]
    camera = PROFILE.cameras[0]
    assert image.shape == (camera.height, camera.width, 3)
    assert image.dtype == np.uint8
    red, green, blue = (image[..., channel].astype(int) for channel in range(3))
    arm = np.argwhere((red > 90) & (green < 60) & (blue < 60))
    box = np.argwhere((red > 150) & (green > 100) & (blue < 60))
    # The arm comes from the upper left; the yellow box of the button stands to the right of it.
    assert len(arm) > 100
    assert len(box) > 100
    assert arm[:, 0].mean() < image.shape[0] / 2
    assert box[:, 1].mean() > arm[:, 1].mean()


def test_scenes_are_kept_within_a_bound() -> None:
    with MetaWorld(PROFILE, images=False, cached_scenes=2) as world:
        for task in ("reach", "push", "drawer-open", "push"):
            world.reset(task, seed=0)
        assert len(world._scenes) == 2


def test_wrong_requests_name_what_there_is(world: MetaWorld) -> None:
    with pytest.raises(TaskError, match=r"no task 'drawer-opn'.*did you mean 'drawer-open'\?.*known: assembly"):
        world.reset("drawer-opn")
    with pytest.raises(TaskError, match=r"no variation 'bleu' of task 'push'.*did you mean 'blue'\?"):
        world.reset("push", variation="bleu")
    with pytest.raises(TaskError, match="seed: must be a whole number of at least 0, found -1"):
        world.reset("push", seed=-1)
    with pytest.raises(TaskError, match=r"instruction_index.*found 99"):
        world.reset("push", instruction_index=99)
    with pytest.raises(WorldError, match="reset the world first"):
        world.step(np.zeros(4))
    world.reset("push", seed=0)
    with pytest.raises(ActionError, match="value 0 is nan"):
        world.step([float("nan"), 0.0, 0.0, 0.0])
    world.step(np.zeros(4))  # and the episode goes on


def test_a_robot_that_the_world_cannot_simulate_is_refused() -> None:
    with pytest.raises(WorldError, match=f"{ENV_RATE:g} setpoints a second"):
        MetaWorld(replace(PROFILE, guard_rate=100.0))
    with pytest.raises(WorldError, match="has a gripper"):
        MetaWorld(replace(PROFILE, gripper=None))
    camera = replace(PROFILE.cameras[0], name="ceiling")
    world = MetaWorld(replace(PROFILE, cameras=(camera,)))
    with pytest.raises(WorldError, match=r"no camera 'ceiling'.*corner2"):
        world.reset("reach")


def test_a_camera_can_show_another_view(world: MetaWorld) -> None:
    usual = world.reset("reach", seed=0).images["corner"]
    with MetaWorld(PROFILE, views={"corner": "topview"}) as other:
        assert not np.array_equal(usual, other.reset("reach", seed=0).images["corner"])
