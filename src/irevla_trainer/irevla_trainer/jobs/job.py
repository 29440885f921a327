"""A training job on the disk.

JOBS/newest                    the number of the newest job; jobs that are over may be deleted
JOBS/job-000012/order.json     what was asked for, with the configuration of that moment
JOBS/job-000012/plan.json      what that means: the bags, the tasks, the settings of the run
JOBS/job-000012/run/           the run, as of irevla train
JOBS/job-000012/progress.json  how far it is
JOBS/job-000012/outcome.json   what came out, written last by the training process
JOBS/job-000012/state.json     what became of it
JOBS/job-000012/log.txt        what the training process said
JOBS/job-000012/hand_over.json  which policy the robot is to be given because of it, and what became of that
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from irevla_policy.durable import write_text
from irevla_policy.settings import from_dict, to_dict
from irevla_trainer.jobs.request import JobRequest, TrainerFile

STATES = ("queued", "running", "cancelling", "on_trial", "succeeded", "failed", "cancelled", "interrupted")
_NAME = re.compile(r"job-(\d{6,})")
_NEWEST = "newest"


@dataclass(frozen=True)
class Order:
    """What a job is asked for.

    Attributes:
        number: Of the job, from 1.
        request: A complete one.
        settings: The trainer's at that moment.
        robot: Robot profile, name or file.
        folders: Folders of bags to learn from.
        base: Checkpoint to start from.
        serving: Checkpoint that the candidate has to be better than.
    """

    number: int
    request: JobRequest
    settings: TrainerFile
    robot: str
    folders: tuple[str, ...]
    base: str
    serving: str


@dataclass(frozen=True)
class HandOver:
    """A policy that the robot is to be given.

    Attributes:
        checkpoint: Its folder.
        version: Its version.
        instead_of: Version that it replaces; when another one serves nothing is done.
        result: What became of it; empty while it is to be done.
    """

    checkpoint: str
    version: str
    instead_of: str
    result: str = ""


@dataclass(frozen=True)
class State:
    """What became of a job.

    Attributes:
        state: One of `STATES`.
        message: In one sentence.
        promoted: Version of the checkpoint that it promoted; empty for none.
        changed: When, s since 1970.
    """

    state: str = "queued"
    message: str = ""
    promoted: str = ""
    changed: float = 0.0

    @property
    def over(self) -> bool:
        """Whether nothing more comes of it by itself."""
        return self.state not in ("queued", "running", "cancelling", "on_trial")


@dataclass(frozen=True)
class JobFolder:
    """The folder of a job.

    Attributes:
        folder: The folder.
    """

    folder: Path

    @property
    def name(self) -> str:
        """Identifier of the job."""
        return self.folder.name

    @property
    def exists(self) -> bool:
        """Whether it is still there."""
        return (self.folder / "state.json").is_file()

    @property
    def policies(self) -> Path:
        """Where checkpoints of all jobs are stored by their versions."""
        return self.folder.parent.parent / "policies"

    @property
    def index_path(self) -> Path:
        """The trainer's index of episodes."""
        return self.folder.parent.parent / "episodes.jsonl"

    @property
    def run_path(self) -> Path:
        """The run."""
        return self.folder / "run"

    @property
    def plan_path(self) -> Path:
        """What the order means."""
        return self.folder / "plan.json"

    @property
    def progress_path(self) -> Path:
        """How far it is."""
        return self.folder / "progress.json"

    @property
    def log_path(self) -> Path:
        """What the training process said."""
        return self.folder / "log.txt"

    @property
    def order(self) -> Order:
        """What it is asked for."""
        values = json.loads((self.folder / "order.json").read_text())
        where = f"{self.name}: order.json"
        return Order(
            number=values["number"],
            request=from_dict(JobRequest, values["request"], where),
            settings=from_dict(TrainerFile, values["settings"], where),
            robot=values["robot"],
            folders=tuple(values["folders"]),
            base=values["base"],
            serving=values["serving"],
        )

    def set_order(self, order: Order) -> None:
        """Note what it is asked for.

        Raises:
            OSError: The disk is full.
        """
        values = asdict(order) | {"settings": to_dict(order.settings)}
        write_text(self.folder / "order.json", json.dumps(values, indent=2) + "\n")

    @property
    def state(self) -> State:
        """What became of it."""
        return State(**json.loads((self.folder / "state.json").read_text()))

    @property
    def outcome(self) -> dict[str, Any] | None:
        """What its training process has left; None before its end."""
        path = self.folder / "outcome.json"
        if not path.is_file():
            return None
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    def set_state(self, state: str, message: str = "", promoted: str = "") -> State:
        """Note what became of it.

        Raises:
            OSError: The disk is full.
        """
        found = State(state, message, promoted, time.time())
        write_text(self.folder / "state.json", json.dumps(asdict(found), indent=2) + "\n")
        return found

    @property
    def hand_over(self) -> HandOver | None:
        """Which policy the robot is to be given because of it; None for no other one."""
        path = self.folder / "hand_over.json"
        return HandOver(**json.loads(path.read_text())) if path.is_file() else None

    def set_hand_over(self, wanted: HandOver) -> None:
        """Note which policy the robot is to be given, or what became of that.

        Raises:
            OSError: The disk is full.
        """
        write_text(self.folder / "hand_over.json", json.dumps(asdict(wanted), indent=2) + "\n")

    def set_outcome(self, outcome: dict[str, Any]) -> None:
        """Note what came out: the last thing that the training process does.

        Raises:
            OSError: The disk is full.
        """
        write_text(self.folder / "outcome.json", json.dumps(outcome, indent=2) + "\n")


def create(jobs: Path, order: Order) -> JobFolder:
    """Make the folder of a new job, queued.

    Raises:
        OSError: The disk is full.
    """
    job = JobFolder(jobs / f"job-{order.number:06d}")
    job.folder.mkdir(parents=True)
    # Not worth to wait for the disk: a power cut that loses it lets the number of a deleted job be given again.
    (jobs / _NEWEST).write_text(f"{order.number}\n")
    job.set_order(order)
    # Without it the folder is none of a job: a crash in between leaves nothing to do.
    job.set_state("queued")
    return job


def all_jobs(jobs: Path) -> list[JobFolder]:
    """The jobs in a folder, oldest first."""
    found = [job for path in jobs.glob("job-*") if (job := find_job(jobs, path.name)) is not None]
    return sorted(found, key=lambda job: _number(job.folder))


def find_job(jobs: Path, name: str) -> JobFolder | None:
    """The job of a name in a folder; None when there is none."""
    job = JobFolder(jobs / name)
    return job if _NAME.fullmatch(name) and job.exists else None


def next_number(jobs: Path) -> int:
    """Number of the next job; one that was given is never given again."""
    newest = jobs / _NEWEST
    text = newest.read_text().strip() if newest.is_file() else ""
    given = int(text) if text.isdecimal() else 0
    return max(given, *(_number(path) for path in jobs.glob("job-*") if _NAME.fullmatch(path.name)), 0) + 1


def _number(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])
