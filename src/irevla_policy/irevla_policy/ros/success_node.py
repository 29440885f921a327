"""`irevla_success`: watches the running episode, and labels it when a classifier sees that it has succeeded.

It looks at the newest observation whenever it is done with the one before, so that it may be slower than the cameras,
and only from the first action of an episode on: on the way home the last success may still be in the picture.
The label goes to /irevla/label_episode like a person's; whoever waits for the episode's success hears of it from the
recorder. /irevla/success_probability says what it thinks of every frame it looked at.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Float32, String

from irevla_msgs.msg import Command, EpisodeInfo
from irevla_msgs.srv import LabelEpisode
from irevla_policy.errors import UserError
from irevla_policy.recording.episode import CLASSIFIER
from irevla_policy.recording.images import decode_compressed, decode_image
from irevla_policy.robot.assembly import ObservationAssembler
from irevla_policy.robot.camera import Camera
from irevla_policy.robot.kinematics import ArmKinematics
from irevla_policy.robot.observation import Observation
from irevla_policy.robot.profile import load_profile
from irevla_policy.robot.proprioception import proprioceptive_state
from irevla_policy.ros import qos
from irevla_policy.ros.lifecycle import spin
from irevla_policy.ros.messages import image_topics, joint_positions, nanoseconds
from irevla_policy.ros.parameters import NodeSettings, SensorSettings, declare
from irevla_policy.settings import setting

_LOG_SECONDS = 2.0


@dataclass(frozen=True)
class SuccessNodeSettings(SensorSettings, NodeSettings):
    """Parameters of `irevla_success`."""

    classifier: str = setting("", "Folder of the success classifier")
    device: str = setting("cpu", "Where the model runs: cpu, cuda, cuda:1, ...")
    threads: int = setting(1, "Threads of a forward pass; 0 keeps torch's choice", at_least=0, at_most=256)
    slop: float = setting(
        0.025, "Largest difference of stamps within an observation", unit="s", at_least=0.0, at_most=1.0
    )


class SuccessNode(Node):
    """Observation -> probability of success -> label of the running episode."""

    def __init__(self) -> None:
        super().__init__("irevla_success")
        self._settings = declare(self, SuccessNodeSettings)
        self._profile = load_profile(self._settings.robot)
        self._kinematics = ArmKinematics(self._profile)
        self._assembler = ObservationAssembler(self._profile, self._settings.slop)
        self._load()
        self._watched = ""
        """The episode that was recorded last."""
        self._episode = ""
        """The same while it is recorded and has no label; empty for none."""
        self._acted = self._looking = False
        self._worker = ThreadPoolExecutor(1, "look")
        self._probability = self.create_publisher(Float32, "/irevla/success_probability", qos.event())
        self._label = self.create_client(LabelEpisode, "/irevla/label_episode")
        self.create_subscription(EpisodeInfo, "/irevla/episode_info", self._on_episode, qos.latched())
        self.create_subscription(Command, "/irevla/command", self._on_command, qos.command())
        self.create_subscription(String, "/irevla/instruction", self._on_instruction, qos.latched())
        self.create_subscription(JointState, self._profile.joint_states_topic, self._on_joints, qos.sensor(depth=10))
        cameras = {camera.name: camera for camera in self._profile.cameras}
        for name, kind, topic in image_topics(self._profile, self._settings.image_transport):
            self.create_subscription(kind, topic, self._camera_callback(cameras[name]), qos.sensor(depth=2))

    def _load(self) -> None:
        # Here, not above: torch takes seconds to import, and errors in parameters should not wait for it.
        from irevla_policy.model.checkpoint import check_fits
        from irevla_policy.model.device import require_device
        from irevla_policy.model.serving import set_up
        from irevla_policy.model.success import Streak, SuccessClassifier

        set_up(self._settings.threads, 0)
        self._classifier = SuccessClassifier.load(self._settings.classifier, require_device(self._settings.device))
        check_fits(self._settings.classifier, self._classifier.policy.robot, self._profile)
        self._streak = Streak(self._classifier.verdict)

    def close(self) -> None:
        """Finish the look that goes on."""
        self._worker.shutdown(cancel_futures=True)

    # What comes in.

    def _on_episode(self, message: EpisodeInfo) -> None:
        if message.state != EpisodeInfo.STATE_RECORDING and message.episode_id != self._watched:
            return  # an earlier one, labelled late
        self._watched = message.episode_id
        unlabelled = message.state == EpisodeInfo.STATE_RECORDING and message.success == EpisodeInfo.SUCCESS_UNKNOWN
        episode = message.episode_id if unlabelled else ""
        if episode != self._episode:
            self._assembler.forget()
            self._episode, self._acted = episode, False

    def _on_command(self, message: Command) -> None:
        # Neither a hold nor what brings the arm home carries an action.
        self._acted = self._acted or (bool(self._episode) and len(message.values) > 0)

    def _on_instruction(self, message: String) -> None:
        self._look(self._assembler.set_instruction(message.data))

    def _on_joints(self, message: JointState) -> None:
        try:
            positions, gripper = joint_positions(message, self._profile)
            stamp = nanoseconds(message.header.stamp) or int(self.get_clock().now().nanoseconds)
            self._look(self._assembler.add_joint_states(stamp, positions, gripper))
        except UserError as error:
            self._complain(str(error))

    def _camera_callback(self, camera: Camera) -> Any:
        decode = decode_image if self._settings.image_transport == "raw" else decode_compressed

        def on_image(message: Any) -> None:
            if not self._episode:
                return
            try:
                stamp = nanoseconds(message.header.stamp)
                self._look(self._assembler.add_image(camera.name, stamp, decode(message, camera)))
            except UserError as error:
                self._complain(str(error))

        return on_image

    # What it makes of it.

    def _look(self, observation: Observation | None) -> None:
        if observation is None or not self._acted or not self._episode or self._looking:
            return
        self._looking = True
        self._worker.submit(self._judge, observation, self._episode)

    def _judge(self, observation: Observation, episode: str) -> None:
        """In the thread that looks."""
        try:
            state = proprioceptive_state(
                self._profile, self._kinematics, observation.joint_positions, observation.gripper
            )
            probability = float(self._classifier.probability([observation], state[None])[0])
            self._probability.publish(Float32(data=probability))
            if self._streak.add(episode, probability):
                self._say(episode, probability)
        except Exception as error:
            self._complain(f"the classifier failed on an observation: {type(error).__name__}: {error}")
        finally:
            self._looking = False

    def _say(self, episode: str, probability: float) -> None:
        if not self._label.service_is_ready():
            self._complain("/irevla/label_episode: nobody takes labels; is irevla_recorder running?")
            return
        if episode != self._episode:
            return  # it has ended meanwhile, and whoever ended it has said how
        self._episode = ""
        request = LabelEpisode.Request(episode_id=episode, success=EpisodeInfo.SUCCESS_YES, labelled_by=CLASSIFIER)
        answer = self._label.call_async(request)
        answer.add_done_callback(lambda done: self._on_labelled(episode, probability, done.result()))

    def _on_labelled(self, episode: str, probability: float, answer: LabelEpisode.Response) -> None:
        if answer.accepted:
            self.get_logger().info(f"{episode}: succeeded, as it looks (probability {probability:.2f})")
        else:
            self._complain(f"{episode}: its label was refused: {answer.message}")

    def _complain(self, sentence: str) -> None:
        self.get_logger().error(sentence, throttle_duration_sec=_LOG_SECONDS)


def main(args: list[str] | None = None) -> None:
    """Run the node until SIGINT."""
    spin(SuccessNode, args)


if __name__ == "__main__":
    main()
