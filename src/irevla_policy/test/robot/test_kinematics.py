"""The arm's kinematics against MuJoCo's, and the way back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import metaworld
import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from irevla_policy.robot.kinematics import ArmKinematics
from irevla_policy.robot.profile import load_profile
from irevla_policy.settings import SettingsError
from irevla_policy.sim.sawyer import write_urdf

PROFILE = load_profile("sawyer")
KINEMATICS = ArmKinematics(PROFILE)
LOW = np.array([joint.position[0] for joint in PROFILE.joints])
HIGH = np.array([joint.position[1] for joint in PROFILE.joints])
HOME = np.array(PROFILE.home)


@pytest.fixture(scope="module")
def model() -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_path(str(Path(metaworld.__file__).parent / "assets/sawyer_xyz/sawyer_reach_v3.xml"))


def test_the_end_effector_is_where_mujoco_has_the_hand(model: mujoco.MjModel) -> None:
    data = mujoco.MjData(model)
    address = [model.joint(name).qposadr[0] for name in PROFILE.joint_names]
    random = np.random.default_rng(0)
    for joints in random.uniform(LOW, HIGH, (200, len(LOW))):
        data.qpos[address] = joints
        mujoco.mj_kinematics(model, data)
        position, rotation = KINEMATICS.pose(joints)
        assert np.abs(position - data.body("hand").xpos).max() < 1e-6
        assert np.abs(rotation - data.body("hand").xmat.reshape(3, 3)).max() < 1e-6
        assert (KINEMATICS.position(joints) == position).all()


def test_the_shipped_urdf_is_the_one_that_the_model_gives() -> None:
    assert PROFILE.urdf_path.read_text() == write_urdf()


@given(st.lists(st.floats(0.0, 1.0), min_size=7, max_size=7))
@settings(max_examples=100, deadline=None)
def test_inverse_kinematics_goes_back_to_a_pose_that_the_arm_can_have(shares: list[float]) -> None:
    # Within a control period of where the arm is, which is what control asks for.
    here = HOME + 0.5 * (np.array(shares) - 0.5)
    there = here + 0.1 * np.sin(np.arange(7) + 7 * shares[0])
    position, rotation = KINEMATICS.pose(there)
    solution = KINEMATICS.solve(here, position, rotation)
    found, turned = KINEMATICS.pose(solution)
    assert np.abs(found - position).max() < 1e-4
    assert np.abs(turned - rotation).max() < 1e-3
    assert (solution >= LOW).all()
    assert (solution <= HIGH).all()
    assert (KINEMATICS.solve(here, position, rotation) == solution).all()


@given(st.lists(st.floats(-3.0, 3.0), min_size=3, max_size=3))
@settings(max_examples=50, deadline=None)
def test_a_position_out_of_reach_gives_the_nearest_pose_inside_the_limits(position: list[float]) -> None:
    rotation = KINEMATICS.pose(HOME)[1]
    solution = KINEMATICS.solve(HOME, np.array(position), rotation)
    assert np.isfinite(solution).all()
    assert (solution >= LOW).all()
    assert (solution <= HIGH).all()


def test_a_closed_path_leads_back_to_the_same_posture() -> None:
    joints = HOME
    here, rotation = KINEMATICS.pose(HOME)
    for turn in np.linspace(0.0, 4.0 * np.pi, 160):
        joints = KINEMATICS.solve(joints, here + 0.15 * np.array([np.sin(turn), np.cos(turn) - 1.0, 0.0]), rotation)
    for _ in range(40):
        joints = KINEMATICS.solve(joints, here, rotation)
    assert np.abs(joints - HOME).max() < 0.02


def test_profile_order_and_other_joints_of_the_urdf_do_not_matter(tmp_path: Path) -> None:
    urdf = tmp_path / "with_finger.urdf"
    finger = (
        '<link name="finger"/><joint name="finger" type="prismatic"><axis xyz="0 0 1"/><parent link="hand"/>'
        '<child link="finger"/><limit lower="0" upper="0.1" velocity="1" effort="1"/></joint></robot>'
    )
    urdf.write_text(PROFILE.urdf_path.read_text().replace("</robot>", finger))
    order = [3, 0, 6, 1, 5, 2, 4]
    profile = replace(
        PROFILE,
        joints=tuple(PROFILE.joints[index] for index in order),
        home=tuple(PROFILE.home[index] for index in order),
        kinematics=replace(PROFILE.kinematics, urdf=str(urdf)),
    )
    kinematics = ArmKinematics(profile)
    joints = HOME + 0.1
    assert np.abs(kinematics.position(joints[order]) - KINEMATICS.position(joints)).max() < 1e-12
    target = KINEMATICS.pose(joints)
    assert np.abs(kinematics.solve(HOME[order], *target) - KINEMATICS.solve(HOME, *target)[order]).max() < 1e-6


def test_disagreements_between_urdf_and_profile_are_named(tmp_path: Path) -> None:
    other = replace(PROFILE.joints[0], name="shoulder")
    with pytest.raises(SettingsError, match=r"'shoulder'.*right_j0"):
        ArmKinematics(replace(PROFILE, joints=(other, *PROFILE.joints[1:])))
    with pytest.raises(SettingsError, match="'claw'"):
        ArmKinematics(replace(PROFILE, kinematics=replace(PROFILE.kinematics, ee_frame="claw")))
    with pytest.raises(SettingsError, match="no such URDF"):
        ArmKinematics(replace(PROFILE, kinematics=replace(PROFILE.kinematics, urdf="nowhere.urdf")))
    broken = tmp_path / "broken.urdf"
    broken.write_text("<robot")
    with pytest.raises(SettingsError, match=r"broken\.urdf"):
        ArmKinematics(replace(PROFILE, kinematics=replace(PROFILE.kinematics, urdf=str(broken))))
