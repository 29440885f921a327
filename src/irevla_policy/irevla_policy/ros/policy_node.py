"""`irevla_policy`: runs the model on every complete observation and proposes an action.

The model runs in a thread of its own; messages are served meanwhile. In real time a policy that decides a chunk of
actions computes the next one while the robot carries one out.

A checkpoint is loaded in the background, tried, and swapped in between two observations; one that cannot be loaded
leaves the old policy serving.

Configure loads the checkpoint, activate begins to propose, deactivate stops (the guard then holds the robot).
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.task import Future
from sensor_msgs.msg import JointState
from std_msgs.msg import String

from irevla_msgs.msg import Action, Command
from irevla_msgs.srv import LoadPolicy, RollbackPolicy
from irevla_policy.errors import RunError, UserError
from irevla_policy.recording.images import decode_compressed, decode_image
from irevla_policy.robot.assembly import ObservationAssembler
from irevla_policy.robot.camera import Camera
from irevla_policy.robot.decision import Source
from irevla_policy.robot.kinematics import ArmKinematics
from irevla_policy.robot.observation import Observation
from irevla_policy.robot.pilot import Flown, Pilot
from irevla_policy.robot.profile import load_profile
from irevla_policy.ros import qos
from irevla_policy.ros.guard_messages import action_message, diagnostics
from irevla_policy.ros.lifecycle import autostart, settle_memory, spin
from irevla_policy.ros.messages import image_topics, joint_positions, nanoseconds
from irevla_policy.ros.model_thread import ModelThread
from irevla_policy.ros.parameters import LifecycleSettings, SensorSettings, declare
from irevla_policy.settings import setting

# How long the end of the process waits for a forward pass.
_LAST_FORWARD_SECONDS = 0.5


@dataclass(frozen=True)
class PolicySettings(SensorSettings, LifecycleSettings):
    """Parameters of the policy node."""

    checkpoint: str = setting("", "Folder of the checkpoint; empty waits for /irevla/load_policy")
    device: str = setting("cpu", "Where the model runs: cpu, cuda, cuda:1, ...")
    threads: int = setting(0, "Threads of a forward pass; 0 keeps torch's choice", at_least=0, at_most=256)
    seed: int = setting(0, "Seed of policies that draw numbers", at_least=0)
    slop: float = setting(
        0.025, "Largest difference of stamps within an observation, in real time", unit="s", at_least=0.0, at_most=1.0
    )
    blend: int = setting(
        2,
        "How long a chunk of actions goes over into the next, in real time; 0 switches at once",
        unit="control periods",
        at_least=0,
        at_most=255,
    )


class PolicyNode(LifecycleNode):
    """Observation -> model -> /irevla/action."""

    def __init__(self) -> None:
        super().__init__("irevla_policy")
        self._settings = declare(self, PolicySettings)
        self._profile = load_profile(self._settings.robot)
        self._lock_step = self._settings.lock_step
        self._assembler = ObservationAssembler(self._profile, 0.0 if self._lock_step else self._settings.slop)
        self._model = ModelThread(
            Pilot(self._profile, ArmKinematics(self._profile), self._settings.blend),
            self._propose,
            self._on_model_failure,
            self._on_gap,
            self._lock_step,
            self._profile,
        )
        self._loading = threading.Lock()
        self._active = False
        self._last_action: Action | None = None
        self._observations = self._actions = self._gaps = 0
        self._forward: deque[float] = deque(maxlen=200)
        self._error = ""
        self._error_at = -1e9
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.event())
        # A group of its own: while it waits for the checkpoint the others, observations above all, go on.
        group = MutuallyExclusiveCallbackGroup()
        self.create_service(LoadPolicy, "/irevla/load_policy", self._on_load, callback_group=group)
        self.create_service(RollbackPolicy, "/irevla/rollback_policy", self._on_roll_back)
        self.create_timer(1.0, self._report)
        if self._settings.autostart:
            autostart(self)

    # Life cycle.

    def on_configure(self, _state: LifecycleState) -> TransitionCallbackReturn:
        """Load the checkpoint; make publishers and subscriptions."""
        if self._settings.checkpoint:
            try:
                self._load(self._settings.checkpoint)
            except (UserError, RunError) as error:
                self.get_logger().error(str(error))
                return TransitionCallbackReturn.FAILURE
        profile, lock_step = self._profile, self._lock_step
        self._publisher = self.create_publisher(Action, "/irevla/action", qos.command(lock_step))
        self._inputs = [
            self.create_subscription(
                JointState, profile.joint_states_topic, self._on_joint_states, qos.sensor(lock_step, depth=10)
            ),
            self.create_subscription(String, "/irevla/instruction", self._on_instruction, qos.latched()),
            self.create_subscription(Command, "/irevla/command", self._on_command, qos.command(lock_step)),
        ]
        cameras = {camera.name: camera for camera in profile.cameras}
        self._inputs += [
            self.create_subscription(kind, topic, self._camera_callback(cameras[name]), qos.sensor(lock_step, depth=2))
            for name, kind, topic in image_topics(profile, self._settings.image_transport)
        ]
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Begin to propose."""
        self._assembler.forget()
        self._model.start()
        self._active = True
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Propose nothing any more."""
        self._active = False
        self._model.stop()
        return super().on_deactivate(state)

    def on_cleanup(self, _state: LifecycleState) -> TransitionCallbackReturn:
        """Give publishers and subscriptions back."""
        for subscription in self._inputs:
            self.destroy_subscription(subscription)
        self.destroy_publisher(self._publisher)
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, _state: LifecycleState) -> TransitionCallbackReturn:
        """As deactivate."""
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> None:
        """Stop the model before the process ends."""
        self._active = False
        self._model.stop(_LAST_FORWARD_SECONDS)

    # What comes in.

    def _camera_callback(self, camera: Camera) -> Callable[[Any], None]:
        decode = decode_image if self._settings.image_transport == "raw" else decode_compressed

        def on_image(message: Any) -> None:
            stamp = nanoseconds(message.header.stamp)
            if not self._active or self._is_repeated(stamp):
                return
            try:
                image = decode(message, camera)
                self._observe(self._assembler.add_image(camera.name, stamp, image, self._now_or_none()))
            except UserError as error:
                self._complain(str(error))

        return on_image

    def _on_joint_states(self, message: JointState) -> None:
        if not self._active:
            return
        try:
            positions, gripper = joint_positions(message, self._profile)
            # Drivers that do not stamp are judged by the arrival.
            stamp = nanoseconds(message.header.stamp) or self._ros_now()
            self._observe(self._assembler.add_joint_states(stamp, positions, gripper, self._now_or_none()))
        except UserError as error:
            self._complain(str(error))

    def _on_instruction(self, message: String) -> None:
        observation = self._assembler.set_instruction(message.data)
        if self._active:
            self._observe(observation)

    def _on_command(self, message: Command) -> None:
        if message.source in set(Source):
            self._model.on_command(nanoseconds(message.header.stamp), Source(message.source))

    def _observe(self, observation: Observation | None) -> None:
        if observation is not None:
            self._observations += 1
            self._model.observe(observation)

    def _is_repeated(self, stamp: int) -> bool:
        """Whether a world that waits repeats an observation that was answered; then the answer is repeated."""
        action = self._last_action
        if not self._lock_step or action is None or nanoseconds(action.header.stamp) != stamp:
            return False
        self._publisher.publish(action)
        return True

    # What goes out.

    def _propose(self, flown: Flown) -> None:
        message = action_message(flown.proposal, flown.forward_seconds)
        self._last_action = message
        self._publisher.publish(message)
        self._actions += 1
        if flown.forward_seconds:
            self._forward.append(flown.forward_seconds)
        if flown.problem:
            self._complain(flown.problem)

    def _on_model_failure(self, error: Exception) -> None:
        self._complain(f"an action could not be published: {type(error).__name__}: {error}")

    def _on_gap(self, sentence: str) -> None:
        self._gaps += 1
        if self._is_due(sentence):
            self.get_logger().warning(sentence)

    def _report(self) -> None:
        served, now = self._model.served, time.monotonic()
        problem = self._error if now - self._error_at < 2.0 else ""
        if not problem and served is None:
            problem = "no policy: load a checkpoint with /irevla/load_policy"
        forward = np.array(self._forward) if self._forward else np.zeros(1)
        figures = {
            "policy_version": served.version if served else "",
            "checkpoint": served.folder if served else "",
            "instruction": self._assembler.instruction,
            "observations": str(self._observations),
            "actions": str(self._actions),
            "observations_replaced": str(self._model.replaced),
            "observations_between_chunks": str(self._gaps),
            "forward_p50_ms": f"{1e3 * np.percentile(forward, 50):.2f}",
            "forward_p99_ms": f"{1e3 * np.percentile(forward, 99):.2f}",
        }
        level = DiagnosticStatus.WARN if problem else DiagnosticStatus.OK
        text = problem or ("active" if self._active else "inactive")
        self._diagnostics.publish(diagnostics("irevla_policy", level, text, figures, self._ros_now()))

    # Another policy.

    def _load(self, folder: str) -> None:
        """Load a checkpoint and serve it, unless the policy that it was to replace does not serve any more."""
        # Here, not above: torch takes seconds to import, and errors in parameters should not wait for it.
        from irevla_policy.model import serving

        serving.set_up(self._settings.threads, self._settings.seed)
        present = self._model.served
        served = serving.load_for_serving(
            folder, self._profile, self._settings.device, present, self._model.wait_for_gap
        )
        if present is None:
            settle_memory()
        if not self._model.serve(served, present):
            chosen = self._model.served
            raise RunError(
                f"{folder}: not served: while it was loaded {chosen.version if chosen else 'none'} was chosen"
            )

    async def _on_load(self, request: LoadPolicy.Request, response: LoadPolicy.Response) -> LoadPolicy.Response:
        finished: Future = Future()

        def load() -> None:
            problem = ""
            with self._loading:
                try:
                    self._load(os.path.abspath(request.path))
                except Exception as error:
                    known = isinstance(error, (UserError, RunError))
                    problem = str(error) if known else f"{request.path}: {type(error).__name__}: {error}"
            finished.set_result(problem)

        threading.Thread(target=load, name="load_policy", daemon=True).start()
        problem = await finished
        served = self._model.served
        response.accepted = not problem
        response.policy_version = served.version if served else ""
        response.message = problem or f"serves {response.policy_version} from the next observation on"
        if problem:
            self.get_logger().error(f"load_policy refused: {problem}")
        else:
            self.get_logger().info(f"load_policy: {response.message} ({request.path})")
        return response

    def _on_roll_back(self, _: RollbackPolicy.Request, response: RollbackPolicy.Response) -> RollbackPolicy.Response:
        served = self._model.roll_back()
        present = self._model.served
        response.accepted = served is not None
        response.policy_version = present.version if present else ""
        response.message = (
            f"serves {response.policy_version} from the next observation on" if served else "no policy served before"
        )
        return response

    # Clock and errors.

    def _ros_now(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    def _now_or_none(self) -> int | None:
        """Present time to find stamps from the future; the simulated time of lock-step says nothing about that."""
        return None if self._lock_step else self._ros_now()

    def _complain(self, sentence: str) -> None:
        """Log an error, at most once a second."""
        if self._is_due(sentence):
            self.get_logger().error(sentence)

    def _is_due(self, sentence: str) -> bool:
        """Whether a second has passed since the last complaint; then this one goes to the diagnostics too."""
        now = time.monotonic()
        if now - self._error_at < 1.0:
            return False
        self._error, self._error_at = sentence, now
        return True


def main(args: list[str] | None = None) -> None:
    """Run the policy node."""
    spin(PolicyNode, args)


if __name__ == "__main__":
    main()
