"""The training process of a job, its worlds without a simulator: python stand_in_worker.py JOB.

With STAND_IN_GATE=open every candidate is found better.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "loop"))

from stand_in_worlds import StandInWorlds

from irevla_trainer.jobs import gate, work, worker
from irevla_trainer.loop import algorithm


def better(before, after, worlds, trained, others, settings, first_seed, progress):
    """What the gate says of a candidate that solves what nobody has solved."""
    outcomes = {task: ([False] * 20, [True] * 20) for task in trained}
    verdict = gate.decide(outcomes, trained, settings, look=1)
    assert verdict is not None
    return verdict


algorithm.Worlds = StandInWorlds  # type: ignore[misc, assignment]
if os.environ.get("STAND_IN_GATE") == "open":
    work.judge = better
    # A candidate that is the policy before is no candidate: the last stage is the best one.
    algorithm.score = lambda evaluation: 0.0
sys.exit(worker.main(sys.argv[1:]))
