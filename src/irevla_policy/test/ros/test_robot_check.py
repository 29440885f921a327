"""The robot on the graph against its profile: cameras and controllers that are others than promised."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import rclpy
from rclpy.publisher import Publisher
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from irevla_policy.errors import UserError
from irevla_policy.recording.images import encode_compressed
from irevla_policy.robot.camera import Intrinsics
from irevla_policy.robot.profile import RobotProfile, load_profile
from irevla_policy.ros import qos
from irevla_policy.ros.messages import camera_info_message
from irevla_policy.ros.robot_check import ControllerCheck, check_robot

sys.path.insert(0, str(Path(__file__).parent))
from sim_client import process
from stand_in_robot import PROFILE, StandInRobot

CAMERA = PROFILE.cameras[0]
LENS = Intrinsics(100.0, 100.0, 47.5, 47.5)


@pytest.fixture(scope="module")
def graph() -> Iterator[StandInRobot]:
    robot = StandInRobot()
    rclpy.init(domain_id=robot.domain)
    # As in the guard, whose node knows the graph already when the check begins.
    guard = rclpy.create_node("guard")
    try:
        yield robot
    finally:
        guard.destroy_node()
        rclpy.shutdown()
        robot.close()


@pytest.fixture(scope="module", autouse=True)
def described(graph: StandInRobot) -> Publisher:
    """Publishes what the robot is."""
    publisher = graph.node.create_publisher(String, "/robot_description", qos.latched())
    publisher.publish(String(data=PROFILE.urdf_path.read_text()))
    return publisher


@pytest.fixture
def robot(graph: StandInRobot) -> Iterator[StandInRobot]:
    yield graph
    graph.camera, graph.camera_every = True, 5
    graph.change_image = lambda message: None


def own_profile(folder: Path, old: str, new: str) -> Path:
    """A copy of the stand-in's profile with some text replaced."""
    text = Path(PROFILE.file).read_text().replace("urdf: sawyer.urdf", f"urdf: {PROFILE.urdf_path}")
    assert old in text
    path = folder / "own.yaml"
    path.write_text(text.replace(old, new))
    return path


@pytest.fixture(scope="module")
def promising(tmp_path_factory: pytest.TempPathFactory) -> RobotProfile:
    """The stand-in's profile with frame and intrinsics."""
    promises = "rate: 20.0,\n     frame: corner_frame,\n     intrinsics: {fx: 100.0, fy: 100.0, cx: 47.5, cy: 47.5}}"
    return load_profile(own_profile(tmp_path_factory.mktemp("profile"), "rate: 20.0}", promises))


def refused(profile: RobotProfile, transport: str = "raw") -> str:
    """The sentence with which a robot is refused."""
    with pytest.raises(UserError) as caught:
        check_robot(profile, 1.0, transport)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def as_bgr(message: Image) -> None:
    message.encoding = "bgr8"


def small(message: Image) -> None:
    message.width, message.height, message.step, message.data = 64, 48, 192, bytes(9216)


@pytest.mark.parametrize(
    ("change", "key", "sentence"),
    [
        (as_bgr, "encoding", "/camera/image_raw comes as bgr8, promised is rgb8: change it there or in the driver"),
        (small, "width", "/camera/image_raw comes with 64 x 48 px, promised is 96 x 96 px"),
    ],
)
def test_another_camera_is_refused(
    robot: StandInRobot, change: Callable[[Image], None], key: str, sentence: str
) -> None:
    robot.change_image = change
    said = refused(PROFILE)
    assert said.startswith(f"{PROFILE.file}:4: cameras[0]: {key}: {sentence}")


def test_the_robot_of_the_profile_passes(robot: StandInRobot) -> None:
    began = time.monotonic()
    check_robot(PROFILE, 5.0)
    assert 1.0 <= time.monotonic() - began < 4.0


def test_a_slow_camera_is_refused_once_it_had_its_time(robot: StandInRobot) -> None:
    robot.camera_every = 10
    said = refused(PROFILE)
    head, _, rest = said.partition(" comes at ")
    assert head == f"{PROFILE.file}:4: cameras[0]: rate: /camera/image_raw"
    assert float(rest.split()[0]) == pytest.approx(10.0, abs=1.5)
    assert rest.endswith("Hz, promised are 20 Hz: lower it there or raise the driver's")


def test_a_camera_that_is_slow_at_first_passes(robot: StandInRobot) -> None:
    robot.camera_every = 20
    frames = []

    def count(message: Image) -> None:
        frames.append(message)
        if len(frames) > 8:  # 1.6 s: a whole window was too slow
            robot.camera_every = 5

    robot.change_image = count
    check_robot(PROFILE, 5.0)
    assert len(frames) > 8


def test_a_silent_camera_is_refused(robot: StandInRobot) -> None:
    robot.camera = False
    said = refused(PROFILE)
    assert said == (
        f"{PROFILE.file}:4: cameras[0]: topic: no images came on /camera/image_raw within 1 s: is its driver running?"
    )


def test_lock_step_leaves_the_cameras_out(robot: StandInRobot) -> None:
    robot.camera = False
    check_robot(PROFILE, 2.0, None)


@pytest.mark.parametrize(
    ("frame", "lens", "line", "sentence"),
    [
        ("corner_frame", LENS, 0, ""),
        ("corner_frame", None, 0, ""),  # a driver without calibration
        ("other", LENS, 5, "cameras[0]: frame: /camera/image_raw comes from frame 'other', promised is 'corner_frame'"),
        (
            "corner_frame",
            Intrinsics(120.0, 100.0, 47.5, 47.5),
            6,
            "cameras[0]: intrinsics: /camera/camera_info says fx 120.00 px, promised are 100 px, give or take 1.92",
        ),
    ],
    ids=["as promised", "no calibration", "another frame", "another lens"],
)
def test_frame_and_calibration_are_compared(
    robot: StandInRobot,
    promising: RobotProfile,
    frame: str,
    lens: Intrinsics | None,
    line: int,
    sentence: str,
) -> None:
    infos = robot.node.create_publisher(CameraInfo, "/camera/camera_info", qos.sensor())

    def publish(message: Image) -> None:
        message.header.frame_id = frame
        if lens is not None:
            infos.publish(camera_info_message(CAMERA, lens, 0, frame))

    robot.change_image = publish
    if sentence:
        assert refused(promising).startswith(f"{promising.file}:{line}: {sentence}")
    else:
        check_robot(promising, 5.0)


def test_compressed_images_are_looked_at_where_they_are_used(robot: StandInRobot) -> None:
    said = refused(PROFILE, "compressed")
    assert "cameras[0]: topic: no images came on /camera/image_raw/compressed within 1 s" in said
    publisher = robot.node.create_publisher(CompressedImage, "/camera/image_raw/compressed", qos.sensor())
    size = [96, 96]

    def publish(message: Image) -> None:
        data = encode_compressed(np.zeros((*size, 3), np.uint8))
        publisher.publish(CompressedImage(header=message.header, format="rgb8; jpeg compressed bgr8", data=data))

    robot.change_image = publish
    check_robot(PROFILE, 5.0, "compressed")
    size[:] = 48, 64
    said = refused(PROFILE, "compressed")
    assert "cameras[0]: width: /camera/image_raw/compressed comes with 64 x 48 px, promised is 96 x 96 px" in said


def test_a_topic_without_a_controller_is_refused_with_the_line(robot: StandInRobot, tmp_path: Path) -> None:
    path = own_profile(tmp_path, "/joint_trajectory_controller/", "/other_controller/")
    lines = path.read_text().splitlines()
    line = next(number for number, text in enumerate(lines, start=1) if text.startswith("command:"))
    assert refused(load_profile(path)).startswith(
        f"{path}:{line}: command: topic: no controller listens to /other_controller/joint_trajectory: change it there"
    )


def test_a_recorder_is_no_controller(robot: StandInRobot, tmp_path: Path) -> None:
    path = own_profile(tmp_path, "/joint_trajectory_controller/", "/other_controller/")
    recorder = rclpy.create_node("irevla_recorder", context=robot.context)
    recorder.create_subscription(
        JointTrajectory, "/other_controller/joint_trajectory", lambda message: None, qos.recorded()
    )
    try:
        assert "no controller listens to /other_controller/joint_trajectory" in refused(load_profile(path))
    finally:
        recorder.destroy_node()


class Manager:
    """A node with a client of a controller manager, which answers with the states that it is given."""

    def __init__(self, ready: bool = True, **states: str) -> None:
        self.ready, self.states = ready, states
        self.service = ""
        self.asked = 0

    def create_client(self, kind: type, service: str) -> Manager:
        self.service = service
        return self

    def service_is_ready(self) -> bool:
        return self.ready

    def call_async(self, request: object) -> Future[SimpleNamespace]:
        self.asked += 1
        answer: Future[SimpleNamespace] = Future()
        controllers = [SimpleNamespace(name=name, state=state, type="") for name, state in self.states.items()]
        answer.set_result(SimpleNamespace(controller=controllers))
        return answer


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The messages of ros2_control, as far as they are used."""
    services = ModuleType("controller_manager_msgs.srv")
    services.ListControllers = SimpleNamespace(Request=SimpleNamespace)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "controller_manager_msgs", ModuleType("controller_manager_msgs"))
    monkeypatch.setitem(sys.modules, "controller_manager_msgs.srv", services)


@pytest.mark.usefixtures("installed")
def test_a_controller_is_waited_for_until_it_is_active() -> None:
    manager = Manager(joint_trajectory_controller="inactive")
    check = ControllerCheck(manager, PROFILE, 5.0)  # type: ignore[arg-type]
    assert manager.service == "/controller_manager/list_controllers"
    assert "no answer came" in check.problem()
    assert "`ros2 control switch_controllers --activate joint_trajectory_controller`" in check.problem()
    manager.states["joint_trajectory_controller"] = "active"
    deadline = time.monotonic() + 3.0
    while check.problem():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert manager.asked == 2


@pytest.mark.usefixtures("installed")
def test_without_a_controller_manager_nothing_is_asked() -> None:
    manager = Manager(ready=False)
    assert ControllerCheck(manager, PROFILE, 5.0).problem() == ""  # type: ignore[arg-type]
    assert manager.asked == 0


def test_without_its_messages_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "controller_manager_msgs", None)
    manager = Manager(joint_trajectory_controller="inactive")
    assert ControllerCheck(manager, PROFILE, 5.0).problem() == ""  # type: ignore[arg-type]
    assert manager.service == ""


def test_the_simulated_arm_passes_as_a_physical_one(robot: StandInRobot, described: Publisher, tmp_path: Path) -> None:
    panda = load_profile("panda")
    described.publish(String(data=panda.urdf_path.read_text()))
    robot.camera = False  # its images would be among those of the simulator
    try:
        with process("sim_node", tmp_path, robot="panda", world="tabletop", task="pick-can", seed=0):
            check_robot(panda, 30.0)
    finally:
        described.publish(String(data=PROFILE.urdf_path.read_text()))
