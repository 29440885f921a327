"""MoveIt behind the interface of scene and planner: what it is asked, and what is made of its answers."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from stand_in_moveit import MoveItPy, install

from irevla_policy.robot.collision import CollisionModel
from irevla_policy.robot.homing import Homing
from irevla_policy.robot.profile import Obstacle, load_profile
from irevla_policy.robot.scene import HomingError
from irevla_policy.ros.moveit import TOUCH, MoveItError, SceneSettings, planner, scene

PROFILE = load_profile("panda")
HOME = np.array(PROFILE.home)
AWAY = HOME + np.array([0.6, 0.1, 0.0, 0.2, 0.0, 0.0, -0.2])
PERIOD = 1.0 / PROFILE.control_rate
PARAMETERS = {
    "robot_description": "<robot name='panda'/>",
    "robot_description_semantic": "<robot name='panda'/>",
    "publish_planning_scene": True,
    "publish_geometry_updates": True,
    "planning_pipelines": ["ompl", "pilz_industrial_motion_planner"],
    "default_planning_pipeline": "pilz_industrial_motion_planner",
    "ompl": {"planning_plugins": ["ompl_interface/OMPLPlanner"]},
}


def dump(folder: Path, parameters: object) -> SceneSettings:
    """As `ros2 param dump /move_group` writes."""
    path = folder / "move_group.yaml"
    path.write_text(yaml.safe_dump({"/move_group": {"ros__parameters": parameters}}))
    return SceneSettings(moveit=str(path))


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SceneSettings:
    install(monkeypatch, PROFILE)
    return dump(tmp_path, PARAMETERS)


def test_it_is_configured_by_what_move_group_has(settings: SceneSettings) -> None:
    scene(PROFILE, settings)
    config = MoveItPy.last.config
    assert config["ompl"] == PARAMETERS["ompl"]
    assert config["planning_pipelines"] == {"pipeline_names": PARAMETERS["planning_pipelines"]}
    assert config["plan_request_params"]["planning_pipeline"] == "pilz_industrial_motion_planner"
    [table] = MoveItPy.last.boxes
    assert (table.id, table.header.frame_id) == ("irevla_table", "panda_link0")
    assert table.primitives[0].dimensions == [1.0, 1.2, 0.06]


def test_boxes_are_in_the_frame_that_the_profile_has(settings: SceneSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MoveItPy, "frames", ("panda_link0", "world"))
    scene(PROFILE, settings)
    assert [box.header.frame_id for box in MoveItPy.last.boxes] == ["world"]


def test_touches_are_those_of_its_scene(settings: SceneSettings) -> None:
    found = scene(PROFILE, settings)
    below = HOME + np.array([0.0, 0.9, 0.0, 0.0, 0.0, 0.0, 0.0])
    assert CollisionModel(PROFILE).touching(below)
    assert found.touching(below) == [TOUCH]
    assert found.touching(HOME) == []
    assert MoveItPy.last.locks == 0


def test_its_scene_is_that_of_move_group(settings: SceneSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    found = scene(PROFILE, settings)
    assert MoveItPy.last.remappings["planning_scene"] == "/monitored_planning_scene"
    assert MoveItPy.last.remappings["joint_states"] == PROFILE.joint_states_topic
    MoveItPy.last.request("/get_planning_scene")  # move_group has started again and tells its scene
    below = HOME + np.array([0.0, 0.9, 0.0, 0.0, 0.0, 0.0, 0.0])
    assert found.touching(below) == [TOUCH]
    monkeypatch.setattr(MoveItPy, "answers", False)
    with pytest.raises(MoveItError, match="/get_planning_scene does not answer: is the arm's move_group running"):
        scene(PROFILE, settings)


def test_an_older_moveit_py_is_refused(settings: SceneSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    made = MoveItPy.__init__

    def older(
        self: MoveItPy, *, node_name: str, config_dict: dict[str, object], provide_planning_service: bool
    ) -> None:
        made(
            self,
            node_name=node_name,
            config_dict=config_dict,
            provide_planning_service=provide_planning_service,
            remappings={},
        )

    monkeypatch.setattr(MoveItPy, "__init__", older)
    with pytest.raises(MoveItError, match=r"moveit: needs moveit_py 2\.12\.3 or later: .*remappings"):
        scene(PROFILE, settings)


def test_a_way_that_touches_something_once_it_is_timed_is_refused(
    settings: SceneSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    homing = planner(PROFILE, settings, 0.5, check=True)
    homing.plan(AWAY, PERIOD)
    monkeypatch.setattr(MoveItPy, "bulge", np.array([0.0, 0.9, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]))
    with pytest.raises(HomingError, match="touches something once it is timed"):
        homing.plan(AWAY, PERIOD)


@pytest.mark.parametrize("speed", [0.05, 1.0])
def test_the_way_home_keeps_the_profile_s_limits(settings: SceneSettings, speed: float) -> None:
    motion = planner(PROFILE, settings, speed, check=True).plan(AWAY, PERIOD)
    path = np.vstack((AWAY, AWAY, motion.positions, HOME))
    velocity = np.diff(path, axis=0) / PERIOD
    acceleration = np.diff(velocity, axis=0) / PERIOD
    assert np.array_equal(motion.positions[-1], HOME)
    for number, joint in enumerate(PROFILE.joints):
        assert np.abs(velocity[:, number]).max() <= speed * joint.velocity * 1.01
        assert np.abs(acceleration[:, number]).max() <= speed * joint.acceleration * 1.05


def test_who_is_at_home_stays(settings: SceneSettings) -> None:
    motion = planner(PROFILE, settings, 0.5, check=True).plan(HOME + 1e-4, PERIOD)
    assert np.array_equal(motion.positions, HOME[None])


def test_no_way_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wall = Obstacle("wall", (0.45, 0.15, 0.4), (0.6, 0.02, 0.8))
    profile = replace(PROFILE, obstacles=(*PROFILE.obstacles, wall))
    install(monkeypatch, profile)
    with pytest.raises(HomingError, match=r"no free way home: MoveIt's error code 99999; move the arm by hand"):
        planner(profile, dump(tmp_path, PARAMETERS), 0.5, check=True).plan(AWAY, PERIOD)


def test_without_it_pinocchio_answers() -> None:
    assert isinstance(scene(PROFILE, SceneSettings()), CollisionModel)
    assert isinstance(planner(PROFILE, SceneSettings(), 0.5, check=True), Homing)


def test_it_has_to_be_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "moveit", None)
    with pytest.raises(MoveItError, match=r"moveit: needs moveit_py \(package ros-jazzy-moveit-py\)"):
        scene(PROFILE, dump(tmp_path, PARAMETERS))


@pytest.mark.parametrize(
    ("parameters", "complaint"),
    [
        ([1], "one node with `ros__parameters`"),
        ({**PARAMETERS, "robot_description_semantic": None}, "has no parameter 'robot_description_semantic'"),
        ({**PARAMETERS, "publish_planning_scene": False}, "publish_planning_scene is not true"),
        ({**PARAMETERS, "planning_pipelines": []}, "names no planning pipeline in `planning_pipelines`"),
    ],
)
def test_other_files_are_refused(settings: SceneSettings, tmp_path: Path, parameters: object, complaint: str) -> None:
    with pytest.raises(MoveItError, match=rf"moveit: .*move_group.yaml: .*{complaint}"):
        scene(PROFILE, dump(tmp_path, parameters))
    with pytest.raises(MoveItError, match=r"moveit: .*nowhere.yaml: No such file"):
        scene(PROFILE, SceneSettings(moveit=str(tmp_path / "nowhere.yaml")))


def test_a_group_that_does_not_fit_is_refused(settings: SceneSettings) -> None:
    with pytest.raises(MoveItError, match=r"moveit_group 'arm_and_hand': expected .*MoveIt knows arm: panda_joint1"):
        scene(PROFILE, replace(settings, moveit_group="arm_and_hand"))
    with pytest.raises(MoveItError, match=r"moveit: 0 planning groups have the joints of profile 'metaworld_sawyer'"):
        scene(load_profile("sawyer"), settings)
