"""The trainer node, its training processes without a simulator."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from irevla_trainer.jobs.manager import JobManager
from irevla_trainer.ros import trainer_node

WORKER = Path(__file__).parents[1] / "jobs" / "stand_in_worker.py"

trainer_node.JobManager = partial(  # type: ignore[misc, assignment]
    JobManager, command=lambda job: [sys.executable, str(WORKER), str(job)]
)
trainer_node.main()
