"""The paper's second table on this machine: four methods on Franka Kitchen, from the same stage 0, in resumable slices.

All five tasks have demonstrations, left-door-open only a few; it and the sliding door in red are learnt by
reinforcement, and the sliding door in yellow is never practised.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from irevla_trainer.bench.comparison import (
    CATEGORY_COLUMNS,
    Column,
    Results,
    details_of,
    figures_of,
    not_below,
    reached,
)
from irevla_trainer.bench.methods import compare, tabulate
from irevla_trainer.bench.result import BenchResult, Target
from irevla_trainer.loop.paper import KITCHEN_COLUMNS

COLUMNS = tuple(
    Column(task, category, task)
    for category, tasks in (
        ("expert", ("knob-on", "light-on", "microwave-open", "slide-door-open", "left-door-open")),
        ("rl", ("slide-door-open:red",)),
        ("unseen", ("slide-door-open:yellow",)),
    )
    for task in tasks
)
"""Those of the paper."""

LIFTED = "left-door-open"
"""What few demonstrations leave for reinforcement learning."""


def run(
    preset: str = "cpu",
    out: Path | None = None,
    minutes: float = 60.0,
    seeds: int | None = None,
    device: str | None = None,
    parallel: int | None = None,
) -> BenchResult:
    """Run what is left of the benchmark, or as much of it as the slice allows; see `methods.compare`."""
    found = compare("kitchen", preset, out, minutes, seeds, device, parallel, columns=(*CATEGORY_COLUMNS, *COLUMNS))
    return tabulate(found, table, "Franka Kitchen: four methods from one stage 0", COLUMNS, KITCHEN_COLUMNS)


def table(results: Results, seconds: Mapping[str, float], hours: float = 0.0) -> BenchResult:
    """Figures and targets of the methods' results; see `metaworld.table`."""
    columns = (*CATEGORY_COLUMNS, *COLUMNS)
    targets = reached(KITCHEN_COLUMNS["ire_vla"]) | not_below("ppo_replay", COLUMNS)
    targets[f"ire_vla_minus_sft_{LIFTED}"] = Target(">=", 0.30)
    if hours:
        targets["hours"] = Target("<=", hours)
    details = details_of(results, seconds, columns) | {"paper": KITCHEN_COLUMNS}
    return BenchResult("kitchen", figures_of(results, seconds, columns), targets, details)
