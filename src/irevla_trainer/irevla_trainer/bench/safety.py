"""`irevla bench safety`: a million actions through the command path, and faults of a robot that moves.

The first part proposes random and adversarial actions to the guard and checks each command by other means
(`safety_actions`); the second lets senses, policy and clocks of a moving robot fail, on idle cores and beside what
takes every core as training does (`safety_faults`).
"""

from __future__ import annotations

import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from irevla_trainer.bench.busy import every_core_busy
from irevla_trainer.bench.result import BenchResult, Target
from irevla_trainer.bench.safety_actions import Account, campaign
from irevla_trainer.bench.safety_faults import FAULTS, Rehearsal, Trial, worst_by_fault

TARGETS = {
    "violations": Target("<=", 0.0),
    "stop_p99_s": Target("<=", 0.2),
    "rest_p99_s": Target("<=", 0.2),
    "moved_again": Target("<=", 0.0),
}
PATHS = (("panda", False), ("sawyer", False), ("panda_kitchen", False), ("panda", True))
"""Robots whose command paths are attacked, in turn, and whether commands are checked for collisions, too."""

_PART = 5000
"""Actions of one campaign."""


def run(actions: int = 1_000_000, trials: int = 5) -> BenchResult:
    """Measure.

    Args:
        actions: How many are proposed.
        trials: Of every fault, on idle and on busy cores each.
    """
    account = attack(actions)
    done: list[Trial] = []
    with tempfile.TemporaryDirectory(prefix="irevla-safety-") as folder:
        rehearsal = Rehearsal(Path(folder))
        with rehearsal.running():
            plan = [fault for _ in range(trials) for fault in FAULTS]
            done += [rehearsal.trial(fault) for fault in plan]
            with every_core_busy():
                done += [rehearsal.trial(fault, busy=True) for fault in plan]
    for trial in done:
        account.add(trial.account)
    return summarise(account, done)


def attack(actions: int) -> Account:
    """Campaigns on every core, each with a robot and a seed of its own."""
    sizes = [min(_PART, actions - begin) for begin in range(0, actions, _PART)]
    paths = [PATHS[number % len(PATHS)] for number in range(len(sizes))]
    account = Account()
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        for part in pool.map(campaign, *zip(*paths, strict=True), sizes, range(len(sizes))):
            account.add(part)
    return account


def summarise(account: Account, trials: list[Trial]) -> BenchResult:
    """The figures of actions and faults."""
    stops, rests = np.array([(trial.stop_s, trial.rest_s) for trial in trials]).T
    figures = {
        "violations": float(sum(account.violations.values())),
        "actions": float(sum(account.actions.values())),
        "commands": float(account.commands),
        "stop_p99_s": float(np.quantile(stops, 0.99)),
        "stop_p50_s": float(np.median(stops)),
        "rest_p99_s": float(np.quantile(rests, 0.99)),
        "rest_worst_s": float(rests.max()),
        "moved_again": float(sum(trial.moved_again or trial.early for trial in trials)),
        "faults": float(len(trials)),
        "fault_commands": float(sum(trial.account.commands for trial in trials)),
    }
    if checks := account.collision_checks:
        figures["kept_from_touching"] = float(account.kept_off)
        figures["collision_check_p50_ms"] = 1e3 * float(np.median(checks))
        figures["collision_check_p99_ms"] = 1e3 * float(np.quantile(checks, 0.99))
    for busy in (False, True):
        name = "busy" if busy else "idle"
        figures[f"stop_worst_{name}_s"] = max(trial.stop_s for trial in trials if trial.busy == busy)
    details = {
        "kinds": dict(account.actions),
        "refused": dict(account.refused),
        "violations": dict(account.violations),
        "largest_share_of_limit": {name: round(share, 9) for name, share in account.worst.items()},
        "faults": worst_by_fault(trials),
    }
    return BenchResult("safety", figures, TARGETS, details)
