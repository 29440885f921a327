"""The way home keeps limits and touches nothing, or is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from irevla_policy.robot.collision import CollisionModel
from irevla_policy.robot.homing import Homing, HomingError
from irevla_policy.robot.kinematics import ArmKinematics
from irevla_policy.robot.profile import Obstacle, load_profile
from irevla_policy.settings import SettingsError

PROFILE = load_profile("panda")
HOME = np.array(PROFILE.home)
KINEMATICS = ArmKinematics(PROFILE)
PERIOD = 1.0 / PROFILE.guard_rate
DOWN = KINEMATICS.pose(HOME)[1]


def joints_at(*position: float) -> np.ndarray:
    """Joint positions that put the hand somewhere, looking down."""
    found = HOME
    for share in np.linspace(0.1, 1.0, 10):
        found = KINEMATICS.solve(found, KINEMATICS.position(HOME) * (1 - share) + share * np.array(position), DOWN)
    assert np.allclose(KINEMATICS.position(found), position, atol=1e-3)
    return found


@pytest.mark.parametrize("speed", [0.3, 1.0])
def test_the_way_home_keeps_the_limits_and_ends_there(speed: float) -> None:
    start = joints_at(0.55, 0.25, 0.05)
    motion = Homing(PROFILE, CollisionModel(PROFILE), speed).plan(start, PERIOD)
    path = np.vstack((start, start, motion.positions))
    velocity = np.diff(path, axis=0) / PERIOD
    acceleration = np.diff(velocity, axis=0) / PERIOD
    for number, joint in enumerate(PROFILE.joints):
        assert np.abs(velocity[:, number]).max() <= speed * joint.velocity + 1e-6
        assert np.abs(acceleration[:, number]).max() <= speed * joint.acceleration + 1e-6
    # Limited jerk: it takes some periods to reach the largest acceleration.
    assert np.abs(np.diff(acceleration, axis=0)).max() < speed * 0.25 * max(j.acceleration for j in PROFILE.joints)
    assert motion.lifted == 0.0
    assert np.allclose(motion.positions[-1], HOME, atol=1e-9)


def test_the_way_is_straight_whatever_the_proportions_of_the_limits() -> None:
    speeds, ramps = (2.175, 2.175, 2.175, 2.175, 2.61, 2.61, 2.61), (15.0, 7.5, 10.0, 12.5, 15.0, 20.0, 20.0)
    joints = tuple(
        replace(joint, velocity=speed, acceleration=ramp)
        for joint, speed, ramp in zip(PROFILE.joints, speeds, ramps, strict=True)
    )
    profile = replace(PROFILE, joints=joints)
    start = HOME + np.array([0.9, -0.1, 0.3, 0.05, 0.6, -0.4, 0.8])
    positions = Homing(profile, None, 1.0).plan(start, PERIOD).positions
    along = (positions - start) @ (HOME - start) / np.sum((HOME - start) ** 2)
    assert np.abs(positions - start - along[:, None] * (HOME - start)).max() < 1e-9
    velocity = np.diff(np.vstack((start, positions)), axis=0) / PERIOD
    assert (np.abs(velocity).max(axis=0) <= np.array(speeds) + 1e-6).all()
    assert (np.abs(velocity).max(axis=0) > 0.9 * np.array(speeds)).any()


def test_who_is_at_home_stays() -> None:
    motion = Homing(PROFILE, CollisionModel(PROFILE)).plan(HOME + 1e-4, PERIOD)
    assert np.array_equal(motion.positions, HOME[None])


def test_the_hand_is_lifted_over_what_is_in_the_way() -> None:
    start = joints_at(0.5, 0.3, 0.05)
    beside = (0.5, 0.12, 0.1)
    profile = replace(PROFILE, obstacles=(*PROFILE.obstacles, Obstacle("box", beside, (0.1, 0.03, 0.2))))
    collisions = CollisionModel(profile)
    assert not collisions.touching(start)
    straight = Homing(profile, None).plan(start, PERIOD)
    assert collisions.first_touch(straight.positions) is not None
    motion = Homing(profile, collisions).plan(start, PERIOD)
    assert motion.lifted > 0.0
    assert collisions.first_touch(motion.positions) is None
    assert KINEMATICS.position(motion.positions[len(motion.positions) // 3])[2] > 0.1


def test_an_arm_that_touches_something_comes_away_from_it() -> None:
    start = joints_at(0.5, 0.0, 0.013)
    collisions = CollisionModel(PROFILE)
    assert ("panda_hand_tcp", "table") in collisions.touching(start)
    motion = Homing(PROFILE, collisions).plan(start, PERIOD)
    assert not collisions.touching(motion.positions[-1])


def test_no_free_way_is_refused_with_what_is_in_it() -> None:
    wall = Obstacle("wall", (0.45, 0.15, 0.4), (0.6, 0.02, 0.8))
    profile = replace(PROFILE, obstacles=(*PROFILE.obstacles, wall))
    with pytest.raises(HomingError, match=r"no free way home: panda_\w+ would touch wall, .* move the arm by hand"):
        Homing(profile, CollisionModel(profile)).plan(joints_at(0.45, 0.32, 0.1), PERIOD)


def test_self_collision_is_found() -> None:
    collisions = CollisionModel(replace(PROFILE, obstacles=()))
    folded = HOME.copy()
    folded[[1, 3, 5]] = [-1.6, -3.05, 0.5]
    assert collisions.touching(folded)
    assert not collisions.touching(HOME)
    # Where the tabletop's experts go nothing is touched.
    for x in (0.35, 0.5, 0.65):
        for y in (-0.3, 0.0, 0.3):
            for z in (0.03, 0.3):
                assert not collisions.touching(joints_at(x, y, z)), (x, y, z)


def test_a_profile_that_cannot_be_checked_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"ur5e\.urdf: has no collision shapes"):
        CollisionModel(load_profile("ur5e"))
    blocked = replace(PROFILE, obstacles=(Obstacle("shelf", (0.42, 0.0, 0.26), (0.1, 0.1, 0.1)),))
    with pytest.raises(SettingsError, match=r"panda\.yaml:\d+: home: the arm touches \w+ with \w+ there"):
        CollisionModel(blocked)


def test_obstacles_keep_their_names() -> None:
    bins = [Obstacle(name, tuple(KINEMATICS.position(HOME).tolist()), (0.1, 0.1, 0.1)) for name in ("bin_1", "bin_1")]
    with pytest.raises(SettingsError, match="touches bin_1 with"):
        CollisionModel(replace(PROFILE, obstacles=(bins[0],)))
    with pytest.raises(SettingsError, match="obstacles: 'bin_1' is named twice"):
        replace(PROFILE, obstacles=tuple(bins))


def test_the_second_link_touches_what_stands_around_the_arm() -> None:
    shelf = Obstacle("shelf", (0.2, 0.0, 0.3), (0.1, 0.1, 0.1))
    leaning = HOME.copy()
    leaning[1] = 1.5
    assert ("panda_link2", "shelf") in CollisionModel(replace(PROFILE, obstacles=(shelf,))).touching(leaning)


FINGERS = """
<joint name="panda_finger_joint1" type="prismatic"><parent link="panda_link7"/><child link="left"/>
<axis xyz="0 1 0"/><limit lower="0" upper="2" velocity="0.2" effort="20"/></joint>
<link name="left"><collision><geometry><box size="0.01 0.01 0.01"/></geometry></collision></link>
<joint name="panda_finger_joint2" type="prismatic"><parent link="panda_link7"/><child link="right"/>
<axis xyz="0 1 0"/><limit lower="-2" upper="0" velocity="0.2" effort="20"/>
<mimic joint="panda_finger_joint1" multiplier="-1"/></joint>
<link name="right"><collision><geometry><box size="0.01 0.01 0.01"/></geometry></collision></link>
</robot>"""


def test_fingers_count_as_far_apart_as_they_can_be(tmp_path) -> None:
    urdf = tmp_path / "fingers.urdf"
    urdf.write_text(PROFILE.urdf_path.read_text().replace("</robot>", FINGERS))
    kinematics = replace(PROFILE.kinematics, urdf=str(urdf), ee_frame="panda_link7")
    profile = replace(PROFILE, kinematics=kinematics, gripper=replace(PROFILE.gripper, opening=(0.0, 1.5)))
    position, rotation = ArmKinematics(profile).pose(HOME)
    for finger, side in (("left", 1.5), ("right", -1.5)):
        place = tuple((position + rotation @ [0.0, side, 0.0]).tolist())
        with pytest.raises(SettingsError, match=f"touches post with {finger} there"):
            CollisionModel(replace(profile, obstacles=(Obstacle("post", place, (0.02, 0.02, 0.02)),)))
