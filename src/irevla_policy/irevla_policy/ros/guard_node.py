"""`irevla_guard`: the only publisher of the command topic (a process of its own, without torch).

In real time a thread of its own ticks at the profile's `guard_rate` on the steady clock, so that the robot is held
within one tick after a watchdog's timeout however busy or dead the policy is. In lock-step every action is answered at
once, and nothing is timed.

Topics of the robot (cameras, joint states, command) come from the robot profile. Configure makes the buffers, activate
begins to publish and to watch, deactivate brakes to rest and then publishes nothing.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from sensor_msgs.msg import JointState
from std_msgs.msg import Empty, String
from std_srvs.srv import Trigger

from irevla_msgs.msg import Action, PolicyStatus
from irevla_policy.errors import UserError
from irevla_policy.graph.ending import KILL_AFTER, TERMINATE_AFTER
from irevla_policy.robot.decision import Decision, Source, State, Status
from irevla_policy.robot.guard import GuardCore
from irevla_policy.robot.interlocks import GuardTimes
from irevla_policy.robot.kinematics import ArmKinematics
from irevla_policy.robot.lockstep import LockStepGuard
from irevla_policy.robot.observation import ObservationError
from irevla_policy.robot.profile import load_profile
from irevla_policy.robot.scene import MeasuredScene
from irevla_policy.ros import qos
from irevla_policy.ros.command_output import CommandOutput
from irevla_policy.ros.guard_messages import guard_diagnostics, proposal_of, status_message
from irevla_policy.ros.lifecycle import autostart, end_process, spin
from irevla_policy.ros.messages import (
    header_stamp,
    image_topics,
    joint_positions,
    nanoseconds,
)
from irevla_policy.ros.moveit import SceneSettings, scene
from irevla_policy.ros.parameters import LifecycleSettings, SensorSettings, declare
from irevla_policy.ros.robot_check import check_robot
from irevla_policy.ros.ticker import Ticker
from irevla_policy.settings import setting

# A thread waits for the interpreter's lock at most this long, s: the default of 5 ms is half a tick.
_SWITCH_INTERVAL = 0.0005
# What deactivation waits for the arm to brake beyond the time that it needs at most, s.
_BRAKING_MARGIN = 0.5


@dataclass(frozen=True)
class GuardSettings(SceneSettings, SensorSettings, LifecycleSettings):
    """Parameters of the guard."""

    intervention_timeout: float = setting(
        0.25,
        "How long an intervention overrides the policy; one and a half control periods at least",
        unit="s",
        above=0.0,
        at_most=10.0,
    )
    heartbeat_timeout: float = setting(
        0.15, "Oldest operator's heartbeat when the profile requires one", unit="s", above=0.0, at_most=10.0
    )
    rearm_tolerance: float = setting(
        0.1, "Measured minus commanded joints after which a hold ends at the measured state", unit="rad", above=0.0
    )
    displacement_tolerance: float = setting(
        0.5,
        "The same while the robot moves: it brakes and starts again from the measured state; from there on an arm that "
        "holds is held where it was pushed",
        unit="rad",
        above=0.0,
    )
    check_robot: bool = setting(
        False, "Compare /robot_description, controller and cameras with the profile before anything moves"
    )
    robot_timeout: float = setting(
        5.0, "How long that waits for the robot's drivers", unit="s", above=0.0, at_most=600.0
    )
    latch: bool = setting(
        False,
        "Hold until /irevla/clear_estop for what a person must look at, also when it has passed: another publisher of "
        "commands, joint states that cannot be used, an arm that does not follow",
    )
    check_collisions: bool = setting(
        False, "Check every command, and the braking after it, for collisions; moveit says by what"
    )
    dry_run: bool = setting(False, "Decide and record everything, but send nothing to the robot")
    nice: int = setting(0, "Scheduling priority; below 0 needs the right to it", at_least=-20, at_most=19)


class GuardNode(LifecycleNode):
    """Limits, watchdogs, interventions and the software E-stop."""

    def __init__(self) -> None:
        super().__init__("irevla_guard")
        self._settings = declare(self, GuardSettings)
        self._profile = load_profile(self._settings.robot)
        kinematics = ArmKinematics(self._profile)
        settings = self._settings
        times = GuardTimes(
            settings.intervention_timeout,
            settings.heartbeat_timeout,
            settings.rearm_tolerance,
            settings.displacement_tolerance,
        )
        self._lock_step = self._settings.lock_step
        self._scene = MeasuredScene(scene(self._profile, settings)) if settings.check_collisions else None
        self._answerer = LockStepGuard(self._profile, kinematics, times, self._scene) if self._lock_step else None
        self._core = (
            self._answerer.core
            if self._answerer
            else GuardCore(self._profile, kinematics, times, latches=settings.latch, scene=self._scene)
        )
        self._guarding = threading.Lock()
        self._ticker = Ticker(1.0 / self._profile.guard_rate, self._on_tick, self._on_failure)
        self._active = False
        self._said: tuple[object, ...] = ()
        self._followed = ""
        self._warned: dict[str, float] = {}
        # The latched state of the guard is visible and the E-stop works in every state of the life cycle.
        self._status = self.create_publisher(PolicyStatus, "/irevla/policy_status", qos.latched())
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.event())
        self.create_service(Trigger, "/irevla/estop", self._on_estop)
        self.create_service(Trigger, "/irevla/clear_estop", self._on_clear_estop)
        self.create_timer(1.0, self._report)
        self._say_status()
        if self._settings.autostart:
            autostart(self)

    @property
    def runs_on_events(self) -> bool:
        """In lock-step only: in real time it takes serialized images. See `lifecycle.spin`."""
        return self._lock_step

    # Life cycle.

    def on_configure(self, _state: LifecycleState) -> TransitionCallbackReturn:
        """Make publishers and subscriptions, once the robot is known to be the profile's if that is asked for."""
        profile, lock_step = self._profile, self._lock_step
        if self._settings.check_robot:
            try:
                # In lock-step cameras wait for commands: how often they send says nothing.
                transport = None if lock_step else self._settings.image_transport
                check_robot(profile, self._settings.robot_timeout, transport)
            except UserError as error:
                self.get_logger().error(str(error))
                return TransitionCallbackReturn.FAILURE
        if profile.braking_time > TERMINATE_AFTER:
            self.get_logger().warning(
                f"{profile.place('joints')}: the arm needs up to {profile.braking_time:.1f} s to brake; irevla up ends "
                f"its processes {KILL_AFTER:g} s after Ctrl-C"
            )
        self._output = CommandOutput(self, profile, lock_step, self._ros_now, self._settings.dry_run)
        self._inputs = [
            self.create_subscription(
                JointState, profile.joint_states_topic, self._on_joint_states, qos.sensor(lock_step)
            ),
            self.create_subscription(String, "/irevla/instruction", self._on_instruction, qos.latched()),
            self.create_subscription(Action, "/irevla/action", self._on_action, qos.command(lock_step)),
            self.create_subscription(Action, "/irevla/intervention", self._on_intervention, qos.command(lock_step)),
            self.create_subscription(Empty, "/irevla/heartbeat", self._on_heartbeat, qos.event()),
        ]
        if not lock_step:
            # Only stamps are read: serialized messages spare the decoding of images.
            self._inputs += [
                self.create_subscription(kind, topic, self._camera_callback(name), qos.sensor(depth=1), raw=True)
                for name, kind, topic in image_topics(profile, self._settings.image_transport)
            ]
        else:
            # A policy's action may wait for a device that answered the observation before.
            self._polling = self.create_timer(0.02, self._poll)
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Begin to watch and to publish."""
        with self._guarding:
            self._core.activate()
            if self._answerer:
                self._answerer.forget()
            self._output.restart()
            self._active = True
            self._say_status()
        self._prepare_process()
        if not self._lock_step:
            self._ticker.start()
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Brake to rest and publish nothing any more."""
        with self._guarding:
            self._core.deactivate()
        deadline = time.monotonic() + self._profile.braking_time + _BRAKING_MARGIN
        while not self._lock_step and self._core.is_moving and time.monotonic() < deadline:
            time.sleep(0.5 / self._profile.guard_rate)
        self._ticker.stop()
        self._active = False
        self._say_status()
        return super().on_deactivate(state)

    def on_cleanup(self, _state: LifecycleState) -> TransitionCallbackReturn:
        """Give publishers and subscriptions back."""
        for subscription in self._inputs:
            self.destroy_subscription(subscription)
        if self._lock_step:
            self.destroy_timer(self._polling)
        self._output.destroy()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """As deactivate."""
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> None:
        """Brake to rest before the process ends."""
        if self._active:
            self.trigger_deactivate()

    def _prepare_process(self) -> None:
        sys.setswitchinterval(_SWITCH_INTERVAL)
        gc.collect()
        gc.freeze()
        if self._settings.nice:
            try:
                os.setpriority(os.PRIO_PROCESS, 0, self._settings.nice)
            except PermissionError:
                self.get_logger().warning(f"nice {self._settings.nice}: this user may not raise its priority")

    # What comes in.

    def _camera_callback(self, name: str) -> Callable[[bytes], None]:
        def on_image(serialized: bytes) -> None:
            try:
                stamp = header_stamp(serialized)
            except ObservationError as error:
                self._warn(f"camera {name!r}: {error}")
                return
            with self._guarding:
                self._core.on_camera(name, time.monotonic(), stamp, self._age(stamp))

        return on_image

    def _on_joint_states(self, message: JointState) -> None:
        stamp = nanoseconds(message.header.stamp)
        try:
            positions, gripper = joint_positions(message, self._profile)
        except ObservationError as error:
            self._warn(str(error))
            with self._guarding:
                self._core.on_joint_states_error(str(error))
            return
        with self._guarding:
            now = time.monotonic()
            if self._answerer is None:
                # Drivers that do not stamp are judged by the arrival.
                stamped = (stamp, self._age(stamp)) if stamp else (self._ros_now(), 0.0)
                self._core.on_joint_states(positions, gripper, now, *stamped)
            elif self._active:
                self._output.send(self._answerer.on_joint_states(positions, gripper, now, stamp))

    def _on_instruction(self, message: String) -> None:
        with self._guarding:
            self._core.on_instruction(message.data)
            if self._lock_step:
                self._say_status()

    def _on_heartbeat(self, _message: Empty) -> None:
        with self._guarding:
            self._core.on_heartbeat(time.monotonic())

    def _on_action(self, message: Action) -> None:
        self._on_proposal(message, Source.POLICY)

    def _on_intervention(self, message: Action) -> None:
        self._on_proposal(message, Source.INTERVENTION)

    def _on_proposal(self, message: Action, source: Source) -> None:
        proposal, is_policy = proposal_of(message), source is Source.POLICY
        with self._guarding:
            if not self._active:
                return
            now = time.monotonic()
            if self._answerer is not None:
                answer = self._answerer.on_action if is_policy else self._answerer.on_intervention
                self._output.send(answer(proposal, now))
                self._say_status()
                return
            receive = self._core.on_action if is_policy else self._core.on_intervention
            accepted = receive(proposal, now, self._age(proposal.stamp))
            if accepted and self._output.may_send_ahead:
                self._output.send(self._tick())

    def _on_estop(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        with self._guarding:
            response.message = self._core.estop()
            response.success = True
            self._say_status()
        self.get_logger().error(f"E-stop: {response.message}")
        return response

    def _on_clear_estop(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        with self._guarding:
            response.message = self._core.clear_estop()
            response.success = True
            self._say_status()
        self.get_logger().warning(f"E-stop: {response.message}")
        return response

    # What goes out.

    def _on_tick(self) -> None:
        with self._guarding:
            # More than once when ticks were late and what they would have sent can still be followed in time.
            while self._output.is_due and self._output.send(self._tick()):
                pass
            self._say_status()

    def _tick(self) -> Decision | None:
        decision = self._core.tick(time.monotonic())
        if self._scene is not None:
            self._scene.command_sent()
        return decision

    def _on_failure(self, error: BaseException) -> None:
        self.get_logger().fatal(f"the guard's clock failed: {error!r}; the process ends so that the robot stops")
        end_process(70)

    def _say_status(self) -> None:
        """Publish the status if it changed."""
        status = self._core.status(time.monotonic())
        codes = tuple(reason.code for reason in status.reasons)
        said = (status.state, codes, status.policy_version, status.instruction)
        if said != self._said:
            self._said = said
            self._publish_status(status)
            if codes:
                self.get_logger().info(
                    f"{status.state.name.lower()}: {'; '.join(reason.sentence for reason in status.reasons)}"
                )
            followed = "" if codes else _followed(status)
            if followed and followed != self._followed:
                self.get_logger().info(f"following the {followed}")
            self._followed = followed

    def _publish_status(self, status: Status) -> None:
        self._status.publish(status_message(status, self._ros_now()))

    def _poll(self) -> None:
        with self._guarding:
            if self._answerer is not None and self._active:
                self._output.send(self._answerer.poll(time.monotonic()))

    def _report(self) -> None:
        """Status and diagnostics, once a second; looks for others that publish the command topic."""
        others = self._output.other_publishers() if self._active else []
        with self._guarding:
            self._core.on_publishers(others)
            status = self._core.status(time.monotonic())
            # Within: the latched state would else be one before what a tick has published meanwhile.
            self._publish_status(status)
        median, worst = self._ticker.lateness()
        figures = {
            "rate_hz": f"{self._profile.guard_rate:g}",
            "ticks": str(self._ticker.ticks),
            "missed_ticks": str(self._ticker.missed),
            "tick_lateness_p50_ms": f"{1e3 * median:.3f}",
            "tick_lateness_p99_ms": f"{1e3 * worst:.3f}",
        }
        if self._scene is not None:
            median, worst = self._scene.cost()
            figures |= {
                "collision_check_p50_ms": f"{1e3 * median:.3f}",
                "collision_check_p99_ms": f"{1e3 * worst:.3f}",
            }
        self._diagnostics.publish(guard_diagnostics(status, {} if self._lock_step else figures, self._ros_now()))

    def _ros_now(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    def _age(self, stamp: int) -> float:
        return (self._ros_now() - stamp) * 1e-9

    def _warn(self, sentence: str) -> None:
        """Log a sentence at most once a second."""
        now = time.monotonic()
        if now - self._warned.get(sentence, -1.0) >= 1.0:
            self._warned = {sentence: now}
            self.get_logger().error(sentence)


def _followed(status: Status) -> str:
    """Who drives the robot, in words; empty when nobody does."""
    if status.state is State.RUNNING:
        return f"policy {status.policy_version}".rstrip()
    return "intervention device" if status.state is State.INTERVENED else ""


def main(args: list[str] | None = None) -> None:
    """Run the guard."""
    spin(GuardNode, args)


if __name__ == "__main__":
    main()
