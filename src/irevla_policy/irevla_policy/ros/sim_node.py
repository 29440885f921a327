"""`irevla_sim`: a simulated arm that looks like one with drivers and a joint trajectory controller.

Publishes camera images and calibrations, joint states and, in lock-step, the clock; follows the profile's command
topic; serves /irevla/reset. In lock-step the world advances only on the command whose stamp is that of its last
observation, and its time is its own, going on over resets. In real time it follows the wall clock.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from concurrent.futures import TimeoutError as LateError
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rclpy.duration import Duration
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from sensor_msgs.msg import JointState as JointStateMessage
from std_msgs.msg import Float64MultiArray, String
from trajectory_msgs.msg import JointTrajectory

from irevla_msgs.msg import StepInfo
from irevla_msgs.srv import ResetWorld
from irevla_policy.errors import UserError
from irevla_policy.robot.camera import Intrinsics
from irevla_policy.robot.observation import UInt8Image, Vector
from irevla_policy.robot.profile import RobotProfile, load_profile
from irevla_policy.ros import qos
from irevla_policy.ros.lifecycle import spin
from irevla_policy.ros.messages import (
    camera_info_message,
    floats,
    image_message,
    joint_state_message,
    nanoseconds,
    time_message,
)
from irevla_policy.ros.parameters import NodeSettings, declare
from irevla_policy.ros.sim_drivers import LockStepDriver, Reset, Started, WorldThread
from irevla_policy.settings import SettingsError, setting
from irevla_policy.sim.controller import CommandError, Trajectory
from irevla_policy.sim.disturbance import DisturbanceSettings
from irevla_policy.sim.gl import require_gl
from irevla_policy.sim.tasks import METAWORLD, WORLDS, load_tasks
from irevla_policy.sim.world import WorldError

if TYPE_CHECKING:
    from irevla_policy.sim.simulated import SimulatedWorld

_RESET_SECONDS = 60.0
_RECEIPT_SECONDS = 0.2
"""Longest wait for the receipt of an instruction; a process that was killed never sends one."""
_LOG_SECONDS = 2.0


@dataclass(frozen=True)
class SimSettings(NodeSettings):
    """Parameters of `irevla_sim`."""

    world: str = setting(METAWORLD, "Simulated world", choices=WORLDS)
    task: str = setting("", "Task of the first episode; empty for the world's choice")
    variation: str = setting("", "Variation of the first episode; empty for the task as it is")
    seed: int = setting(0, "Seed of the first episode; -1 draws one", at_least=-1)
    max_steps: int = setting(0, "Decisions until an episode is given up; 0 for the task file's number", at_least=0)
    camera: str = setting(
        "", "Camera of the scene that the profile's first camera shows; empty for the one of its name"
    )
    camera_rate: float = setting(0.0, "Frames a second in real time; 0 for the profile's", unit="Hz", at_least=0.0)
    image_width: int = setting(0, "Width of all images; 0 for the profile's", unit="px", at_least=0, at_most=4096)
    image_height: int = setting(0, "Height of all images; 0 for the profile's", unit="px", at_least=0, at_most=4096)
    disturbance: DisturbanceSettings = setting(
        factory=DisturbanceSettings, doc="What the sensors get wrong; what is not 0 replaces the task file's"
    )


class SimNode(Node):
    """The ROS interface of a simulated world; the drivers make it go on."""

    runs_on_events = True

    def __init__(self) -> None:
        super().__init__("irevla_sim")
        settings = declare(self, SimSettings)
        self._profile = _seen_as(load_profile(settings.robot), settings)
        self._lock_step = settings.lock_step
        tasks = load_tasks(settings.world)
        asked = {name: value for name, value in vars(settings.disturbance).items() if value}
        self._tasks = replace(tasks, disturbance=replace(tasks.disturbance, **asked))
        self._task = settings.task or self._tasks.first_task
        self._ended = False
        self._make_publishers()
        self._driver = self._make_driver(settings)
        self._driver.start()
        self._start(Reset(self._task, settings.variation, settings.seed))
        self.create_service(ResetWorld, "/irevla/reset", self._reset)
        self._subscribe()
        self.create_timer(1.0, self._watch)

    def close(self) -> None:
        """Stop the world and give its renderers back."""
        self._driver.close()

    def _make_publishers(self) -> None:
        profile, sensor = self._profile, qos.sensor(self._lock_step)
        self._images = {camera.name: self.create_publisher(Image, camera.topic, sensor) for camera in profile.cameras}
        self._infos = {name: self.create_publisher(CameraInfo, t, sensor) for name, t in profile.info_topics.items()}
        self._joint_states = self.create_publisher(JointStateMessage, profile.joint_states_topic, sensor)
        self._step_info = self.create_publisher(StepInfo, "/irevla/step_info", sensor)
        self._instruction = self.create_publisher(String, "/irevla/instruction", qos.latched())
        self._clock_topic = self.create_publisher(Clock, "/clock", qos.event()) if self._lock_step else None

    def _make_driver(self, settings: SimSettings) -> WorldThread[Any]:
        # Here, not above: without a GL library MuJoCo cannot even be imported.
        require_gl()
        from irevla_policy.ros.sim_real_time import RealTimeDriver
        from irevla_policy.sim.worlds import make_world

        profile, tasks, most = self._profile, self._tasks, settings.max_steps or None
        views = {profile.cameras[0].name: settings.camera} if settings.camera else {}

        def world(images: bool) -> Callable[[], SimulatedWorld]:
            return lambda: make_world(profile, tasks, max_steps=most, images=images, views=views)

        if self._lock_step:
            if profile.command.type != "trajectory_msgs/JointTrajectory":
                raise SettingsError(
                    f"robot {profile.name!r}: lock-step needs commands of type trajectory_msgs/JointTrajectory, "
                    f"which carry the stamp that they answer; command.type is {profile.command.type}"
                )
            return LockStepDriver(world(images=True), self)
        rate = settings.camera_rate or max(camera.rate for camera in profile.cameras)
        return RealTimeDriver(world(images=False), self, profile.cameras, views, rate)

    def _subscribe(self) -> None:
        command, quality = self._profile.command, qos.command(self._lock_step)
        if command.type == "trajectory_msgs/JointTrajectory":
            self.create_subscription(JointTrajectory, command.topic, self._on_trajectory, quality)
        else:
            self.create_subscription(Float64MultiArray, command.topic, self._on_positions, quality)

    def _watch(self) -> None:
        if self._driver.failure is not None:
            raise self._driver.failure

    # -- what comes in --------------------------------------------------------------------------------------------

    def _on_trajectory(self, message: JointTrajectory) -> None:
        points = [(nanoseconds(point.time_from_start) * 1e-9, point.positions) for point in message.points]
        self._command(nanoseconds(message.header.stamp), list(message.joint_names), points)

    def _on_positions(self, message: Float64MultiArray) -> None:
        names = list(self._profile.joint_names)
        if self._profile.gripper and len(message.data) == len(names) + 1:
            names.append(self._profile.gripper.joint)
        # As far ahead as the next command of the guard will be.
        self._command(0, names, [(1.0 / self._profile.guard_rate, message.data)])

    def _command(self, stamp: int, names: list[str], points: list[tuple[float, list[float]]]) -> None:
        try:
            trajectory = Trajectory.from_points(self._profile, names, points)
        except CommandError as error:
            self.error(f"{self._profile.command.topic}: {error}")
            return
        self._driver.command(stamp, trajectory)

    def _reset(self, request: ResetWorld.Request, response: ResetWorld.Response) -> ResetWorld.Response:
        task = request.task or self._task
        try:
            started = self._start(Reset(task, request.variation, request.seed))
        except UserError as error:
            response.message = str(error)
            self.get_logger().error(f"reset refused: {error}")
            return response
        response.accepted, response.seed, response.instruction = True, started.seed, started.instruction
        response.stamp = time_message(started.stamp)
        return response

    def _start(self, reset: Reset) -> Started:
        if reset.seed < -1:
            raise WorldError(f"seed: must be at least 0, or -1 to draw one, found {reset.seed}")
        seed = reset.seed if reset.seed >= 0 else random.SystemRandom().randrange(2**31)
        try:
            started = self._driver.reset(replace(reset, seed=seed)).result(_RESET_SECONDS)
        except LateError:
            raise WorldError(f"the world did not reset within {_RESET_SECONDS:g} s") from None
        self._task = reset.task
        self.get_logger().info(f"{reset.task} {reset.variation} seed {seed}: {started.instruction}")
        return started

    # -- what goes out: the drivers' Output -----------------------------------------------------------------------

    def now(self) -> int:
        """The node's clock, ns."""
        return int(self.get_clock().now().nanoseconds)

    def instruction(self, text: str) -> None:
        """Publish what to do, and let everybody receive it before the observations that it is for."""
        self._instruction.publish(String(data=text))
        self._instruction.wait_for_all_acked(Duration(nanoseconds=round(1e9 * _RECEIPT_SECONDS)))

    def clock(self, stamp: int) -> None:
        """Publish the simulated time."""
        if self._clock_topic is not None:
            self._clock_topic.publish(Clock(clock=time_message(stamp)))

    def joints(self, stamp: int, positions: Vector, velocities: Vector, gripper: float) -> None:
        """Publish joint states: the arm, then the gripper's opening."""
        message = joint_state_message(self._profile, stamp, positions, gripper)
        message.velocity = floats(velocities) + ([0.0] if self._profile.gripper else [])
        self._joint_states.publish(message)

    def step_info(self, stamp: int, world: SimulatedWorld) -> None:
        """Publish the world's account of its last step."""
        message = StepInfo(
            step=world.steps,
            reward=1.0 if world.success else 0.0,
            success=world.success,
            terminated=world.terminated,
            truncated=world.truncated,
            seed=world.seed,
            task=world.task,
            variation=world.variation,
            state=floats(world.state),
        )
        message.header.stamp = time_message(stamp)
        self._step_info.publish(message)
        ended = world.terminated or world.truncated
        if ended and not self._ended:
            how = "success" if world.terminated else "given up"
            self.get_logger().info(f"episode ended: {how} after {world.steps} steps")
        self._ended = ended

    def images(self, stamp: int, images: Mapping[str, UInt8Image], intrinsics: Mapping[str, Intrinsics]) -> None:
        """Publish the cameras' images, then their calibrations: nobody waits for these."""
        for camera in self._profile.cameras:
            self._images[camera.name].publish(image_message(images[camera.name], stamp, camera.optical_frame))
        for camera in self._profile.cameras:
            if camera.name in self._infos:
                info = camera_info_message(camera, intrinsics[camera.name], stamp, camera.optical_frame)
                self._infos[camera.name].publish(info)

    def error(self, text: str) -> None:
        """Log something that is wrong; at most once in 2 s."""
        self.get_logger().error(text, throttle_duration_sec=_LOG_SECONDS)

    def warn(self, text: str) -> None:
        """Log something that should be known; at most once in 2 s."""
        self.get_logger().warning(text, throttle_duration_sec=_LOG_SECONDS)


def _seen_as(profile: RobotProfile, settings: SimSettings) -> RobotProfile:
    """The profile with the image sizes that the parameters ask for."""
    cameras = tuple(
        replace(
            camera,
            width=settings.image_width or camera.width,
            height=settings.image_height or camera.height,
        )
        for camera in profile.cameras
    )
    return replace(profile, cameras=cameras)


def main(args: list[str] | None = None) -> None:
    """Run the node until SIGINT."""
    spin(SimNode, args)


if __name__ == "__main__":
    main()
