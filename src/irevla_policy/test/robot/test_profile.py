"""Robot profiles: shipped ones load, wrong ones are refused with the line to change."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from irevla_policy.paths import config_folder
from irevla_policy.robot.profile import load_profile
from irevla_policy.settings import SettingsError

SHIPPED = sorted((config_folder() / "robots").glob("*.yaml"))


@pytest.fixture
def document() -> dict:
    return yaml.safe_load((config_folder() / "robots" / "sawyer.yaml").read_text())


def _load(document: dict, folder: Path):
    path = folder / "robot.yaml"
    path.write_text(yaml.safe_dump(document))
    return load_profile(path)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_profile_loads(path: Path) -> None:
    profile = load_profile(path.stem)
    assert profile.urdf_path.is_file()
    assert len(profile.home) == len(profile.joint_names)
    assert profile.substeps * profile.control_rate == profile.guard_rate


def test_dimensions_follow_from_action_space_and_proprioception(document: dict, tmp_path: Path) -> None:
    profile = _load(document, tmp_path)
    assert (profile.action_dim, profile.state_dim) == (4, 4)
    document["action_space"] = "joint_position"
    document["proprioception"] = ["joint_positions", "ee_position", "gripper"]
    profile = _load(document, tmp_path)
    assert (profile.action_dim, profile.state_dim) == (8, 11)


def test_training_hash_changes_with_what_training_sees_and_with_nothing_else(document: dict, tmp_path: Path) -> None:
    original = _load(document, tmp_path).training_hash
    document["stale_timeout"] = 0.2
    assert _load(document, tmp_path).training_hash == original
    for path, value in (("cameras.0.width", 64), ("home.6", 0.1), ("control_rate", 10.0)):
        changed = yaml.safe_load(yaml.safe_dump(document))
        _set(changed, path, value)
        assert _load(changed, tmp_path).training_hash != original


def _set(document: dict, path: str, value: object) -> None:
    *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    for key in parents:
        document = document[key]
    document[last] = value


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (
            "joints.1.position",
            [-218.0, -29.0],
            "joints[1]: position[0]: must be in [-12.5664, 12.5664] rad, found -218.0",
        ),
        ("joints.0.position", [1.0, -1.0], "position: the lowest must be below the highest, found [1.0, -1.0]"),
        ("joints.0.velocity", 200.0, "velocity: must be in (0, 50] rad/s, found 200.0"),
        ("workspace.high", [500.0, 1000.0, 600.0], "workspace: high[0]: must be in [-10, 10] m, found 500.0"),
        ("workspace.low", [0.6, 0.3, 0.0], "low must be below high in every axis"),
        ("joints.0.name", "right_j1", "joints: 'right_j1' is named twice"),
        ("home", [0.0], "home: expected 7 joint positions, found 1"),
        ("home.1", 3.0, "of joint 'right_j1' is outside its limits"),
        ("cameras", [], "cameras: expected at least one"),
        ("cameras.0.encoding", "yuv", "encoding: must be one of 'rgb8'"),
        ("guard_rate", 70.0, "guard_rate: must be a whole multiple of control_rate 20 Hz, found 70"),
        ("guard_rate", 20.0, "guard_rate: must be in [50, 1000] Hz, found 20.0"),
        ("action_space", "wheels", "action_space: must be one of 'ee_delta'"),
        ("stale_timeout_ms", 120, "unknown key 'stale_timeout_ms'"),
        ("gripper.joint", "right_j0", "gripper: joint 'right_j0' is also an arm joint"),
    ],
)
def test_wrong_profiles_are_refused(document: dict, tmp_path: Path, path: str, value: object, expected: str) -> None:
    _set(document, path, value)
    with pytest.raises(SettingsError) as error:
        _load(document, tmp_path)
    assert "robot.yaml" in str(error.value)
    assert expected in str(error.value)


@pytest.fixture
def arm(tmp_path: Path) -> dict:
    """A Panda's profile beside its URDF."""
    robots = config_folder() / "robots"
    (tmp_path / "panda.urdf").write_text((robots / "panda.urdf").read_text())
    return yaml.safe_load((robots / "panda.yaml").read_text())


def test_limits_that_are_left_out_are_those_of_the_urdf(arm: dict, tmp_path: Path) -> None:
    del arm["joints"][3]["position"], arm["joints"][3]["velocity"]
    joint = _load(arm, tmp_path).joints[3]
    assert (joint.position, joint.velocity) == ((-3.0718, -0.0698), 2.175)


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("joints.1.position", [-1.7628, 1.8], r"limits \[-1.7628, 1.8\] rad of joint 'panda_joint2' are wider than \["),
        ("joints.1.velocity", 2.2, "velocity 2.2 rad/s of joint 'panda_joint2' is above 2.175 rad/s of .*panda.urdf"),
        (
            "joints.1",
            {"name": "panda_joint9", "acceleration": 1.0},
            "position of joint 'panda_joint9' is left out, and",
        ),
    ],
)
def test_limits_beyond_the_urdf_are_refused_with_the_line(
    arm: dict, tmp_path: Path, path: str, value: object, expected: str
) -> None:
    _set(arm, path, value)
    with pytest.raises(SettingsError, match=expected) as error:
        _load(arm, tmp_path)
    lines = (tmp_path / "robot.yaml").read_text().splitlines()
    [line] = [number for number, text in enumerate(lines, start=1) if "panda_joint2" in text or "panda_joint9" in text]
    first = next(number for number in range(line, 0, -1) if lines[number - 1].startswith("- "))
    assert f"robot.yaml:{first}: joints[1]: " in str(error.value)


def test_a_simulated_arm_may_be_faster_than_the_real_one(arm: dict, tmp_path: Path) -> None:
    arm["joints"][1]["velocity"] = 2.2
    arm["kinematics"]["faster_than_urdf"] = True
    assert _load(arm, tmp_path).joints[1].velocity == 2.2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<robot><joint", "not a readable URDF"),
        ("<sdf/>", "expected <robot> at its root, found <sdf>"),
        (
            "<robot><joint name='j' type='revolute'><limit lower='low' upper='1'/></joint></robot>",
            "limit of joint 'j': lower must be a number, found 'low'",
        ),
    ],
)
def test_a_broken_urdf_is_named(arm: dict, tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "panda.urdf").write_text(text)
    with pytest.raises(SettingsError, match=r"panda\.urdf: ") as error:
        _load(arm, tmp_path)
    assert expected in str(error.value)


def test_unknown_profile_names_the_known_ones() -> None:
    with pytest.raises(SettingsError, match=r"no robot profile 'sawyr' in .*; known: .*sawyer"):
        load_profile("sawyr")
