"""Measure a checkpoint's success per task in closed loop, with 95 % Wilson intervals.

The episodes' seeds are those kept for tests (or for validation): no training draws from them, and the same --seed
gives every checkpoint the same episodes. Results are written at the end: an interrupted evaluation leaves none.

A task is TASK, or TASK:VARIATION for one of its variations. A task file is YAML, and may define variations of its own
(settings and their meaning as in config/tasks/metaworld.yaml):
  world: metaworld
  tasks: [drawer-open, "window-close:blue", "drawer-open:flat"]
  variations:
    flat: {scale: [1.2, 1.0, 0.8], rgba: [0.9, 0.6, 0.1, 1.0]}

With --json, FILE is one object:
  checkpoint  path, version (12 hex digits), provenance
  robot       name of the profile
  purpose     "test" or "validation"; seeds count from --seed within it
  tasks       list of objects: task, variation, success, low, high (95 % Wilson), successes, episodes, mean_steps,
              seeds, outcomes

Examples:
  irevla eval --checkpoint out/policy --tasks drawer-open,window-close --episodes 50 --json out/eval.json
  irevla eval --checkpoint out/policy --tasks drawer-open:blue --episodes 10 --purpose validation --video out/videos
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from irevla_policy.durable import write_text
from irevla_policy.settings import SettingsError, load, setting
from irevla_policy.sim.tasks import METAWORLD, WORLDS, TaskError, TaskFile, Variation, load_tasks

if TYPE_CHECKING:
    from irevla_trainer.evaluate import EvaluationTask, TaskResult


@dataclass(frozen=True)
class EvaluationFile:
    """A file that names tasks, and variations that only it knows."""

    tasks: tuple[str, ...] = setting(doc="Tasks as TASK or TASK:VARIATION")
    world: str = setting(METAWORLD, "World that has them", choices=WORLDS)
    variations: dict[str, Variation] = setting(factory=dict, doc="Variations of every task, by name")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder of the checkpoint")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--tasks", help="comma-separated tasks, each TASK or TASK:VARIATION")
    which.add_argument("--task-file", type=Path, help="YAML file that names the tasks and may define variations")
    parser.add_argument("--episodes", type=int, default=50, help="episodes per task (default: 50)")
    parser.add_argument("--seed", type=int, default=0, help="first seed within the purpose's range (default: 0)")
    parser.add_argument(
        "--purpose", choices=("test", "validation"), default="test", help="which seeds to use (default: test)"
    )
    parser.add_argument("--world", choices=WORLDS, help=f"world of --tasks (default: {METAWORLD})")
    parser.add_argument("--robot", help="robot profile, name or file (default: the world's arm)")
    parser.add_argument("--max-steps", type=int, help="decisions until an episode is given up (default: the task's)")
    parser.add_argument("--worlds", type=int, default=8, help="episodes at a time (default: 8)")
    parser.add_argument("--device", default="cpu", help="torch device of the policy (default: cpu)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument(
        "--video", type=Path, metavar="DIR", help="write an MP4 of some successes and failures of each task there"
    )


def run(args: argparse.Namespace) -> int:
    """Evaluate and print one line per task."""
    os.environ.setdefault("MUJOCO_GL", "egl")
    from irevla_policy.sim.gl import require_gl

    require_gl()
    from irevla_policy.model.checkpoint import check_fits, checkpoint_version, load_checkpoint, read_provenance
    from irevla_policy.model.device import require_device
    from irevla_policy.robot.profile import load_profile
    from irevla_trainer.evaluate import evaluate
    from irevla_trainer.rl.worlds import Worlds
    from irevla_trainer.seeds import episode_seeds

    if args.episodes < 1 or args.worlds < 1:
        raise SettingsError("--episodes and --worlds: expected at least 1")
    known, tasks = _tasks(args)
    profile = load_profile(args.robot or known.robot)
    seeds = episode_seeds(args.purpose, args.episodes, args.seed)
    version = checkpoint_version(args.checkpoint)
    policy = load_checkpoint(args.checkpoint, require_device(args.device))
    check_fits(args.checkpoint, policy.robot, profile)
    with Worlds(profile, min(args.worlds, len(tasks) * len(seeds)), known, args.max_steps) as worlds:
        results = evaluate(
            policy, worlds, tasks, seeds, filmed=2 if args.video else 0, progress=_Progress(args.episodes)
        )
    for result in results:
        print(f"{result.task!s:<32} {result.rate}", flush=True)
    if args.video:
        _write_videos(args.video, results, profile.control_rate)
    if args.json:
        document = {
            "checkpoint": {
                "path": str(args.checkpoint),
                "version": version,
                "provenance": read_provenance(args.checkpoint),
            },
            "robot": profile.name,
            "purpose": args.purpose,
            "tasks": [result.to_json() for result in results],
        }
        args.json.parent.mkdir(parents=True, exist_ok=True)
        write_text(args.json, json.dumps(document, indent=2) + "\n")
    return 0


def _tasks(args: argparse.Namespace) -> tuple[TaskFile, list[EvaluationTask]]:
    """All tasks with their variations, the task file's own ones included, and those to evaluate."""
    from irevla_trainer.evaluate import EvaluationTask

    if args.task_file:
        file = load(EvaluationFile, args.task_file)
        if args.world not in (None, file.world):
            raise SettingsError(f"--world: {args.task_file} says {file.world}, found {args.world}")
        known, names = _with_variations(load_tasks(file.world), file, args.task_file), file.tasks
    else:
        known, names = load_tasks(args.world or METAWORLD), tuple(args.tasks.split(","))
    tasks = [EvaluationTask.parse(name) for name in names if name.strip()]
    if not tasks:
        raise SettingsError(f"{args.task_file or '--tasks'}: expected at least one task")
    for task in tasks:
        try:
            known.variation(task.task, task.variation)
        except TaskError as error:
            raise TaskError(f"{args.task_file}: tasks: {error}" if args.task_file else f"--tasks: {error}") from None
    return known, tasks


def _with_variations(known: TaskFile, file: EvaluationFile, path: Path) -> TaskFile:
    taken = {name for task in known.tasks for name in known.variation_names(task)}
    for name in file.variations:
        if name in taken:
            raise SettingsError(
                f"{path}: variations.{name}: config/tasks/{file.world}.yaml has one of this name; choose another"
            )
    return replace(known, variations={**known.variations, **file.variations})


class _Progress:
    """One line on a terminal that is rewritten after each episode; silent elsewhere."""

    def __init__(self, episodes: int) -> None:
        self.episodes = episodes

    def __call__(self, task: EvaluationTask, done: int, successes: int) -> None:
        if sys.stderr.isatty():
            text = f"{task!s:<32} {done}/{self.episodes} episodes, {successes} successes"
            print(f"\r\033[K{text}" if done < self.episodes else "\r\033[K", end="", file=sys.stderr, flush=True)


def _write_videos(folder: Path, results: list[TaskResult], rate: float) -> None:
    from irevla_trainer.video import Clip, side_by_side, write_video

    for result in results:
        clips = [
            Clip(f"seed {episode.seed}", episode.frames, episode.success)
            for episode in result.episodes
            if episode.frames
        ]
        name = str(result.task).replace(":", "_")
        write_video(folder / f"{name}.mp4", side_by_side(clips), rate)
