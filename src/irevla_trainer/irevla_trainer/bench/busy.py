"""What a training job takes from the processor, stood in for by busy processes."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from irevla_trainer.jobs.request import TrainerFile
from irevla_trainer.priority import step_back


@contextmanager
def every_core_busy() -> Iterator[None]:
    """One busy process a core, with the priority of a training job."""
    context = multiprocessing.get_context("spawn")
    busy = [
        context.Process(target=_work, args=(TrainerFile().priority,), daemon=True) for _ in range(os.cpu_count() or 1)
    ]
    for process in busy:
        process.start()
    try:
        yield
    finally:
        for process in busy:
            process.kill()


def _work(priority: str) -> None:
    step_back(priority)
    matrix = np.random.default_rng(0).normal(size=(256, 256))
    while True:
        matrix = np.tanh(matrix @ matrix / 256)
