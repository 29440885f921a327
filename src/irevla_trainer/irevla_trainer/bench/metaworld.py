"""The paper's Table I on this machine: four methods on Meta-World, from the same stage 0, in resumable slices."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from irevla_trainer.bench.comparison import (
    CATEGORY_COLUMNS,
    Results,
    details_of,
    figures_of,
    not_below,
)
from irevla_trainer.bench.methods import compare, tabulate
from irevla_trainer.bench.result import BenchResult, Target
from irevla_trainer.loop.paper import PAPER

GOAL = {"ire_vla_expert": 0.90, "ire_vla_rl": 0.95, "ire_vla_unseen": 0.85}
"""What is aimed at beyond the targets."""


def run(
    preset: str = "cpu",
    out: Path | None = None,
    minutes: float = 60.0,
    seeds: int | None = None,
    device: str | None = None,
    parallel: int | None = None,
) -> BenchResult:
    """Run what is left of the benchmark, or as much of it as the slice allows; see `methods.compare`."""
    found = compare("metaworld", preset, out, minutes, seeds, device, parallel)
    return tabulate(found, table, "Meta-World: four methods from one stage 0", CATEGORY_COLUMNS, PAPER["metaworld"])


def table(results: Results, seconds: Mapping[str, float], hours: float = 0.0) -> BenchResult:
    """Figures and targets of the methods' results.

    Args:
        results: Method to its runs.
        seconds: What to its share of the wall time.
        hours: Target for all of it; 0 for none.
    """
    details = details_of(results, seconds, CATEGORY_COLUMNS) | {"paper": PAPER["metaworld"], "goal": GOAL}
    return BenchResult("metaworld", figures_of(results, seconds, CATEGORY_COLUMNS), _targets(hours), details)


def _targets(hours: float) -> dict[str, Target]:
    targets = {
        "sft_expert": Target(">=", 0.80),
        "ire_vla_rl": Target(">=", 0.85),
        "ire_vla_minus_sft_rl": Target(">=", 0.30),
        "ire_vla_minus_sft_unseen": Target(">=", 0.15),
        "ire_vla_minus_sft_expert_high": Target(">=", 0.0),
    }
    if hours:
        targets["hours"] = Target("<=", hours)
    for other in ("ppo_replay", "frozen"):
        targets |= not_below(other, CATEGORY_COLUMNS)
        # Above it in at least one category.
        targets[f"ire_vla_minus_{other}_best_low"] = Target(">=", 0.001)
    return targets
