"""How far a job is, what share of it that is, and how long it may still take."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from irevla_trainer.loop.display import Doing
from irevla_trainer.loop.settings import TrainFile

_PERIOD = 0.2
"""s between two writes."""

_EFFORT = {"reading": 1.0, "evaluation": 2.0, "sft": 6.0, "rl": 14.0, "gate": 6.0}
"""What kinds of phases take, relative to each other; only the time left depends on it."""

_ENOUGH = 0.02
"""Share of the job from which on its speed says something."""


@dataclass(frozen=True)
class Progress:
    """Where a job is; fields as in irevla_msgs/TrainingStatus.

    Attributes:
        stage: 'reading', 'rl', 'sft', 'evaluation' or 'gate'.
        task: The task at hand; empty for all.
        done: Bags, updates, decisions, rollouts or episodes of the phase so far.
        total: How many there will be, at most.
        share: Of the whole job, in [0, 1].
        success: Of the newest rollout or evaluation; NaN before the first.
        loss: Newest one; NaN before the first.
        seconds_left: Negative when unknown.
        message: What the job does, in a few words.
    """

    stage: str = ""
    task: str = ""
    done: int = 0
    total: int = 0
    share: float = 0.0
    success: float = math.nan
    loss: float = math.nan
    seconds_left: float = -1.0
    message: str = ""


def phases(settings: TrainFile) -> list[tuple[str, str]]:
    """Kind and task of everything that a job's run will do, in order."""
    planned = [("reading", "")] if settings.reads_bags else []
    planned.append(("evaluation", ""))
    if settings.fine_tunes:
        planned += [("sft", ""), ("evaluation", "")]
    for task in settings.learnt_tasks:
        planned += [("rl", task), ("evaluation", "")]
        planned += [("sft", task), ("evaluation", "")] if settings.stage2.enabled else []
    return [*planned, ("gate", "")]


class ProgressFile:
    """Keeps a file up to date with what a run does.

    Args:
        path: The file.
        planned: Phases of the run. One that was done before an interruption does not come again.
    """

    def __init__(self, path: Path, planned: Sequence[tuple[str, str]]) -> None:
        self._path, self._planned = path, planned
        self._place = 0
        self._title = ""
        self._started, self._first = time.monotonic(), math.nan
        self._written = -math.inf
        self._success, self._loss = math.nan, math.nan

    def watch(self, doing: Doing) -> None:
        """Something has gone on."""
        if doing.title != self._title:
            self._title = doing.title
            self._place = self._find(doing)
        self._success = doing.success if doing.success is not None else self._success
        self._loss = doing.loss if doing.loss is not None else self._loss
        now = time.monotonic()
        if now - self._written >= _PERIOD or doing.done == doing.total:
            self._written = now
            self._write(doing)

    def _find(self, doing: Doing) -> int:
        """Place of a phase in the plan: the next of its kind."""
        for place in range(self._place, len(self._planned)):
            if self._planned[place] in ((doing.kind, doing.task), (doing.kind, "")):
                return place
        return self._place

    def _write(self, doing: Doing) -> None:
        efforts = [_EFFORT[kind] for kind, _ in self._planned]
        part = doing.done / doing.total if doing.total else 0.0
        share = (sum(efforts[: self._place]) + part * efforts[self._place]) / sum(efforts)
        self._first = share if math.isnan(self._first) else self._first
        made, spent = share - self._first, time.monotonic() - self._started
        left = spent / made * (1.0 - share) if made > _ENOUGH else -1.0
        progress = Progress(
            self._planned[self._place][0],
            doing.task,
            doing.done,
            doing.total,
            round(share, 4),
            self._success,
            self._loss,
            round(left, 1),
            doing.title,
        )
        partial = self._path.with_name(f".{self._path.name}.partial")
        partial.write_text(json.dumps(asdict(progress)))
        partial.replace(self._path)


def read_progress(path: Path) -> Progress:
    """What the file says; nothing where there is none."""
    try:
        return Progress(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return Progress()
