"""Faults of a moving robot's senses, policy and clock, between real processes: how soon the guard brakes.

The rig plays cameras, joint states and the operator's heartbeat to a guard; a stand-in for the policy, in a process of
its own, keeps one joint moving. A fault comes at a random moment, stays for a while and goes again. Measured is what
the guard sends to the robot.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rclpy
import yaml
from rclpy.executors import SingleThreadedExecutor
from std_msgs.msg import Empty, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from irevla_policy.errors import RunError
from irevla_policy.graph.description import Graph, NodeSpec
from irevla_policy.graph.environment import adopt_environment
from irevla_policy.graph.supervisor import Supervisor
from irevla_policy.robot.limits import Setpoint
from irevla_policy.robot.profile import RobotProfile, load_profile
from irevla_policy.ros import qos
from irevla_policy.ros.messages import nanoseconds, setpoints_of
from irevla_policy.settings import to_dict
from irevla_trainer.bench.safety_actions import Account, Checker
from irevla_trainer.ros.graph_client import GraphClient
from irevla_trainer.ros.rig import Rig

_HEARTBEAT_RATE = 20.0  # Hz
_LASTS = 1.0  # s that a fault stays
_PATIENCE = 20.0  # s until the robot moves
_STEADY = 0.4  # s that it moves before a fault comes
_STOPPED = 0.5  # s after a fault that nothing moves any more
_STILL = 1e-9  # rad/s
_JUMP = 5_000_000_000  # ns that clocks jump


@dataclass(frozen=True, eq=False)
class Sent:
    """A setpoint that the guard sent.

    Attributes:
        arrived: At the rig, s of the steady clock.
        stamp: When it starts, ns.
        setpoint: Positions and velocities.
    """

    arrived: float
    stamp: int
    setpoint: Setpoint

    @property
    def speed(self) -> float:
        """Of the fastest joint, rad/s."""
        return float(np.abs(self.setpoint.velocity).max())


class SafetyRig(Rig):
    """A rig that keeps all that the guard sends to the robot, and plays the operator's heartbeat."""

    def __init__(self, profile: RobotProfile) -> None:
        super().__init__(profile)
        self.sent: list[Sent] = []
        self.beats = True
        self._heart = self.create_publisher(Empty, "/irevla/heartbeat", qos.event())
        self.create_timer(1.0 / _HEARTBEAT_RATE, self._beat)

    def _beat(self) -> None:
        if self.beats:
            self._heart.publish(Empty())

    def _on_trajectory(self, message: JointTrajectory) -> None:
        super()._on_trajectory(message)
        setpoints, _ = setpoints_of(message, self._profile)
        self.sent.append(Sent(time.monotonic(), nanoseconds(message.header.stamp), setpoints[-1]))

    def moves(self) -> bool:
        """Whether what was sent last moves."""
        return bool(self.sent) and self.sent[-1].speed > _STILL


@dataclass(frozen=True)
class Trial:
    """What one fault led to.

    Attributes:
        fault: Its name.
        busy: Whether every core was busy.
        stop_s: From the fault to the first command that brakes.
        rest_s: From there to rest, by the stamps of the commands.
        moved_again: Whether anything moved when it should have been at rest for long, while the fault was there.
        early: Whether it moved after an E-stop that nobody had cleared, with all else well.
        account: The commands against the limits.
    """

    fault: str
    busy: bool
    stop_s: float
    rest_s: float
    moved_again: bool
    early: bool
    account: Account


FAULTS = (
    "camera unplugged", "camera frozen", "joint states unplugged", "joint states frozen", "heartbeat lost",
    "policy stopped", "policy killed", "clock forward", "clock back", "E-stop",
)  # fmt: skip
"""What can go wrong here."""


class Rehearsal:
    """A robot in motion to which faults happen.

    Args:
        folder: For the robot's profile.
        seed: Of the moments of the faults.
    """

    def __init__(self, folder: Path, seed: int = 0) -> None:
        shipped = load_profile("panda")
        self.profile = replace(
            shipped,
            require_heartbeat=True,
            kinematics=replace(shipped.kinematics, urdf=str(shipped.urdf_path)),
        )
        document = to_dict(self.profile)
        del document["file"]
        self._robot = folder / "robot.yaml"
        self._robot.write_text(yaml.safe_dump(document))
        self._random = np.random.default_rng(seed)
        self._faults: dict[str, Callable[[], Callable[[], None]]] = dict(
            zip(
                FAULTS,
                (
                    self._camera_unplugged, self._camera_frozen, self._joint_states_unplugged,
                    self._joint_states_frozen, self._heartbeat_lost, self._policy_stopped, self._policy_killed,
                    self._clock_forward, self._clock_back, self._estop,
                ),
                strict=True,
            )
        )  # fmt: skip

    @contextmanager
    def running(self) -> Iterator[None]:
        """Bring everything up."""
        adopt_environment(private=True)
        rclpy.init()
        self._rig = SafetyRig(self.profile)
        instruction = self._rig.create_publisher(String, "/irevla/instruction", qos.latched())
        instruction.publish(String(data="swing"))
        executor = SingleThreadedExecutor()
        executor.add_node(self._rig)
        ended = threading.Event()
        threads = [
            threading.Thread(target=executor.spin, daemon=True),
            threading.Thread(target=self._rig.play, args=(np.inf, lambda: not ended.is_set()), daemon=True),
        ]
        for thread in threads:
            thread.start()
        guard = self._node("irevla_guard", "irevla_policy", "irevla_policy.ros.guard_node")
        try:
            with Supervisor(Graph("safety", (guard,))), GraphClient("irevla_safety") as self._client:
                for service in ("/irevla/estop", "/irevla/clear_estop"):
                    self._client.ask(Trigger, service, Trigger.Request())  # the first contact takes its time
                self._policy = self._start_policy()
                try:
                    yield
                finally:
                    self._policy.stop()
        finally:
            ended.set()
            executor.shutdown()
            for thread in threads:
                thread.join(timeout=2.0)
            self._rig.destroy_node()
            rclpy.try_shutdown()

    def _node(self, name: str, package: str, module: str) -> NodeSpec:
        return NodeSpec(name, package, name, module, {"robot": str(self._robot)})

    def _start_policy(self) -> Supervisor:
        node = self._node("irevla_swinging", "irevla_trainer", "irevla_trainer.ros.swinging_node")
        return Supervisor(Graph("policy", (node,))).__enter__()

    def trial(self, fault: str, busy: bool = False) -> Trial:
        """Let a fault happen, and mend it.

        Args:
            fault: One of `FAULTS`.
            busy: Whether every core is busy, for the account.

        Raises:
            RunError: The robot does not move before it, or does not stop.
        """
        self._wait_for_motion(fault)
        time.sleep(_STEADY + self._random.uniform(0.0, 0.5))
        began = len(self._rig.sent)
        happened = time.monotonic()
        mend = self._faults[fault]()
        time.sleep(_LASTS)
        sent = self._rig.sent[began - 2 :]
        mend()
        early = False
        if fault == "E-stop":
            time.sleep(0.5)
            early = self._rig.moves()
            self._client.ask(Trigger, "/irevla/clear_estop", Trigger.Request())
        return judge(fault, busy, happened, sent, early, self.profile)

    def _wait_for_motion(self, fault: str) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not self._rig.moves():
            if time.monotonic() > deadline:
                raise RunError(
                    f"safety: the robot does not move again before {fault!r}, {_PATIENCE:.0f} s after a fault"
                )
            time.sleep(0.02)

    # Each lets something happen and returns what mends it.

    def _change(self, topics: list[str], change: Callable[[int], int | None]) -> Callable[[], None]:
        self._rig.changes |= dict.fromkeys(topics, change)
        return self._rig.changes.clear

    def _camera_unplugged(self) -> Callable[[], None]:
        return self._change([self.profile.cameras[-1].topic], lambda stamp: None)

    def _camera_frozen(self) -> Callable[[], None]:
        frozen = self._rig.now()
        return self._change([self.profile.cameras[0].topic], lambda stamp: frozen)

    def _joint_states_unplugged(self) -> Callable[[], None]:
        return self._change([self.profile.joint_states_topic], lambda stamp: None)

    def _joint_states_frozen(self) -> Callable[[], None]:
        frozen = self._rig.now()
        return self._change([self.profile.joint_states_topic], lambda stamp: frozen)

    def _clock_forward(self) -> Callable[[], None]:
        return self._change(self._topics(), lambda stamp: stamp + _JUMP)

    def _clock_back(self) -> Callable[[], None]:
        return self._change(self._topics(), lambda stamp: stamp - _JUMP)

    def _topics(self) -> list[str]:
        return [self.profile.joint_states_topic, *(camera.topic for camera in self.profile.cameras)]

    def _heartbeat_lost(self) -> Callable[[], None]:
        self._rig.beats = False

        def mend() -> None:
            self._rig.beats = True

        return mend

    def _policy_stopped(self) -> Callable[[], None]:
        group = self._policy.pid("irevla_swinging")
        os.killpg(group, signal.SIGSTOP)
        return lambda: os.killpg(group, signal.SIGCONT)

    def _policy_killed(self) -> Callable[[], None]:
        os.killpg(self._policy.pid("irevla_swinging"), signal.SIGKILL)

        def mend() -> None:
            self._policy.stop()
            self._policy = self._start_policy()

        return mend

    def _estop(self) -> Callable[[], None]:
        self._client.ask(Trigger, "/irevla/estop", Trigger.Request())
        return lambda: None


def judge(fault: str, busy: bool, happened: float, sent: list[Sent], early: bool, profile: RobotProfile) -> Trial:
    """What a fault led to.

    Args:
        fault: Its name.
        busy: Whether every core was busy.
        happened: When, s of the steady clock.
        sent: What the guard sent from two commands before it until the fault was mended.
        early: See `Trial`.
        profile: The robot.

    Raises:
        RunError: The robot does not rest at the end.
    """
    speeds: npt.NDArray[np.float64] = np.array([one.speed for one in sent])
    after = [place for place, one in enumerate(sent) if one.arrived >= happened]
    if not after or speeds[-1] > _STILL:
        raise RunError(f"safety: the robot still moves {_LASTS:g} s after {fault!r}")
    # The end of the last motion: a swing that turns about stands still for a moment.
    rest = max(int(np.flatnonzero(speeds > _STILL)[-1]) + 1, after[0])
    # Braking slows down evenly. What the swing slowed down before that is no part of it.
    slower = speeds[:-1] - speeds[1:]
    evenly = (slower > 0.0) & np.isclose(slower, slower[rest - 1], rtol=1e-3)
    brakes = rest
    while brakes > after[0] and evenly[brakes - 2]:
        brakes -= 1
    account = Account()
    irregular = np.flatnonzero(np.diff([one.stamp for one in sent]) != round(1e9 / profile.guard_rate)) + 1
    # Where one was late or lost, how far the next may be from it cannot be told: what is between is checked.
    for stretch in np.split(np.arange(len(sent)), irregular):
        setpoints = [sent[place].setpoint for place in stretch]
        checker = Checker(profile, setpoints[0].position)
        checker.follow(setpoints[:2])
        checker.check(setpoints[2:], account)
    return Trial(
        fault=fault,
        busy=busy,
        stop_s=sent[brakes].arrived - happened,
        rest_s=(sent[rest].stamp - sent[brakes].stamp) * 1e-9,
        moved_again=sent[rest].arrived - happened > _STOPPED,
        early=early,
        account=account,
    )


def worst_by_fault(trials: list[Trial]) -> dict[str, dict[str, float]]:
    """Fault to its number of trials, and its longest times."""
    number = Counter(trial.fault for trial in trials)
    return {
        fault: {
            "trials": number[fault],
            "stop_s": round(max(trial.stop_s for trial in trials if trial.fault == fault), 4),
            "rest_s": round(max(trial.rest_s for trial in trials if trial.fault == fault), 4),
        }
        for fault in FAULTS
        if number[fault]
    }
