"""Measure the suite on this machine.

Prints the figures beside their targets, and exits with 1 when a target is missed.

  latency    camera stamp to joint command through separate processes, model and middleware taken off
  record     two 640x480 cameras at 30 Hz and joint states at 100 Hz into a bag, raw and as JPEG
  bags       from bag to normalised batch, against a bare iteration over the same bag
  forward    one decision of the default and of a BLIP-2-sized model
  swap       ticks of the robot while the serving policy changes and training runs beside
  index      ten thousand episodes into the trainer's index, the first time and again
  safety     a million adversarial actions through the command path, and faults of a robot that moves
  expert     scripted experts through the joint-command path, against driving Meta-World directly
  rl         stage 1 beside its unavoidable part, stable-baselines3 and PPO on all weights; SFT beside a plain loop
  metaworld  the paper's first table: four methods from one stage 0; in slices, the same command goes on
  kitchen    the paper's second table, on Franka Kitchen; likewise
  tabletop   the paper's third domain: SACfD of an hour of robot time per task, against stage 0 alone; likewise
  robot      SACfD on the simulated arm in real time: whether action or command is ever late
  stability  stage 1 of the heads against the whole model, over seeds; in slices as well

Examples:
  irevla bench latency --json out/latency.json
  irevla bench record --seconds 20
  irevla bench forward --no-large
  irevla bench safety --actions 20000 --trials 1
  irevla bench rl --device cuda
  irevla bench rl --world kitchen
  irevla bench stability --checkpoint runs/metaworld-cpu/seed-0/sft/checkpoint --bags runs/metaworld-cpu/bags
  irevla bench metaworld --preset cpu --minutes 60 --json docs/results/metaworld.json
  irevla bench metaworld --preset full --minutes 8
  irevla bench kitchen --preset cpu --minutes 60 --json docs/results/kitchen.json
  irevla bench tabletop --preset cpu --minutes 60 --json docs/results/tabletop.json
  irevla bench robot --checkpoint runs/tabletop-cpu/seed-0/sft/checkpoint --json docs/results/robot.json
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
from pathlib import Path

from irevla_policy.sim.tasks import METAWORLD, WORLDS

BENCHMARKS = (
    "latency",
    "record",
    "bags",
    "forward",
    "swap",
    "index",
    "safety",
    "expert",
    "rl",
    "metaworld",
    "kitchen",
    "tabletop",
    "robot",
    "stability",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("name", choices=BENCHMARKS, help="which benchmark")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result to FILE")
    parser.add_argument("--seconds", type=_positive, help="how long to measure (default: the benchmark's own)")
    parser.add_argument(
        "--large", action=argparse.BooleanOptionalAction, help="forward: also the BLIP-2-sized model (default: yes)"
    )
    parser.add_argument(
        "--device", help="rl, metaworld, kitchen, tabletop, stability: torch device (default: cpu, the preset's)"
    )
    parser.add_argument("--world", choices=WORLDS, help=f"rl: where episodes run (default: {METAWORLD})")
    parser.add_argument("--threads", type=_count, help="rl: threads of the arithmetic (default: 1)")
    parser.add_argument("--preset", help="metaworld, kitchen, tabletop: cpu (default), full or gpu, or a YAML file")
    parser.add_argument(
        "--seeds", type=_count, help="metaworld, kitchen, tabletop: runs of every method (default: the preset's)"
    )
    parser.add_argument(
        "--parallel",
        type=_count,
        help="metaworld, kitchen, tabletop, stability: runs at a time, each with its part of the cores "
        "(default: the preset's, or 1)",
    )
    parser.add_argument("--actions", type=_count, help="safety: how many are proposed (default: 1000000)")
    parser.add_argument("--trials", type=_count, help="safety: of every fault (default: 5)")
    parser.add_argument("--checkpoint", type=Path, help="stability, robot: what runs start from")
    parser.add_argument(
        "--bags", type=Path, metavar="DIR", help="stability: demonstrations of what is known, which the heads rehearse"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="metaworld, kitchen, tabletop, stability: folder of the runs"
    )
    parser.add_argument("--minutes", type=_positive, help="of a slice of those (default: 60)")


def run(args: argparse.Namespace) -> int:
    """Run one benchmark."""
    # Before MuJoCo is imported, which looks at it once.
    os.environ.setdefault("MUJOCO_GL", "egl")
    from irevla_policy.errors import UserError
    from irevla_trainer.bench.result import measure

    benchmark = importlib.import_module(f"irevla_trainer.bench.{args.name}").run
    common = ("name", "json")
    options = {name: value for name, value in vars(args).items() if name not in common and value is not None}
    known = inspect.signature(benchmark).parameters
    foreign = [name for name in options if name not in known]
    if foreign:
        raise UserError(f"benchmark {args.name!r} has no option --{foreign[0]}")
    missing = [name for name, of in known.items() if of.default is of.empty and name not in options]
    if missing:
        raise UserError(f"benchmark {args.name!r} needs --{missing[0]}")
    result = measure(args.name, lambda: benchmark(**options), args.json)
    return 0 if result.holds else 1


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise argparse.ArgumentTypeError(f"expected a time above 0, found {text!r}")
    return value


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1 on, found {text!r}")
    return int(text)
