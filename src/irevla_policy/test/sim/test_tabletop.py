"""The tabletop as a World: what is random, what succeeds, what is seen, and what is refused."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from irevla_policy.robot.observation import Observation
from irevla_policy.robot.profile import load_profile
from irevla_policy.sim.disturbance import DisturbanceSettings
from irevla_policy.sim.environment import WorldEnvironment
from irevla_policy.sim.experts import expert_for
from irevla_policy.sim.tabletop import Tabletop
from irevla_policy.sim.tabletop_scene import BUTTON, DRAWER, OBJECT, PLATE, THINGS
from irevla_policy.sim.tasks import TABLETOP, TaskError, TaskFile, Variation, load_tasks
from irevla_policy.sim.world import WorldError

PROFILE = load_profile("panda")
EXPERT_TASKS = (
    "pick-red-block", "pick-green-block", "pick-blue-block", "pick-yellow-block", "place-red-block", "press-button",
    "open-drawer",
)  # fmt: skip


@pytest.fixture
def world() -> Iterator[Tabletop]:
    with Tabletop(PROFILE) as world:
        yield world


@pytest.fixture
def blind() -> Iterator[Tabletop]:
    """A tabletop without images."""
    with Tabletop(PROFILE, images=False) as world:
        yield world


def solve(world: Tabletop, task: str, seed: int, variation: str = "") -> list[float]:
    """One episode of the scripted expert; its rewards."""
    world.reset(task, variation, seed)
    expert = expert_for(task, seed=seed, world=TABLETOP, profile=PROFILE)
    rewards = []
    while world.running:
        rewards.append(world.step(expert.act(world.state)).reward)
    return rewards


def place_of(world: Tabletop, body: str) -> np.ndarray:
    return world.environment.data.body(body).xpos.copy()


def test_the_arm_is_the_one_of_the_urdf(blind: Tabletop) -> None:
    blind.reset("press-button", seed=1)
    for joints in (np.array(PROFILE.home), np.array([0.3, -0.4, 0.2, -2.2, 0.1, 2.1, 0.6])):
        data = blind.environment.data
        for name, position in zip(PROFILE.joint_names, joints, strict=True):
            data.joint(name).qpos[0] = position
        blind.environment.track(joints, 0.0)  # the state is read after physics
        position, rotation = blind.kinematics.pose(blind.environment.joint_positions)
        assert np.allclose(position, data.body("panda_hand_tcp").xpos, atol=1e-6)
        assert np.allclose(rotation, data.body("panda_hand_tcp").xmat.reshape(3, 3), atol=1e-6)
    home = blind.kinematics.pose(np.array(PROFILE.home))[1]
    assert np.allclose(home, np.diag([1.0, -1.0, -1.0]), atol=1e-5)  # the hand looks down, fingers along y


def test_coming_to_rest_takes_a_fifth_of_a_second() -> None:
    for joint in PROFILE.joints:
        assert joint.velocity / joint.acceleration <= 0.2 + 1e-9, joint.name


def test_the_same_seed_gives_the_same_episode(world: Tabletop) -> None:
    def seen(world: Tabletop, seed: int) -> list[np.ndarray]:
        observation = world.reset("place-carrot", "scattered", seed)
        found = [*observation.images.values(), world.state]
        random = np.random.default_rng(0)
        for _ in range(5):
            result = world.step(random.uniform(-1.0, 1.0, PROFILE.action_dim))
            found += [*result.observation.images.values(), result.state]
        return found

    first = seen(world, 3)
    assert not np.array_equal(first[0], seen(world, 4)[0])
    with Tabletop(PROFILE) as other:
        for again in (seen(world, 3), seen(other, 3)):
            assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_everything_stands_elsewhere_and_nothing_inside_another(blind: Tabletop) -> None:
    places = []
    for seed in range(40):
        blind.reset("pick-banana", seed=seed)
        places.append([place_of(blind, body) for body in (OBJECT, PLATE, DRAWER, BUTTON)])
        assert np.linalg.norm(places[-1][0] - places[-1][1]) > 0.1
    assert (np.ptp(places, axis=0)[:, :2] > 0.04).all()
    blind.reset("pick-banana", "scattered", 7)
    wider = place_of(blind, OBJECT)
    blind.reset("pick-banana", seed=7)
    assert not np.allclose(wider, place_of(blind, OBJECT))


@pytest.mark.slow
def test_things_lie_still_until_they_are_touched(blind: Tabletop) -> None:
    for thing in THINGS:
        blind.reset(f"pick-{thing}", seed=2)
        before = place_of(blind, OBJECT)
        for _ in range(20):
            blind.step([0.0, 0.0, 0.0, -1.0])
        assert np.linalg.norm(place_of(blind, OBJECT) - before) < 0.01, thing


def test_both_cameras_see_the_thing(world: Tabletop) -> None:
    for thing in ("green-block", "carrot", "can"):
        world.reset(f"pick-{thing}", seed=5)
        before = {name: image.astype(int) for name, image in world.render().items()}
        for geom in np.flatnonzero(world.environment.model.geom_bodyid == world.environment.model.body(OBJECT).id):
            world.environment.model.geom_rgba[geom, 3] = 0.0
        for name, image in world.render().items():
            changed = np.abs(image.astype(int) - before[name]).max(axis=2) > 25
            assert changed.sum() >= 12, (thing, name)
        world.close()


@pytest.mark.parametrize(
    "seeds", [range(100, 101), pytest.param(range(200, 250), marks=pytest.mark.slow)], ids=["some", "many"]
)
def test_experts_succeed_and_differ(blind: Tabletop, seeds: range) -> None:
    for task in (*EXPERT_TASKS, "pick-eggplant", "pick-carrot"):
        successes = [solve(blind, task, seed)[-1] for seed in seeds]
        assert np.mean(successes) >= 0.95, (task, successes)
    first = expert_for("press-button", seed=1, world=TABLETOP, profile=PROFILE).act(blind.state)
    other = expert_for("press-button", seed=2, world=TABLETOP, profile=PROFILE).act(blind.state)
    assert not np.array_equal(first, other)


def test_success_ends_an_episode_with_reward_one(blind: Tabletop) -> None:
    for task in ("place-red-block", "press-button", "open-drawer"):
        rewards = solve(blind, task, 1)
        assert rewards == [0.0] * (len(rewards) - 1) + [1.0]


def test_a_thing_that_is_held_over_the_plate_is_not_put_down(blind: Tabletop) -> None:
    blind.reset("place-red-block", seed=1)
    expert = expert_for("place-red-block", seed=1, world=TABLETOP, profile=PROFILE)
    held = False
    for _ in range(45):
        action = expert.act(blind.state)
        action[3] = 1.0 if held else action[3]  # never lets go again
        held = held or action[3] > 0.0
        result = blind.step(action)
        assert not result.success
    assert np.linalg.norm((place_of(blind, OBJECT) - place_of(blind, PLATE))[:2]) < 0.03


def test_disturbed_sensors_are_wrong_by_as_much_as_they_should(world: Tabletop) -> None:
    off: list[np.ndarray] = []

    def seen(**settings: float) -> list[Observation]:
        tasks = replace(world.tasks, disturbance=DisturbanceSettings(**settings))
        with Tabletop(PROFILE, tasks) as disturbed:
            found = [disturbed.reset("press-button", seed=6)]
            for _ in range(4):
                off.append(found[-1].joint_positions - disturbed.environment.joint_positions)
                found.append(disturbed.step([0.0, -1.0, 0.0, -1.0]).observation)
        return found

    plain, noisy = seen(), seen(image_noise=10.0)
    assert not np.any(off)
    pairs = list(zip(noisy, plain, strict=True))
    grey = np.concatenate([a.images["scene"].astype(int) - b.images["scene"] for a, b in pairs])
    assert 7.0 < grey.std() < 11.0  # what is black or white cannot become more so
    off.clear()
    for a, b in zip(seen(image_noise=10.0, joint_noise=0.01), seen(image_noise=10.0, joint_noise=0.01), strict=True):
        assert np.array_equal(a.images["wrist"], b.images["wrist"])
        assert np.array_equal(a.joint_positions, b.joint_positions)
    assert 0.005 < np.std(off) < 0.015
    share = seen(brightness=0.5)[0].images["scene"].mean() / plain[0].images["scene"].mean()
    assert 0.5 <= share <= 1.5 and abs(share - 1.0) > 0.01
    # An image that is one period late is that of the observation before.
    late = seen(latency=1.0 / PROFILE.control_rate)
    for before, after in zip(plain[:-1], late[1:], strict=True):
        assert np.array_equal(before.images["wrist"], after.images["wrist"])
        assert not np.array_equal(before.joint_positions, after.joint_positions)


@pytest.mark.slow
def test_gymnasium_finds_nothing_wrong() -> None:
    environment = WorldEnvironment(PROFILE, EXPERT_TASKS, world=partial(Tabletop, PROFILE))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        check_env(environment, skip_render_check=True)
    environment.close()


def varied(**variations: Variation) -> TaskFile:
    tasks = load_tasks(TABLETOP)
    return replace(tasks, variations={**tasks.variations, **variations})


@pytest.mark.parametrize("task", ["open-drawer", "press-button", "pick-cucumber"])
@pytest.mark.parametrize("scale", [0.8, 1.2])
def test_experts_succeed_at_other_sizes(task: str, scale: float) -> None:
    with Tabletop(PROFILE, varied(sized=Variation(scale=scale)), images=False) as world:
        assert [solve(world, task, seed, "sized")[-1] for seed in (1, 2)] == [1.0, 1.0]


@pytest.mark.parametrize("thing", ["pick-cucumber", "pick-carrot", "pick-banana"])
def test_things_made_of_rods_are_scaled_as_others_are(thing: str) -> None:
    with Tabletop(PROFILE, varied(large=Variation(scale=1.5)), images=False) as world:
        extents, masses = [], []
        for variation in ("", "large"):
            world.reset(thing, variation, seed=1)
            model = world.environment.model
            body = model.body(OBJECT).id
            geoms = np.flatnonzero(model.geom_bodyid == body)
            extents.append(np.concatenate([model.geom_pos[geoms], model.geom_size[geoms]], axis=1))
            masses.append(model.body_mass[body])
    np.testing.assert_allclose(extents[1], 1.5 * extents[0], atol=1e-6)
    assert masses[1] == pytest.approx(1.5**3 * masses[0], rel=1e-6)


def test_a_shift_moves_what_the_task_is_about() -> None:
    moved, tasks = np.array([0.03, -0.05, 0.0]), {"press-button": BUTTON, "open-drawer": DRAWER, "pick-can": OBJECT}
    with Tabletop(PROFILE, varied(far=Variation(shift=tuple(moved))), images=False) as world:
        for task, body in tasks.items():
            places = []
            for variation in ("", "far"):
                world.reset(task, variation, seed=3)
                places.append({name: place_of(world, name) for name in (BUTTON, DRAWER, OBJECT, PLATE)})
            before, after = places
            np.testing.assert_allclose(after[body] - before[body], moved, atol=1e-3)
            others = {BUTTON, DRAWER} - {body}
            assert all(np.allclose(after[other], before[other]) for other in others)


@pytest.mark.parametrize(
    ("variation", "message"),
    [
        (Variation(turn=0.4), "turn: the table cannot be turned"),
        (Variation(shift=(0.0, 0.0, 0.1)), "shift: things stay"),
    ],
)
def test_variations_that_the_table_does_not_have_are_refused(variation: Variation, message: str) -> None:
    with Tabletop(PROFILE, varied(odd=variation), images=False) as world, pytest.raises(TaskError, match=message):
        world.reset("pick-can", "odd")


def test_what_does_not_fit_is_refused(blind: Tabletop) -> None:
    with pytest.raises(TaskError, match="no task 'pick-red-blok' in world 'tabletop'; did you mean 'pick-red-block'"):
        blind.reset("pick-red-blok")
    tasks = load_tasks(TABLETOP)
    with (
        Tabletop(PROFILE, replace(tasks, tasks={"pick-pear": tasks.tasks["pick-ball"]}), images=False) as other,
        pytest.raises(TaskError, match="the tabletop has no such task; it has: press-button, open-drawer, and pick-"),
    ):
        other.reset("pick-pear")
    with pytest.raises(WorldError, match="'metaworld_sawyer': the tabletop's arm has the joints panda_joint1"):
        Tabletop(load_profile("sawyer"))
    with pytest.raises(WorldError, match="expected 24 finite values, found 39 values"):
        expert_for("press-button", world=TABLETOP, profile=PROFILE).act(np.zeros(39))
    with pytest.raises(WorldError, match="act by ee_delta, found joint_velocity"):
        expert_for("press-button", world=TABLETOP, profile=load_profile("panda_kitchen"))
    on_nothing = replace(tasks.cameras["wrist"], body="hand")
    with (
        Tabletop(PROFILE, replace(tasks, cameras={**tasks.cameras, "wrist": on_nothing})) as other,
        pytest.raises(WorldError, match="camera 'wrist': the scene has no body 'hand'"),
    ):
        other.reset("press-button")
