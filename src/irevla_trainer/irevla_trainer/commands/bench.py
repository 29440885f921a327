"""Measure the suite on this machine.

Prints the figures beside their targets, and exits with 1 when a target is missed.

  latency  camera stamp to joint command through separate processes, model and middleware taken off
  record   two 640x480 cameras at 30 Hz and joint states at 100 Hz into a bag, raw and as JPEG
  bags     from bag to normalised batch, against a bare iteration over the same bag
  forward  one decision of the default and of a BLIP-2-sized model
  expert   scripted experts through the joint-command path, against driving Meta-World directly

Examples:
  irevla bench latency --json out/latency.json
  irevla bench record --seconds 20
  irevla bench forward --no-large
"""

from __future__ import annotations

import argparse
import importlib
import inspect
from pathlib import Path

BENCHMARKS = ("latency", "record", "bags", "forward", "expert")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("name", choices=BENCHMARKS, help="which benchmark")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result to FILE")
    parser.add_argument("--seconds", type=_positive, help="how long to measure (default: the benchmark's own)")
    parser.add_argument(
        "--large", action=argparse.BooleanOptionalAction, help="forward: also the BLIP-2-sized model (default: yes)"
    )


def run(args: argparse.Namespace) -> int:
    """Run one benchmark."""
    from irevla_policy.errors import UserError
    from irevla_trainer.bench.result import measure

    benchmark = importlib.import_module(f"irevla_trainer.bench.{args.name}").run
    options = {name: value for name in ("seconds", "large") if (value := getattr(args, name)) is not None}
    foreign = [name for name in options if name not in inspect.signature(benchmark).parameters]
    if foreign:
        raise UserError(f"benchmark {args.name!r} has no option --{foreign[0]}")
    result = measure(args.name, lambda: benchmark(**options), args.json)
    return 0 if result.holds else 1


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"expected a time above 0 s, found {text!r}")
    return value
