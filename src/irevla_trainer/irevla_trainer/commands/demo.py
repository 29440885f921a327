"""Show the whole mission in simulation: teach a policy from bags, let it act, and have it retrained while it does.

Brings the ROS graph up (simulator, guard, expert, recorder), records expert episodes and teaches the default model from
the bags. That policy then drives the robot; /irevla/retrain lets it practise a variation that it is mediocre at, and a
policy that is shown to be better takes over in the running node. Writes into --out:

  summary.json   success before and after the practice with counts and intervals, the gate's verdict, seconds per stage
  report.html    the same to look at, with curves and videos; needs no network
  videos/        before and after side by side, an MP4 per task
  bags/          the recorded episodes, rosbag2 bags
  trainer/       the trainer's jobs, policies and index of episodes
  checkpoint     the policy that serves in the end, and checkpoint-taught/ the one before

A folder that exists is kept under another name. Exits with 1 when the success falls short of the preset's promise.

Examples:
  irevla demo
  irevla demo --preset ci --out out/short
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from irevla_policy.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--out", type=Path, default=Path("out/demo"), metavar="DIR", help="where to (default: out/demo)"
    )
    parser.add_argument("--preset", default="default", help="size of the demo: default, or ci for a short one")


def run(args: argparse.Namespace) -> int:
    """Run all stages."""
    from irevla_policy.graph.environment import adopt_environment

    adopt_environment(private=True)  # MuJoCo reads its GL backend when it is imported
    from irevla_trainer.demo import outcome, stages
    from irevla_trainer.demo.settings import load_preset

    settings = load_preset(args.preset)
    found = stages.DemoRun(settings, _fresh(args.out))
    with found.stage("record"):
        stages.record(found)
    with found.stage("teach"):
        stages.teach(found)
    stages.practise(found)
    with found.stage("report"):
        outcome.write_outcome(found)
    outcome.write_summary(found)
    for task in settings.evaluated:
        print(f"{task:<28} before {outcome.rate(found.before[task])}   after {outcome.rate(found.after[task])}")
    print(f"{found.folder / 'report.html'}  ({sum(found.seconds.values()) / 60:.1f} min)")
    return 0


def _fresh(folder: Path) -> Path:
    """An empty folder; what stood there before is kept beside it."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out: expected a folder, {folder} is a file")
    if folder.exists() and any(folder.iterdir()):
        if Path.cwd().is_relative_to(folder.resolve()):
            raise UserError(f"--out: expected a folder of its own, this command runs in {folder.resolve()}")
        kept = folder.with_name(
            f"{folder.name}-{time.strftime('%Y%m%d-%H%M%S', time.localtime(folder.stat().st_mtime))}"
        )
        folder.rename(kept)
        print(f"kept the former demo as {kept}", file=sys.stderr)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
