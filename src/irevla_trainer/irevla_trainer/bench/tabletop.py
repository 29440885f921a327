"""The paper's third domain in simulation: SACfD on the tabletop, an hour of robot time per task, against stage 0 alone.

In lock-step, faster than real time. Robot time is counted as it would pass on the arm: every decision lasts a control
period, every episode begins with a reset, and validation episodes count at their longest. What it takes to choose the
checkpoint, as the benchmark does after every stage, is counted by itself.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from irevla_policy.robot.profile import load_profile
from irevla_policy.sim.tasks import load_tasks
from irevla_policy.sim.worlds import make_world
from irevla_trainer.bench.comparison import CATEGORY_COLUMNS, Results, details_of, figures_of, reached
from irevla_trainer.bench.methods import Preset, compare, tabulate
from irevla_trainer.bench.result import BenchResult, Target
from irevla_trainer.loop.paper import PAPER
from irevla_trainer.loop.settings import Stage1Settings

METHODS = ("sft", "ire_vla")

RESET_SECONDS = 4.0
"""What a reset takes: the way home from anywhere over the table, and a moment to put things right."""

_FRAMES = 200


def run(
    preset: str = "cpu",
    out: Path | None = None,
    minutes: float = 60.0,
    seeds: int | None = None,
    device: str | None = None,
    parallel: int | None = None,
) -> BenchResult:
    """Run what is left of the benchmark, or as much of it as the slice allows; see `methods.compare`."""
    found = compare("tabletop", preset, out, minutes, seeds, device, parallel, METHODS)
    spent = robot_seconds_of(found.preset, found.results["ire_vla"])
    choosing = choosing_seconds(found.preset, found.results["ire_vla"])
    frame = frame_seconds(found.preset)

    def with_robot(results: Results, seconds: Mapping[str, float], hours: float) -> BenchResult:
        return table(results, seconds, hours, spent, choosing, frame)

    title = "Tabletop: SACfD of an hour of robot time per task"
    return tabulate(found, with_robot, title, CATEGORY_COLUMNS, PAPER["tabletop"])


def table(
    results: Results,
    seconds: Mapping[str, float],
    hours: float,
    spent: Mapping[str, float],
    choosing: float,
    frame: float,
) -> BenchResult:
    """Figures and targets.

    Args:
        results: Method to its runs.
        seconds: What to its share of the wall time.
        hours: Target for all of it; 0 for none.
        spent: Practised task to its time on the arm, s; see `robot_seconds_of`.
        choosing: See `choosing_seconds`.
        frame: What an image costs, s.
    """
    figures = figures_of(results, seconds, CATEGORY_COLUMNS)
    figures |= {
        "robot_hours_per_task": round(max(spent.values()) / 3600, 3),
        "choosing_robot_hours": round(choosing / 3600, 3),
        "frame_ms": round(1e3 * frame, 2),
    }
    targets = reached(PAPER["tabletop"]["ire_vla"]) | {
        "ire_vla_minus_sft_rl": Target(">=", 0.30),
        "robot_hours_per_task": Target("<=", 1.0),
        "frame_ms": Target("<=", 12.0),
    }
    if hours:
        targets["hours"] = Target("<=", hours)
    details = details_of(results, seconds, CATEGORY_COLUMNS)
    details |= {"paper": PAPER["tabletop"], "robot_seconds": {name: round(value) for name, value in spent.items()}}
    return BenchResult("tabletop", figures, targets, details)


def robot_seconds_of(preset: Preset, runs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Practised task to the time that its stages 1 would have taken on the arm, s; the longest of all runs."""
    profile, tasks = load_profile(preset.train.robot), load_tasks(preset.train.task_file)
    found: dict[str, float] = {}
    for run in runs:
        spent: dict[str, float] = defaultdict(float)
        for step in (step for name, step in run["steps"].items() if "stage1" in name):
            longest = tasks.steps(step["task"].partition(":")[0])
            spent[step["task"]] += robot_seconds(step, preset.train.stage1, profile.control_rate, longest)
        found |= {task: max(seconds, found.get(task, 0.0)) for task, seconds in spent.items()}
    return found


def choosing_seconds(preset: Preset, runs: Sequence[Mapping[str, Any]]) -> float:
    """Time on the arm to evaluate every stage, by which a checkpoint is chosen, s; the longest of all runs."""
    train = preset.train
    profile, tasks = load_profile(train.robot), load_tasks(train.task_file)
    all_tasks = (*train.tasks.expert, *train.tasks.rl, *train.tasks.unseen)
    longest = sum(tasks.steps(task.partition(":")[0]) for task in all_tasks) / profile.control_rate
    once = train.evaluation.validation_episodes * (longest + RESET_SECONDS * len(all_tasks))
    return float(max(len(run["validation"]) for run in runs) * once)


def robot_seconds(step: Mapping[str, Any], settings: Stage1Settings, control_rate: float, longest: int) -> float:
    """Time that a stage 1 would have taken on the arm, s.

    Args:
        step: Its decisions and episodes.
        settings: Of the stage.
        control_rate: Decisions a second, Hz.
        longest: Decisions of a validation episode.
    """
    rollouts = -(-step["episodes"] // settings.sacfd.episodes)
    # Before the first rollout, after each so many, and after the last.
    validated = (1 + -(-rollouts // settings.validate_every)) * settings.validation_episodes
    decisions = step["decisions"] + validated * longest
    return float(decisions / control_rate + RESET_SECONDS * (step["episodes"] + validated))


def frame_seconds(preset: Preset) -> float:
    """Time that an image of one camera takes in the preset's world, s."""
    profile, tasks = load_profile(preset.train.robot), load_tasks(preset.train.task_file)
    with make_world(profile, tasks) as world:
        world.reset(tasks.first_task)
        began = time.perf_counter()
        for _ in range(_FRAMES):
            world.observe()
        return (time.perf_counter() - began) / (_FRAMES * len(profile.cameras))
