"""Whether the robot on the graph is the one of the profile, before anything moves."""

from __future__ import annotations

import time
from typing import Any, Protocol

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage
from std_msgs.msg import String

from irevla_policy.errors import UserError
from irevla_policy.recording.images import SAME_AS, decode_compressed
from irevla_policy.recording.topics import RECORDERS
from irevla_policy.robot import camera_check
from irevla_policy.robot.controller_check import controller_of, controller_problem
from irevla_policy.robot.description import check_description
from irevla_policy.robot.profile import RobotProfile
from irevla_policy.ros import qos
from irevla_policy.ros.messages import image_topics

_TOPIC = "/robot_description"
_ASK_SECONDS = 0.5
"""How often a controller manager is asked."""


def check_robot(profile: RobotProfile, patience: float, transport: str | None = "raw") -> None:
    """Refuse a robot that is another, or whose controller or cameras are not what the profile promises.

    Args:
        profile: What is expected.
        patience: Longest wait for any of them, s. A controller may become active until then, a slow camera faster.
        transport: Of the images, `raw` or `compressed`; None leaves the cameras out.

    Raises:
        UserError: The robot disagrees with the profile or does not describe itself, nobody follows its commands, or a
            camera is missing, another, or too slow; says which line of which file to change.
    """
    # A node of its own: it is spun inside a callback of another.
    node = rclpy.create_node("irevla_robot_check", start_parameter_services=False, enable_rosout=False)
    executor = SingleThreadedExecutor()
    try:
        executor.add_node(node)
        checks: list[_Check] = [
            _Description(node, profile, patience),
            _CommandTopic(node, profile, patience),
            ControllerCheck(node, profile, patience),
        ]
        if transport is not None:
            checks += [
                _Camera(node, profile, number, kind, topic, patience)
                for number, (_, kind, topic) in enumerate(image_topics(profile, transport))
            ]
        begin = time.monotonic()
        # Asked together, again and again: a driver that was there a moment ago may be gone.
        while problems := [(check, problem) for check in checks if (problem := check.problem())]:
            waited = time.monotonic() - begin
            late = [problem for check, problem in problems if waited > check.patience]
            if late:
                raise UserError(late[0])
            executor.spin_once(0.1)
    finally:
        executor.shutdown()
        node.destroy_node()


class _Check(Protocol):
    """Something about the robot that must become true within `patience` s."""

    patience: float

    def problem(self) -> str:
        """What is missing now; empty for nothing.

        Raises:
            UserError: Something is wrong that waiting will not change.
        """


class _Description:
    """The robot's URDF is the profile's."""

    def __init__(self, node: Node, profile: RobotProfile, patience: float) -> None:
        self.patience = patience
        self._profile = profile
        self._text = self._checked = ""
        node.create_subscription(String, _TOPIC, self._receive, qos.latched())

    def problem(self) -> str:
        if not self._text:
            return f"{_TOPIC}: nothing came within {self.patience:g} s; is robot_state_publisher running?"
        if self._text != self._checked:
            check_description(self._profile, self._text)
            self._checked = self._text
        return ""

    def _receive(self, message: String) -> None:
        self._text = message.data


class _CommandTopic:
    """Somebody listens to commands."""

    def __init__(self, node: Node, profile: RobotProfile, patience: float) -> None:
        self.patience = patience
        self._node, self._profile = node, profile

    def problem(self) -> str:
        topic = self._profile.command.topic
        listeners = {info.node_name for info in self._node.get_subscriptions_info_by_topic(topic)}
        # Nor is what begins with an underscore, as `ros2 topic echo` does.
        if any(not name.startswith("_") for name in listeners.difference(RECORDERS)):
            return ""
        place = self._profile.place("command: topic")
        return f"{place}: no controller listens to {topic}: change it there, or see `ros2 control list_controllers`"


class ControllerCheck:
    """The controller of the command topic is active, if there is a controller manager and its messages are installed.

    Args:
        node: Asks it.
        profile: Whose command topic the controller is looked for by.
        patience: How long it may take to become active, s.
    """

    def __init__(self, node: Node, profile: RobotProfile, patience: float) -> None:
        self.patience = patience
        self._profile = profile
        self._client: Any = None
        self._answer: Any = None
        self._asked = 0.0
        self._problem = ""
        namespace, controller = controller_of(profile)
        try:
            from controller_manager_msgs.srv import ListControllers
        except ImportError:
            return  # then that somebody listens to commands has to be enough
        if controller:
            self._service = f"{namespace}/controller_manager/list_controllers"
            self._client, self._request = node.create_client(ListControllers, self._service), ListControllers.Request()

    def problem(self) -> str:
        """What the last answer shows to be missing; empty for nothing."""
        if self._client is None or not self._client.service_is_ready():
            return ""
        now = time.monotonic()
        if self._answer is None:
            self._problem = f"{self._service}: no answer came within {self.patience:g} s"
        if self._answer is not None and self._answer.done():
            states = {controller.name: controller.state for controller in self._answer.result().controller}
            self._problem = controller_problem(self._profile, states)
        if self._answer is None or (self._answer.done() and now - self._asked > _ASK_SECONDS):
            self._answer, self._asked = self._client.call_async(self._request), now
        return self._problem


class _Camera:
    """A camera publishes what is promised, often enough."""

    def __init__(self, node: Node, profile: RobotProfile, number: int, kind: type, topic: str, patience: float) -> None:
        camera = profile.cameras[number]
        self._rate = camera_check.FrameRate(camera.rate)
        # Whoever comes last is measured as long as the others.
        self.patience = patience + self._rate.window
        self._profile, self._number, self._kind, self._topic = profile, number, kind, topic
        place = profile.place(f"cameras[{number}]: topic")
        self._silent = f"{place}: no images came on {topic} within {patience:g} s: is its driver running?"
        self._image = b""
        self._info: CameraInfo | None = None
        self._info_topic = profile.info_topics.get(camera.name, "")
        # Serialised: of many images only one is looked at.
        node.create_subscription(kind, topic, self._on_image, qos.sensor(), raw=True)
        if self._info_topic:
            node.create_subscription(CameraInfo, self._info_topic, self._on_info, qos.sensor())
        self._looked = self._fits = False

    def problem(self) -> str:
        if self._fits:
            return ""
        rate = self._rate.measured(time.monotonic())
        if rate is None:
            return self._silent
        if not self._looked:
            self._look()
        problem = camera_check.rate_problem(self._profile, self._number, self._topic, rate)
        self._fits = not problem
        return problem

    def _look(self) -> None:
        camera_check.check_picture(self._profile, self._number, self._topic, self._picture())
        if self._info is not None:
            found = camera_check.Calibration(self._info.width, self._info.height, _intrinsics(self._info))
            camera_check.check_calibration(self._profile, self._number, self._info_topic, found)
        self._looked = True

    def _on_image(self, serialized: bytes) -> None:
        self._image = serialized
        self._rate.on_frame(time.monotonic())

    def _on_info(self, message: CameraInfo) -> None:
        self._info = message

    def _picture(self) -> camera_check.Picture:
        """The newest image.

        Raises:
            UserError: It cannot be decoded.
        """
        message = deserialize_message(self._image, self._kind)
        frame = message.header.frame_id
        if self._kind is not CompressedImage:
            encoding = SAME_AS.get(message.encoding, message.encoding)
            return camera_check.Picture(message.width, message.height, encoding, frame)
        try:
            height, width, _ = decode_compressed(message).shape
        except UserError as error:
            place = self._profile.place(f"cameras[{self._number}]: topic")
            raise UserError(f"{place}: {self._topic}: {error}") from error
        return camera_check.Picture(width, height, "", frame)


def _intrinsics(message: CameraInfo) -> tuple[float, float, float, float]:
    """fx, fy, cx and cy of K, px."""
    fx, _, cx, _, fy, cy = (float(value) for value in message.k[:6])
    return fx, fy, cx, cy
