"""`irevla bench latency`: from the stamp of a camera image to the command that answers it.

Separate processes over DDS. Per tick, overhead = latency - forward pass - middleware floor, where the floor is the
median latency of two echo processes in a row that pass the same messages without model, kinematics or limits. The
floor is measured before and after the policy, in the same run.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from irevla_policy.graph.description import Graph, NodeSpec
from irevla_policy.model.checkpoint import save_checkpoint
from irevla_policy.model.config import ModelSettings, RobotFacts
from irevla_policy.model.policy import VLAPolicy
from irevla_policy.robot.profile import RobotProfile, load_profile
from irevla_trainer.bench.result import BenchResult, Target
from irevla_trainer.bench.session import play, policy_graph, write_profile
from irevla_trainer.ros.rig import Answers

SIZE = 224
TARGETS = {
    "overhead_p50_ms": Target("<=", 3.0),
    "overhead_p99_ms": Target("<=", 10.0),
    "missed_ticks": Target("<=", 0.0),
}
# A tick is missed when its command comes more than this many periods after the last one.
_MISSED = 1.5


def run(seconds: float = 60.0) -> BenchResult:
    """Measure.

    Args:
        seconds: How long the policy runs; the floor is measured for half of that.
    """
    with tempfile.TemporaryDirectory(prefix="irevla-latency-") as temporary:
        folder = Path(temporary)
        camera = replace(load_profile("sawyer").cameras[0], width=SIZE, height=SIZE)
        profile, robot = write_profile(folder, (camera,))
        save_checkpoint(folder / "checkpoint", VLAPolicy.create(ModelSettings(), RobotFacts.of(profile)))
        floor = [_floor(robot, profile, seconds / 4)]
        policy = _policy(robot, folder / "checkpoint", profile, seconds)
        floor.append(_floor(robot, profile, seconds / 4))
    return summarise(policy, np.concatenate(floor), seconds * profile.control_rate, 1.0 / profile.control_rate)


def summarise(answers: Answers, floor: np.ndarray, frames: float, period: float) -> BenchResult:
    """The figures of a run.

    Args:
        answers: Of the policy.
        floor: Latencies of the echo processes, s.
        frames: Camera frames that were to be answered.
        period: Control period, s.
    """
    both = [stamp for stamp in answers.latency if stamp in answers.forward]
    latency = np.array([answers.latency[stamp] for stamp in both])
    forward = np.array([answers.forward[stamp] for stamp in both])
    overhead = latency - forward - np.median(floor)
    # The last is the silence at the ends: of so many frames one more than the intervals between them.
    silence = (frames - 1) * period - (answers.arrivals[-1] - answers.arrivals[0])
    intervals = np.append(np.diff(answers.arrivals), silence)
    figures = {"overhead_p50_ms": _ms(overhead, 0.5), "overhead_p99_ms": _ms(overhead, 0.99)}
    figures["missed_ticks"] = float(np.sum(intervals > _MISSED * period))
    for name, values in (("latency", latency), ("forward", forward), ("floor", floor)):
        figures[f"{name}_p50_ms"], figures[f"{name}_p99_ms"] = _ms(values, 0.5), _ms(values, 0.99)
    figures["longest_interval_ms"] = 1e3 * float(intervals.max())
    details = {"frames": round(frames), "answered": len(both), "image": f"{SIZE}x{SIZE} rgb8"}
    return BenchResult("latency", figures, TARGETS, details)


def _ms(seconds: np.ndarray, share: float) -> float:
    return 1e3 * float(np.quantile(seconds, share))


def _policy(robot: str, checkpoint: Path, profile: RobotProfile, seconds: float) -> Answers:
    return play(policy_graph("latency", robot, checkpoint), profile, seconds, warm_up=3.0).answers


def _floor(robot: str, profile: RobotProfile, seconds: float) -> np.ndarray:
    echoes = tuple(
        NodeSpec(
            f"irevla_echo_{answers}",
            "irevla_trainer",
            "irevla_echo",
            "irevla_trainer.ros.echo_node",
            {"robot": robot, "answers": answers},
        )
        for answers in ("images", "actions")
    )
    rig = play(
        Graph("floor", echoes),
        profile,
        seconds,
        warm_up=1.0,
        action_topic="/floor/action",
        command_topic="/floor/command",
    )
    return np.array(list(rig.answers.latency.values()))
