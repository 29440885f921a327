"""`irevla bench swap`: what a change of the serving policy does to the ticks of the robot, while training runs beside.

The rig plays cameras and joint states to policy node and guard; every few seconds /irevla/load_policy asks for the
other of two checkpoints. A tick is the time between two commands in control periods, as if the frames that they answer
had come exactly on time: what the rig itself was late is taken off. What a training job takes from the processor is
stood in for by busy processes, one a core, with the priority of a job.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np

from irevla_msgs.srv import LoadPolicy
from irevla_policy.errors import UserError
from irevla_policy.model.checkpoint import save_checkpoint
from irevla_policy.model.config import ModelSettings, RobotFacts
from irevla_policy.model.policy import VLAPolicy
from irevla_policy.robot.profile import load_profile
from irevla_trainer.bench.busy import every_core_busy
from irevla_trainer.bench.result import BenchResult, Target
from irevla_trainer.bench.session import play, policy_graph, write_profile
from irevla_trainer.ros.graph_client import GraphClient
from irevla_trainer.ros.rig import Answers

TARGETS = {"worst_tick_periods": Target("<=", 1.5)}

_EVERY = 4.0
"""s between two requests."""

_LEAST = 3 * _EVERY

_AFTER = 0.5
"""s after the first command of a new policy that still count as part of the change."""


@dataclass(frozen=True)
class Swap:
    """One change of the policy.

    Attributes:
        asked: When it was asked for, s on the steady clock.
        answered: When the policy node said that it serves.
        version: The new policy.
    """

    asked: float
    answered: float
    version: str


def run(seconds: float = 60.0) -> BenchResult:
    """Measure.

    Args:
        seconds: How long the policy acts; there is a change every four of them.
    """
    if seconds < _LEAST:
        raise UserError(f"--seconds: expected at least {_LEAST:g}, with a change after {_EVERY:g} s; found {seconds:g}")
    swaps: list[Swap] = []
    with tempfile.TemporaryDirectory(prefix="irevla-swap-") as temporary:
        folder = Path(temporary)
        profile, robot = write_profile(folder, load_profile("sawyer").cameras[:1])
        checkpoints = [folder / f"checkpoint-{seed}" for seed in range(2)]
        for seed, checkpoint in enumerate(checkpoints):
            save_checkpoint(checkpoint, VLAPolicy.create(ModelSettings(), RobotFacts.of(profile), seed=seed))

        def beside() -> None:
            with GraphClient("irevla_swapper") as client:
                end = time.monotonic() + seconds - _EVERY
                for checkpoint in cycle(reversed(checkpoints)):
                    time.sleep(_EVERY)
                    if time.monotonic() > end:
                        return
                    asked = time.monotonic()
                    answer = client.call(LoadPolicy, "/irevla/load_policy", LoadPolicy.Request(path=str(checkpoint)))
                    swaps.append(Swap(asked, time.monotonic(), answer.policy_version))

        with every_core_busy():
            graph = policy_graph("swap", robot, checkpoints[0])
            answers = play(graph, profile, seconds, warm_up=3.0, beside=beside).answers
    return summarise(answers, swaps, 1.0 / profile.control_rate)


def summarise(answers: Answers, swaps: Sequence[Swap], period: float) -> BenchResult:
    """The figures of a run.

    Args:
        answers: What the rig saw.
        swaps: The changes.
        period: Control period, s.
    """
    arrivals, versions = np.array(answers.arrivals), np.array(answers.versions)
    stamps, latency = np.array(list(answers.latency)) * 1e-9, np.array(list(answers.latency.values()))
    # A frame without an answer makes the tick a whole period longer.
    ticks, ends = np.round(np.diff(stamps) / period) + np.diff(latency) / period, arrivals[1:]
    changing = np.zeros(len(ticks), dtype=bool)
    first = []
    for swap in swaps:
        new = arrivals[(versions == swap.version) & (arrivals > swap.asked)]
        if not len(new):
            raise RuntimeError(f"no command of policy {swap.version} came after it was loaded")
        first.append(float(new[0]))
        changing |= (ends > swap.asked) & (ends < new[0] + _AFTER)
    taken = np.array([begin - swap.asked for begin, swap in zip(first, swaps, strict=True)])
    handed = np.array([begin - swap.answered for begin, swap in zip(first, swaps, strict=True)])
    figures = {
        "worst_tick_periods": float(ticks[changing].max()),
        "p99_tick_periods": float(np.quantile(ticks[changing], 0.99)),
        "steady_worst_tick_periods": float(ticks[~changing].max()),
        "steady_p99_tick_periods": float(np.quantile(ticks[~changing], 0.99)),
        "load_to_first_command_p50_s": float(np.median(taken)),
        "load_to_first_command_worst_s": float(taken.max()),
        "answer_to_first_command_worst_s": float(handed.max()),
    }
    details = {"swaps": len(swaps), "ticks": len(ticks), "ticks_while_changing": int(changing.sum())}
    return BenchResult("swap", figures, TARGETS, details)
