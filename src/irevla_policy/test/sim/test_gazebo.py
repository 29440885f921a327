"""The tabletop written for Gazebo: what is in the files is what MuJoCo simulates and what the profile says."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlparse
from xml.etree import ElementTree

import mujoco
import numpy as np
import pinocchio
import pytest
import yaml

from irevla_policy.errors import UserError
from irevla_policy.robot.description import check_description
from irevla_policy.robot.profile import load_profile
from irevla_policy.sim.gazebo import GazeboFiles, write_gazebo
from irevla_policy.sim.tabletop import tabletop_scene
from irevla_policy.sim.tasks import load_tasks

TASKS = load_tasks("tabletop")
FINGERS = ("panda_finger_joint1", "panda_finger_joint2")


def write(folder: Path, robot: str = "panda", task: str = "pick-carrot", seed: int = 3) -> GazeboFiles:
    return write_gazebo(folder, load_profile(robot), TASKS, task, seed)


@pytest.fixture(scope="module", params=["panda", "panda_forward"])
def robot(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def files(robot: str, tmp_path_factory: pytest.TempPathFactory) -> GazeboFiles:
    return write(tmp_path_factory.mktemp("gazebo"), robot)


def pose(text: str | None) -> pinocchio.SE3:
    x, y, z, *angles = (float(word) for word in (text or "0 0 0 0 0 0").split())
    return pinocchio.SE3(pinocchio.rpy.rpyToMatrix(*angles), np.array([x, y, z]))


def models(files: GazeboFiles) -> dict[str, ElementTree.Element]:
    world = ElementTree.parse(files.world).getroot().find("world")
    return {model.get("name", ""): model for model in world.findall("model")}


def test_names_are_unique_and_what_refers_to_them_finds_them(files: GazeboFiles) -> None:
    found = models(files)
    assert set(found) == {"table", "plate", "cabinet", "stand", "object", "scene_camera"}
    for model in found.values():
        names = [child.get("name") for child in model if child.tag in ("link", "joint")]
        assert len(set(names)) == len(names)
        links = {link.get("name") for link in model.iter("link")}
        for joint in model.iter("joint"):
            assert joint.findtext("parent") in {"world", *links} and joint.findtext("child") in links
        assert {item.get("relative_to") for item in model.iter("pose")} - {None} <= links


def test_bodies_stand_where_mujoco_has_them_and_weigh_the_same(files: GazeboFiles, robot: str) -> None:
    scene, _ = tabletop_scene(load_profile(robot), TASKS, "pick-carrot", 3)
    seen = set()
    for model in models(files).values():
        place = pose(model.findtext("pose"))
        for link in model.findall("link"):
            if (name := link.get("name")) == "link":
                continue
            there = place * pose(link.findtext("pose"))  # every one here hangs on the root
            body = scene.data.body(name)
            assert there.translation == pytest.approx(body.xpos, abs=1e-6)
            assert there.rotation == pytest.approx(body.xmat.reshape(3, 3), abs=1e-6)
            assert float(link.findtext("inertial/mass")) == pytest.approx(float(scene.model.body(name).mass[0]))
            geoms = int(scene.model.body(name).geomnum[0])
            assert len(link.findall("collision")) == len(link.findall("visual")) == geoms
            seen.add(name)
    assert {"table", "plate", "cabinet", "drawer", "stand", "button", "object"} == seen


def test_there_is_room_between_the_open_fingers(files: GazeboFiles) -> None:
    root = ElementTree.parse(files.robot).getroot()
    solid = {link.get("name") for link in root.findall("link") if link.findall("collision")}
    assert "panda_hand_tcp" not in solid
    fingers = {joint.find("child").get("link") for joint in root.findall("joint") if joint.get("name") in FINGERS}
    assert len(fingers) == 2 and fingers < solid


def test_what_moves_moves_as_far(files: GazeboFiles) -> None:
    found = models(files)
    assert {name for name, model in found.items() if model.findtext("static") == "false"} == {
        "cabinet",
        "stand",
        "object",
    }
    drawer = found["cabinet"].find("joint[@type='prismatic']/axis")
    assert drawer.findtext("xyz").split() == ["-1.0", "0.0", "0.0"]
    assert float(drawer.findtext("limit/upper")) == pytest.approx(0.15)
    spring = found["stand"].find("joint[@type='prismatic']/axis/dynamics")
    assert float(spring.findtext("spring_stiffness")) == pytest.approx(60.0)


def test_the_camera_looks_where_the_task_file_says(files: GazeboFiles, robot: str) -> None:
    camera, sensor = models(files)["scene_camera"], models(files)["scene_camera"].find("link/sensor")
    place, said = pose(camera.findtext("pose")), TASKS.cameras["scene"]
    ahead = np.subtract(said.look_at, said.position)
    assert place.translation == pytest.approx(said.position)
    assert place.rotation[:, 0] == pytest.approx(ahead / np.linalg.norm(ahead), abs=1e-6)
    assert abs(place.rotation[2, 1]) < 1e-6 and place.rotation[2, 2] > 0  # level, and the right way up
    profile = load_profile(robot).cameras[0]
    assert "/" + sensor.findtext("topic") == profile.topic
    assert float(sensor.findtext("update_rate")) == profile.rate
    size = int(sensor.findtext("camera/image/width")), int(sensor.findtext("camera/image/height"))
    assert size == (profile.width, profile.height)
    assert float(sensor.findtext("camera/horizontal_fov")) == pytest.approx(np.radians(said.fovy))  # square


def test_another_seed_moves_the_things_and_nothing_else_does(tmp_path: Path) -> None:
    first, again, other = (write(tmp_path / str(number), seed=seed) for number, seed in enumerate((3, 3, 4)))
    assert first.world.read_text() == again.world.read_text()
    assert first.world.read_text() != other.world.read_text()
    assert first.robot.read_text().replace(str(tmp_path / "0"), "") == other.robot.read_text().replace(
        str(tmp_path / "2"), ""
    )


def test_the_robot_is_the_profiles(files: GazeboFiles, robot: str) -> None:
    profile, text = load_profile(robot), files.robot.read_text()
    check_description(profile, text)
    model = pinocchio.buildModelFromXML(text)
    assert set(model.names) - {"universe"} == {*profile.joint_names, *FINGERS}
    assert sum(inertia.mass for inertia in model.inertias) == pytest.approx(18.0, abs=0.01)  # kg, as the makers say


def test_its_links_look_as_in_mujoco(files: GazeboFiles, robot: str) -> None:
    """MuJoCo reads the URDF with its meshes: every one lies where the scene's own has it."""
    root = ElementTree.parse(files.robot).getroot()
    meshes = list(root.iter("mesh"))
    assert len(meshes) == 9
    for mesh in meshes:
        path = Path(unquote(urlparse(mesh.get("filename")).path))
        assert path.is_file()
        mesh.set("filename", str(path))
    for number, shape in enumerate([*root.iter("visual"), *root.iter("collision")]):
        shape.set("name", f"shape{number}")
    # The meshes of links share their file names with collision meshes in another folder.
    compiler = ElementTree.SubElement(ElementTree.SubElement(root, "mujoco"), "compiler")
    compiler.attrib.update(discardvisual="false", strippath="false", fusestatic="false")
    model = mujoco.MjModel.from_xml_string(ElementTree.tostring(root, encoding="unicode"))
    data = mujoco.MjData(model)
    profile = load_profile(robot)
    for name, position in zip(profile.joint_names, profile.home, strict=True):
        data.joint(name).qpos[0] = position
    mujoco.mj_kinematics(model, data)
    scene, _ = tabletop_scene(profile, TASKS, "pick-carrot", 3)

    def places(model: mujoco.MjModel, data: mujoco.MjData) -> np.ndarray:
        shown = (model.geom_type == mujoco.mjtGeom.mjGEOM_MESH) & (model.geom_contype == 0)
        found = np.hstack([data.geom_xpos[shown], model.geom_rbound[shown, None]])
        return found[np.lexsort(found.round(4).T)]

    assert places(model, data) == pytest.approx(places(scene.model, scene.data), abs=1e-4)


def test_controllers_drive_the_joints_of_profile_and_robot(files: GazeboFiles, robot: str) -> None:
    profile, settings = load_profile(robot), yaml.safe_load(files.controllers.read_text())
    assert profile.command.topic.split("/")[1] == files.controller
    joints = settings[files.controller]["ros__parameters"]["joints"]
    assert joints == [*profile.joint_names, profile.gripper.joint]
    assert files.controller in settings["controller_manager"]["ros__parameters"]
    control = ElementTree.parse(files.robot).getroot().find("ros2_control")
    commanded = [joint.get("name") for joint in control.findall("joint") if joint.find("command_interface") is not None]
    assert commanded == joints
    starts = {joint.get("name"): float(joint.findtext("state_interface/param")) for joint in control.findall("joint")}
    assert [starts[name] for name in profile.joint_names] == pytest.approx(profile.home)
    plugin = ElementTree.parse(files.robot).getroot().find("gazebo/plugin")
    assert plugin.findtext("parameters") == str(files.controllers)


def test_the_bridge_has_every_camera_of_the_profile_and_gazebo_sends_them(files: GazeboFiles, robot: str) -> None:
    bridge = {entry["gz_topic_name"]: entry["ros_topic_name"] for entry in yaml.safe_load(files.bridge.read_text())}
    cameras = load_profile(robot).cameras
    wanted = {camera.topic for camera in cameras}
    assert {"/clock", *wanted} <= set(bridge.values())
    sensors = [*ElementTree.parse(files.world).iter("sensor"), *ElementTree.parse(files.robot).iter("sensor")]
    assert {"/" + sensor.findtext("topic") for sensor in sensors} == wanted
    assert wanted <= set(bridge)
    assert {"/camera/camera_info", "/wrist_camera/camera_info"} <= set(bridge)
    frames = {"/" + sensor.findtext("topic"): sensor.findtext("camera/optical_frame_id") for sensor in sensors}
    assert frames == {camera.topic: camera.frame for camera in cameras}


@pytest.mark.parametrize(
    ("robot", "tasks", "task", "sentence"),
    [
        ("panda", "kitchen", "microwave-open", "those of the tabletop only, found those of world 'kitchen'"),
        ("panda", "tabletop", "pick-anvil", "no task 'pick-anvil'"),
        ("ur5e", "tabletop", "pick-can", "the tabletop's arm has the joints panda_joint1"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path: Path, robot: str, tasks: str, task: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        write_gazebo(tmp_path / "files", load_profile(robot), load_tasks(tasks), task, 0)
    assert not (tmp_path / "files").exists()
