"""With a scene no command touches anything, whatever the targets are; what that costs is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from irevla_policy.robot.collision import CollisionModel
from irevla_policy.robot.kinematics import ArmKinematics
from irevla_policy.robot.limits import LIMITED_COLLISION, MotionLimiter
from irevla_policy.robot.profile import Obstacle, Workspace, load_profile
from irevla_policy.robot.scene import MeasuredScene, Scene, Touch

# The box of the workspace bounds the finger tips only: here it does not keep the arm from post and table.
POST = Obstacle("post", (0.5, 0.25, 0.2), (0.08, 0.08, 0.4))
SHIPPED = load_profile("panda")
PROFILE = replace(
    SHIPPED, obstacles=(*SHIPPED.obstacles, POST), workspace=Workspace((-0.9, -0.9, -0.3), (0.9, 0.9, 1.2))
)
HOME = np.array(PROFILE.home)
KINEMATICS = ArmKinematics(PROFILE)
COLLISIONS = CollisionModel(PROFILE)
DT = 1.0 / PROFILE.guard_rate
ABOVE = HOME + np.array([0.0, 0.3, 0.0, 0.0, 0.0, 0.0, 0.0])
INTO_THE_TABLE = HOME + np.array([0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0])


def limiter_at(start: np.ndarray, scene: Scene | None = COLLISIONS) -> MotionLimiter:
    limiter = MotionLimiter(PROFILE, KINEMATICS, DT, scene)
    limiter.reset(start)
    return limiter


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_wild_targets_touch_nothing(seed: int) -> None:
    random = np.random.default_rng(seed)
    low, high = np.array([joint.position for joint in PROFILE.joints]).T
    free, checked = limiter_at(HOME, None), limiter_at(HOME)
    touched, limited, path = 0, 0, [HOME]
    for number in range(24):
        wild = random.uniform(low, high) if number % 2 else INTO_THE_TABLE + random.normal(0.0, 0.4, len(low))
        target = np.clip(wild, low, high)
        for _ in range(int(random.integers(1, 8))):
            touched += sum(bool(COLLISIONS.touching(point.position)) for point in free.plan(target, 5)[0])
            setpoints, bits = checked.plan(target, 5)
            path += [setpoint.position for setpoint in setpoints]
            limited += bits & LIMITED_COLLISION
        path += [setpoint.position for setpoint in checked.plan(None, int(random.integers(0, 3)))[0]]
    assert not any(COLLISIONS.touching(position) for position in path)
    assert touched and limited, "without the check the same targets touch something"
    velocity = np.diff([HOME, *path], axis=0) / DT
    acceleration = np.diff(velocity, axis=0) / DT
    assert (np.abs(velocity) <= np.array([joint.velocity for joint in PROFILE.joints]) + 1e-9).all()
    assert (np.abs(acceleration) <= np.array([joint.acceleration for joint in PROFILE.joints]) + 1e-6).all()
    assert np.abs(velocity).max() > 1.0


def driven(limiter: MotionLimiter, target: np.ndarray) -> int:
    """The LIMITED_* bits of the last of many control periods."""
    return [limiter.plan(target, 5)[1] for _ in range(40)][-1]


def test_it_stops_in_front_and_leaves_again() -> None:
    limiter = limiter_at(ABOVE)
    assert driven(limiter, INTO_THE_TABLE) & LIMITED_COLLISION and limiter.at_rest
    assert 0.005 <= KINEMATICS.position(limiter.setpoint.position)[2] < 0.03
    assert driven(limiter, ABOVE) == 0
    assert np.allclose(limiter.setpoint.position, ABOVE, atol=1e-4)


def test_what_touches_at_the_start_comes_away_and_does_not_touch_again() -> None:
    start = ABOVE
    while not COLLISIONS.touching(start):
        start = start + 0.01 * (INTO_THE_TABLE - ABOVE)
    limiter = limiter_at(start)
    driven(limiter, ABOVE)
    assert np.allclose(limiter.setpoint.position, ABOVE, atol=1e-4)
    for _ in range(40):
        setpoints, _ = limiter.plan(INTO_THE_TABLE, 5)
        assert not any(COLLISIONS.touching(setpoint.position) for setpoint in setpoints)


class Box:
    """A thing that comes to lie where the arm is."""

    there = False

    def touching(self, joints: np.ndarray) -> list[Touch]:
        return [("hand", "box")] if self.there and joints[1] < ABOVE[1] - 0.05 else []


def test_what_comes_to_lie_where_the_arm_is_stops_it_until_it_starts_anew() -> None:
    box = Box()
    limiter = limiter_at(HOME, box)
    box.there = True
    assert driven(limiter, ABOVE) & LIMITED_COLLISION
    assert np.array_equal(limiter.setpoint.position, HOME) and limiter.touches == []
    assert limiter.blocked == [("hand", "box")]
    limiter.reset(HOME)
    assert limiter.touches == [("hand", "box")] and limiter.blocked == []
    driven(limiter, ABOVE)
    assert np.allclose(limiter.setpoint.position, ABOVE, atol=1e-4) and limiter.touches == []
    assert driven(limiter, HOME) & LIMITED_COLLISION
    assert not box.touching(limiter.setpoint.position)


class Two:
    """Things on both sides of a gap that is shorter than the way in which the arm stops; as MoveIt tells of them."""

    def touching(self, joints: np.ndarray) -> list[Touch]:
        way = joints[0] - HOME[0]
        return [] if 0.1 <= way <= 0.16 else [("the arm", "the scene")]


def test_what_has_come_apart_is_not_run_into_on_the_way_to_a_stop() -> None:
    limiter = limiter_at(HOME, Two())
    for _ in range(100):
        limiter.advance(HOME + np.eye(7)[0], 0.1)
        if not limiter.touches:
            break
    driven(limiter, HOME + np.eye(7)[0])
    resting = limiter.setpoint.position
    # Either it stopped in the gap, or what it touches may be left again.
    assert not Two().touching(resting) or limiter.touches
    limiter.advance(None)
    driven(limiter, HOME + 0.13 * np.eye(7)[0])
    assert np.allclose(limiter.setpoint.position[0], HOME[0] + 0.13, atol=1e-3)


def test_what_a_command_has_cost_is_measured() -> None:
    scene = MeasuredScene(COLLISIONS)
    assert scene.cost() == (0.0, 0.0)
    limiter = limiter_at(HOME, scene)
    for _ in range(20):
        limiter.advance(ABOVE, 0.1)
        scene.command_sent()
    median, worst = scene.cost()
    assert 0.0 < median <= worst < 0.1


class Bar:
    """A thing that is thinner than a fast arm's way in a tick or two."""

    def __init__(self, begins: float) -> None:
        self._begins = begins

    def touching(self, joints: np.ndarray) -> list[Touch]:
        return [("hand", "bar")] if 0.0 <= joints[0] - HOME[0] - self._begins <= 0.03 else []


def test_no_tick_of_a_stop_touches_what_is_thin() -> None:
    bits = 0
    for begins in np.linspace(0.1, 0.3, 41):
        bar = Bar(begins)
        limiter = limiter_at(HOME, bar)
        for _ in range(30):
            setpoint, limited = limiter.advance(HOME + np.eye(7)[0], 0.1)
            assert not bar.touching(setpoint.position)
            bits |= limited
        while not limiter.at_rest:
            assert not bar.touching(limiter.advance(None)[0].position)
    assert bits & LIMITED_COLLISION
