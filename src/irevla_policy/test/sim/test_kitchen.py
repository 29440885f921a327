"""Franka Kitchen as a World: what is random, what succeeds, what varies, and what is refused."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from irevla_policy.robot.profile import load_profile
from irevla_policy.settings import SettingsError
from irevla_policy.sim.environment import WorldEnvironment
from irevla_policy.sim.experts import expert_for
from irevla_policy.sim.franka import kitchen_model, write_urdf
from irevla_policy.sim.kitchen import GOALS, PLACE, SHIFT, TOLERANCE, TURN, Kitchen
from irevla_policy.sim.tasks import KITCHEN, TaskError, load_tasks
from irevla_policy.sim.world import WorldError

PROFILE = load_profile("panda_kitchen")
TASKS = tuple(GOALS)

# Those parts of the benchmark's goals that our tasks have; `left-door-open` mirrors its right door.
BENCHMARK = {
    "knob-on": ("bottom burner", 0),
    "light-on": ("light switch", 0),
    "microwave-open": ("microwave", 0),
    "slide-door-open": ("slide cabinet", 0),
    "left-door-open": ("hinge cabinet", 1),
}


@pytest.fixture
def world() -> Iterator[Kitchen]:
    with Kitchen(PROFILE) as world:
        yield world


@pytest.fixture
def blind() -> Iterator[Kitchen]:
    """A kitchen without images."""
    with Kitchen(PROFILE, images=False) as world:
        yield world


def solve(world: Kitchen, task: str, seed: int, variation: str = "") -> bool:
    """One episode of the scripted expert; whether it succeeds."""
    world.reset(task, variation, seed)
    expert = expert_for(task, seed=seed, world=KITCHEN, profile=world.profile)
    while world.running:
        world.step(expert.act(world.state))
    return world.success


def placed(world: Kitchen) -> tuple[np.ndarray, float]:
    """Where the kitchen stands (x, y, m) and how it is turned (rad)."""
    desk = world.environment.data.body("desk")
    across = desk.xmat.reshape(3, 3)[:, 0]
    return desk.xpos[:2].copy(), float(np.arctan2(across[1], across[0]))


def test_the_arm_is_the_one_of_the_urdf(blind: Kitchen) -> None:
    assert PROFILE.urdf_path.read_text() == write_urdf()
    blind.reset("light-on", seed=1)
    for joints in (np.array(PROFILE.home), np.array([0.3, -0.4, 0.5, -1.9, 0.6, 2.1, -0.7])):
        data = blind.environment.data
        for name, position in zip(PROFILE.joint_names, joints, strict=True):
            data.joint(name).qpos[0] = position
        blind.environment.track(joints, 0.0)  # the state is read after physics
        measured = blind.environment.joint_positions
        position, rotation = blind.kinematics.pose(measured)
        base, tool = data.body("panda_link0"), data.body("panda_hand_tcp")
        frame = base.xmat.reshape(3, 3)
        assert np.allclose(position, frame.T @ (tool.xpos - base.xpos), atol=1e-6)
        assert np.allclose(rotation, frame.T @ tool.xmat.reshape(3, 3), atol=1e-6)


def test_goals_are_the_benchmarks() -> None:
    from gymnasium_robotics.envs.franka_kitchen import kitchen_env

    assert kitchen_env.BONUS_THRESH == TOLERANCE
    for task, (name, part) in BENCHMARK.items():
        assert abs(GOALS[task].value) == abs(kitchen_env.OBS_ELEMENT_GOALS[name][part]), task


def test_the_same_seed_gives_the_same_episode(world: Kitchen) -> None:
    def seen(world: Kitchen, seed: int) -> list[np.ndarray]:
        observation = world.reset("slide-door-open", "red", seed)
        found = [observation.images["kitchen"], world.state]
        random = np.random.default_rng(0)
        for _ in range(5):
            result = world.step(random.uniform(-1.0, 1.0, PROFILE.action_dim))
            found += [result.observation.images["kitchen"], result.state]
        return found

    first = seen(world, 3)
    assert not np.array_equal(first[0], seen(world, 4)[0])
    with Kitchen(PROFILE) as other:
        for again in (seen(world, 3), seen(other, 3)):
            assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_the_kitchen_stands_anywhere_in_its_range(blind: Kitchen) -> None:
    places = []
    for seed in range(40):
        blind.reset("light-on", seed=seed)
        places.append(placed(blind))
    turns = np.array([turn for _, turn in places])
    assert np.abs(turns).max() <= TURN
    assert turns.max() > 0.5 * TURN and turns.min() < -0.5 * TURN
    # The desk's origin goes round with the turn.
    origin = np.array([-0.1, 0.75])
    cos, sin = np.cos(turns), np.sin(turns)
    around = np.stack([cos * origin[0] - sin * origin[1], sin * origin[0] + cos * origin[1]], axis=1)
    shifts = np.array([place for place, _ in places]) - around - PLACE[:2]
    assert (np.abs(shifts) <= np.array(SHIFT[:2]) + 1e-9).all()
    assert (np.ptp(shifts, axis=0) > SHIFT[:2]).all()


def test_variations_move_turn_and_colour(world: Kitchen) -> None:
    world.reset("slide-door-open", seed=2)
    (plain, turn), image = placed(world), world.render()["kitchen"]
    world.reset("slide-door-open", "shifted", 2)
    assert np.allclose(placed(world)[0] - plain, world.tasks.variation("slide-door-open", "shifted").shift[:2])
    world.reset("slide-door-open", "turned", 2)
    assert placed(world)[1] - turn == pytest.approx(world.tasks.variation("slide-door-open", "turned").turn)
    world.reset("slide-door-open", "red", 2)
    red = world.render()["kitchen"].astype(int)
    redder = (red[..., 0] - red[..., 2] > 60) & (image[..., 0].astype(int) - image[..., 2] < 40)
    assert redder.sum() > 100  # pixels of the door
    world.reset("knob-on", "red", 2)
    assert not np.array_equal(red, world.render()["kitchen"])


def test_an_image_shows_what_a_task_moves(world: Kitchen) -> None:
    for task in TASKS:
        world.reset(task, seed=0)
        before = world.render()["kitchen"].astype(int)
        environment = world.environment
        environment.data.qpos[environment._joint.qposadr[0]] = GOALS[task].value
        environment.track(np.array(PROFILE.home), -1.0)
        changed = np.abs(world.render()["kitchen"].astype(int) - before).max(axis=2) > 25
        assert changed.sum() >= 12, task


def test_the_light_scene_looks_alike_and_takes_little(world: Kitchen) -> None:
    with Kitchen(PROFILE, replace(load_tasks(KITCHEN), full_quality=True)) as full:
        images = [one.reset("left-door-open", seed=3).images["kitchen"].astype(int) for one in (world, full)]
        models = [one.environment.model for one in (world, full)]
    # Shadows and reflections are the difference.
    assert 4.0 < np.abs(images[0] - images[1]).mean() < 25.0
    assert models[0].ntexdata < models[1].ntexdata / 100
    assert models[0].vis.quality.shadowsize == 0 < models[1].vis.quality.shadowsize
    assert (models[0].vis.quality.numslices, models[1].vis.quality.numslices) == (12, 28)
    with pytest.raises(SettingsError, match="facets: must be 0 or at least 3, found 2"):
        replace(load_tasks(KITCHEN), facets=2)


@pytest.mark.parametrize("robot", [pytest.param("panda_kitchen", marks=pytest.mark.slow), "panda_kitchen_held"])
@pytest.mark.parametrize(
    "seeds", [range(100, 101), pytest.param(range(200, 250), marks=pytest.mark.slow)], ids=["some", "many"]
)
def test_experts_succeed(robot: str, seeds: range) -> None:
    with Kitchen(load_profile(robot), images=False) as world:
        for task in TASKS:
            successes = [solve(world, task, seed) for seed in seeds]
            assert np.mean(successes) >= 0.95, (task, successes)


def test_the_microwave_opens_without_haste_or_halt(blind: Kitchen) -> None:
    """A wrist at its limit creeps: every demonstration takes about as long as the others."""
    decisions = []
    for seed in range(6):
        assert solve(blind, "microwave-open", seed)
        decisions.append(blind.steps)
    assert max(decisions) < 1.3 * min(decisions)


def test_experts_differ(blind: Kitchen) -> None:
    blind.reset("light-on", seed=1)
    first = expert_for("light-on", seed=1, world=KITCHEN, profile=PROFILE).act(blind.state)
    assert not np.array_equal(first, expert_for("light-on", seed=2, world=KITCHEN, profile=PROFILE).act(blind.state))


def test_success_ends_an_episode_with_reward_one(blind: Kitchen) -> None:
    blind.reset("light-on", seed=1)
    expert = expert_for("light-on", seed=1, world=KITCHEN, profile=PROFILE)
    rewards = []
    while blind.running:
        result = blind.step(expert.act(blind.state))
        rewards.append(result.reward)
    assert rewards == [0.0] * (len(rewards) - 1) + [1.0]
    assert result.terminated and not result.truncated


@pytest.mark.slow
def test_gymnasium_finds_nothing_wrong() -> None:
    environment = WorldEnvironment(PROFILE, TASKS, world=partial(Kitchen, PROFILE))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        check_env(environment, skip_render_check=True)
    environment.close()


def test_what_does_not_fit_is_refused(blind: Kitchen, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="no task 'microwave-opn' in world 'kitchen'; did you mean 'microwave-open'"):
        blind.reset("microwave-opn")
    with pytest.raises(TaskError, match="no variation 'violet' of task 'light-on'"):
        blind.reset("light-on", "violet")
    with pytest.raises(WorldError, match="'metaworld_sawyer': the kitchen's arm has the joints panda_joint1"):
        Kitchen(load_profile("sawyer"))
    with pytest.raises(WorldError, match=r"500 physics steps a second must be a multiple of guard_rate, found 75"):
        Kitchen(replace(PROFILE, guard_rate=75.0))
    path = tmp_path / "tasks.yaml"
    path.write_text((kitchen_tasks()).replace("{turn: 0.1}", "{turn: 3.0}"))
    with pytest.raises(SettingsError, match=r"turn: .*\[-0.5, 0.5\]|turn.*at most 0.5"):
        load_tasks(path)
    expert = expert_for("light-on", world=KITCHEN, profile=PROFILE)
    with pytest.raises(WorldError, match="expected 29 finite values, found 39 values"):
        expert.act(np.zeros(39))
    with pytest.raises(WorldError, match="act by joint_velocity, found ee_delta"):
        expert_for("light-on", world=KITCHEN, profile=replace(PROFILE, action_space="ee_delta"))


def kitchen_tasks() -> str:
    from irevla_policy.paths import config_folder

    return (config_folder() / "tasks" / "kitchen.yaml").read_text()


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("irevla_policy.sim.franka.importlib.util.find_spec", lambda name: None)
    with pytest.raises(WorldError, match="needs the package gymnasium-robotics"):
        kitchen_model()
