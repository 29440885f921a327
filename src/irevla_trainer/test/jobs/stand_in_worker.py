"""The training process of a job, its worlds without a simulator: python stand_in_worker.py JOB."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "loop"))

from stand_in_worlds import StandInWorlds

from irevla_trainer.jobs import worker
from irevla_trainer.loop import algorithm

algorithm.Worlds = StandInWorlds  # type: ignore[misc, assignment]
sys.exit(worker.main(sys.argv[1:]))
