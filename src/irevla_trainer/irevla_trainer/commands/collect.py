"""Record episodes of the scripted expert as bags, one MCAP bag each, through the whole node graph.

The graph runs in lock-step: as fast as the machine allows, and the same bags for the same seeds. Failures of the expert
are kept and labelled as such. Episodes that lie in the folder already are not recorded again, so the same command goes
on after Ctrl-C or a crash. Bags are named TASK[-VARIATION][-noiseNOISE]_SEED.

With --json, FILE is one object:
  folder    of the bags
  episodes  list of objects: task, variation, seed, success, steps, bag, new (false: it was there already)
  tasks     task to {episodes, successes}
  seconds   time spent

Examples:
  irevla collect --task drawer-open --episodes 20 --out bags
  irevla collect --task drawer-open,window-close --episodes 50 --out bags --image-format jpeg
  irevla collect --task door-open --variation blue --episodes 10 --noise 0.1 --seed 1000 --out bags/blue
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irevla_policy.settings import SettingsError
from irevla_policy.sim.tasks import METAWORLD, WORLDS, load_tasks

if TYPE_CHECKING:
    from irevla_trainer.ros.collecting import Collected, Collection


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--task", required=True, help="task, or several separated by commas")
    parser.add_argument("--episodes", type=int, required=True, help="episodes per task")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the bags")
    parser.add_argument("--world", default=METAWORLD, choices=WORLDS, help=f"world (default: {METAWORLD})")
    parser.add_argument("--variation", default="", help="variation of the tasks (default: the tasks as they are)")
    parser.add_argument("--seed", type=int, default=0, help="first of the training seeds (default: 0)")
    parser.add_argument(
        "--noise", type=float, default=0.0, help="noise on the actions, standard deviation (default: 0)"
    )
    parser.add_argument("--robot", help="robot profile, name or file (default: the world's arm)")
    parser.add_argument(
        "--image-format", default="raw", choices=("raw", "jpeg", "png"), help="how images are stored (default: raw)"
    )
    parser.add_argument("--log-dir", type=Path, metavar="DIR", help="write each node's output to DIR/NODE.log")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there")


def run(args: argparse.Namespace) -> int:
    """Collect, and print a line per task."""
    from irevla_trainer.ros.collecting import Collection, collect

    tasks = list(dict.fromkeys(task.strip() for task in args.task.split(",") if task.strip()))
    if not tasks or args.episodes < 1:
        raise SettingsError("--task and --episodes: expected at least one task and one episode")
    if not 0.0 <= args.noise <= 1.0:
        raise SettingsError(f"--noise: expected a number in [0, 1], found {args.noise:g}")
    if args.out.exists() and not args.out.is_dir():
        raise SettingsError(f"--out: expected a folder for bags, {args.out} is a file")
    wanted = Collection(
        tasks=tasks,
        episodes=args.episodes,
        folder=args.out.absolute(),
        seed=args.seed,
        variation=args.variation,
        robot=args.robot or load_tasks(args.world).robot,
        world=args.world,
        noise=args.noise,
        image_format=args.image_format,
    )
    start = time.monotonic()
    episodes = collect(wanted, _Progress(), args.log_dir)
    seconds = time.monotonic() - start
    for task in tasks:
        of_task = [episode for episode in episodes if episode.task == task]
        new = sum(episode.new for episode in of_task)
        successes = sum(episode.success for episode in of_task)
        print(f"{task:<32} {len(of_task)} episodes ({new} new), {successes} successes")
    print(f"{args.out}: {len(episodes)} bags in {seconds:.0f} s")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(_document(wanted, episodes, seconds), indent=2) + "\n")
    return 0


class _Progress:
    """A line on a terminal that is rewritten after each episode, elsewhere a line every tenth."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._new = 0

    def __call__(self, done: int, total: int, episode: Collected) -> None:
        self._new += episode.new
        each = (time.monotonic() - self._start) / max(self._new, 1)
        outcome = "success" if episode.success else "failure"
        text = (
            f"{done}/{total} episodes, {each * (total - done):.0f} s left: {episode.task} seed {episode.seed} {outcome}"
        )
        if sys.stderr.isatty():
            print(f"\r\033[K{text}" if done < total else "\r\033[K", end="", file=sys.stderr, flush=True)
        elif done % 10 == 0 or done == total:
            print(text, file=sys.stderr, flush=True)


def _document(wanted: Collection, episodes: list[Collected], seconds: float) -> dict[str, Any]:
    counts = {
        task: {
            "episodes": sum(episode.task == task for episode in episodes),
            "successes": sum(episode.success for episode in episodes if episode.task == task),
        }
        for task in wanted.tasks
    }
    listed = [
        {
            "task": episode.task,
            "variation": wanted.variation,
            "seed": episode.seed,
            "success": episode.success,
            "steps": episode.steps,
            "bag": str(episode.bag),
            "new": episode.new,
        }
        for episode in episodes
    ]
    return {"folder": str(wanted.folder), "episodes": listed, "tasks": counts, "seconds": round(seconds, 3)}
