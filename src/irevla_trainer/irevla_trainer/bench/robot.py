"""`irevla bench robot`: reinforcement learning on the simulated arm in real time, and whether it is ever late.

The tabletop's graph comes up as it would beside an arm: simulator in real time, guard, recorder. `irevla train` learns
on it with SACfD, an actor's process beside the learner's, one update of the critics per decision. Timed is what the
graph publishes, by a process that does nothing else.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from trajectory_msgs.msg import JointTrajectory

from irevla_msgs.msg import Action, EpisodeInfo, PolicyStatus
from irevla_policy.errors import RunError
from irevla_policy.graph.environment import adopt_environment
from irevla_policy.graph.registry import find_graph
from irevla_policy.graph.supervisor import Supervisor
from irevla_policy.robot.profile import RobotProfile, load_profile
from irevla_policy.ros import qos
from irevla_policy.ros.messages import nanoseconds
from irevla_trainer.bench.result import BenchResult, Target
from irevla_trainer.ros.graph_client import GraphClient

TARGETS = {
    "refused_actions_share": Target("<=", 0.001),
    "late_actions_share": Target("<=", 0.001),
    "answer_p99_ms": Target("<=", 100.0),
    "command_behind_p99_ms": Target("<=", 0.0),
}
"""At 10 Hz an answer has a period, and a command must be there before the arm is to follow it, lest the arm waits. The
guard's interval says less: it is longer than a tick's 20 ms after a command that an action made it send earlier.

Late is an action that comes more than 1.5 periods after the one before it in the same episode, or does not come.
"""

ROBOT, TASK = "panda", "pick-carrot"
_START = 120.0  # s until the first action
_STOP = 120.0  # s that the learner has to save
_SILENCE = 30.0  # s without an action, longer than any way home


@dataclass
class Heard:
    """What the graph published.

    Attributes:
        answers: From an image's stamp to the arrival of its action, s.
        acted: When actions arrived, s of the steady clock, a list for each episode.
        sent: When the guard's commands to the robot arrived, s of the steady clock.
        behind: How long after the time at which the robot should begin to follow them these commands arrived, s; below
            0 for those sent ahead of it.
        episodes: Names of those that were recorded to their end.
        status: The guard's account.
        missed_ticks: Of the guard's clock, since it came up.
    """

    answers: list[float] = field(default_factory=list)
    acted: list[list[float]] = field(default_factory=lambda: [[]])
    sent: list[float] = field(default_factory=list)
    behind: list[float] = field(default_factory=list)
    episodes: set[str] = field(default_factory=set)
    status: PolicyStatus = field(default_factory=PolicyStatus)
    missed_ticks: int = 0


class Listener(GraphClient):
    """Hears what is to be timed, while it serves."""

    def __init__(self, profile: RobotProfile, check: Callable[[], None]) -> None:
        super().__init__("irevla_listener", check)
        self.heard = Heard()
        node, depth = self.node, qos.recorded()
        node.create_subscription(Action, "/irevla/action", self._on_action, depth)
        node.create_subscription(JointTrajectory, profile.command.topic, self._on_command, depth)
        node.create_subscription(EpisodeInfo, "/irevla/episode_info", self._on_episode, qos.latched())
        node.create_subscription(PolicyStatus, "/irevla/policy_status", self._on_status, qos.latched())
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.event())

    def _on_action(self, message: Action) -> None:
        now = self.node.get_clock().now().nanoseconds
        self.heard.answers.append((now - nanoseconds(message.header.stamp)) * 1e-9)
        self.heard.acted[-1].append(time.monotonic())

    def _on_command(self, message: JointTrajectory) -> None:
        now = self.node.get_clock().now().nanoseconds
        self.heard.behind.append((now - nanoseconds(message.header.stamp)) * 1e-9)
        self.heard.sent.append(time.monotonic())

    def _on_episode(self, message: EpisodeInfo) -> None:
        if message.state == EpisodeInfo.STATE_FINISHED:
            self.heard.episodes.add(message.episode_id)
        # Between episodes the arm goes home, and nobody acts; the last action may come after the end.
        self.heard.acted.append([])

    def _on_status(self, message: PolicyStatus) -> None:
        self.heard.status = message

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            for value in status.values:
                if status.name == "irevla_guard" and value.key == "missed_ticks":
                    self.heard.missed_ticks = int(value.value)


def run(seconds: float = 600.0, checkpoint: Path | None = None) -> BenchResult:
    """Measure.

    Args:
        seconds: How long the robot acts, from its first action on.
        checkpoint: The policy that it begins with; an untrained one when left out, which takes the same time.
    """
    profile = load_profile(ROBOT)
    with tempfile.TemporaryDirectory(prefix="irevla-robot-") as temporary:
        folder = Path(temporary)
        config = folder / "train.yaml"
        config.write_text(yaml.safe_dump(settings(checkpoint)))
        arguments = {"world": "tabletop", "task": TASK, "expert": "false", "record": str(folder / "bags")}
        adopt_environment(private=True)
        words = ["train", "--config", str(config), "--out", str(folder / "run")]
        with Supervisor(find_graph("sim").resolve(arguments), log_dir=folder) as nodes:
            learner = subprocess.Popen([sys.executable, "-m", "irevla_trainer.cli", *words])

            def check() -> None:
                nodes.check()
                if learner.poll() is not None:
                    raise RunError(f"`irevla train` ended with exit code {learner.returncode}; it says why above")

            try:
                with Listener(profile, check) as listener:
                    begun = time.monotonic() + _START
                    listener.wait(lambda: bool(listener.heard.answers), begun, f"no action came within {_START:.0f} s")
                    status = listener.heard.status
                    first = status.actions_total, status.actions_refused, listener.heard.missed_ticks
                    listener.heard = Heard(status=status)
                    listener.serve(seconds)
                    heard = listener.heard
                    last = max((moment for times in heard.acted for moment in times), default=0.0)
                    if (silent := time.monotonic() - last) > _SILENCE:
                        raise RunError(f"the last action came {silent:.0f} s before the end")
            finally:
                learner.send_signal(signal.SIGINT)
                try:
                    learner.wait(_STOP)
                except subprocess.TimeoutExpired:
                    learner.kill()
                    learner.wait()
        lines = sorted((folder / "run" / "steps").glob("*-stage1-*/metrics.jsonl"))
        learnt = [json.loads(line) for path in lines for line in path.read_text().splitlines()]
    return summarise(heard, first, learnt, seconds, profile)


def settings(checkpoint: Path | None) -> dict[str, object]:
    """The run: an iteration per episode, so that the learner is at work from the second one on."""
    start: dict[str, object] = {"init": str(checkpoint.absolute())} if checkpoint else {"from_scratch": True}
    sacfd = {"episodes": 1, "demonstrations": 0, "warmup": 100}
    return start | {
        "tasks": {"rl": [TASK]},
        "task_file": "tabletop",
        "robot": ROBOT,
        "worlds_in": "robot",
        "stage1": {"algorithm": "sacfd", "decisions": 1_000_000, "sacfd": sacfd},
        "stage2": {"enabled": False},
    }


def summarise(
    heard: Heard,
    first: tuple[int, int, int],
    learnt: Sequence[dict[str, float]],
    seconds: float,
    profile: RobotProfile,
) -> BenchResult:
    """The figures of a run.

    Args:
        heard: What the graph published in the time that counts.
        first: Actions, refused actions and missed ticks before that.
        learnt: Lines of the learner's metrics.
        seconds: The time that counts.
        profile: The robot.

    Raises:
        RunError: Too little was published.
    """
    gaps = np.concatenate([np.diff(times) for times in heard.acted])
    if not len(gaps) or len(heard.sent) < 2:
        raise RunError(f"{len(heard.answers)} actions and {len(heard.sent)} commands came in {seconds:g} s")
    answers, intervals, behind = 1e3 * np.array(heard.answers), 1e3 * np.diff(heard.sent), 1e3 * np.array(heard.behind)
    carried_out = heard.status.actions_total - first[0]
    refused = heard.status.actions_refused - first[1]
    updates = learnt[-1]["updates"] if learnt else 0.0
    period = 1.0 / profile.control_rate
    # A gap of several periods counts once for every action that should have come in it.
    late = np.maximum(np.ceil(gaps / period - 1.5), 0.0).sum()
    figures = {
        "seconds": seconds,
        "episodes": float(len(heard.episodes)),
        "actions": float(len(answers)),
        "refused_actions": float(refused),
        "refused_actions_share": float(refused / max(carried_out + refused, 1)),
        "late_actions_share": float(late / (len(gaps) + late)),
        "worst_gap_ms": float(1e3 * gaps.max()),
        "answer_p50_ms": float(np.median(answers)),
        "answer_p99_ms": float(np.quantile(answers, 0.99)),
        "answer_worst_ms": float(answers.max()),
        "guard_interval_p50_ms": float(np.median(intervals)),
        "guard_interval_p99_ms": float(np.quantile(intervals, 0.99)),
        "guard_interval_worst_ms": float(intervals.max()),
        "command_behind_p50_ms": float(np.median(behind)),
        "command_behind_p99_ms": float(np.quantile(behind, 0.99)),
        "command_behind_worst_ms": float(behind.max()),
        "guard_missed_ticks": float(heard.missed_ticks - first[2]),
        "updates": float(updates),
        "iterations": float(len(learnt)),
    }
    details = {
        "robot": profile.name,
        "task": TASK,
        "guard_rate": profile.guard_rate,
        "control_rate": profile.control_rate,
    }
    return BenchResult("robot", figures, TARGETS, details)
