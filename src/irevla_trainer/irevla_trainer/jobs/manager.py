"""One job at a time, in a process of its own; the others wait, are refused, or are over.

    manager = JobManager(folder, settings, robot, index)
    answer = manager.submit(JobRequest(), queue=False, serving="runs/x/checkpoint")
    while not manager.poll(): ...

Nothing here waits: `poll` looks at what has happened meanwhile.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from irevla_policy.errors import RunError, UserError
from irevla_policy.model.checkpoint import check_fits, read_config
from irevla_policy.recording.storage import find_bags
from irevla_policy.robot.profile import RobotProfile
from irevla_policy.settings import SettingsError
from irevla_policy.sim.tasks import TaskFile, load_tasks
from irevla_trainer.data.index import EpisodeIndex
from irevla_trainer.evaluate import EvaluationTask
from irevla_trainer.jobs.job import JobFolder, Order, State, all_jobs, create, find_job, next_number
from irevla_trainer.jobs.plan import usable
from irevla_trainer.jobs.progress import Progress, read_progress
from irevla_trainer.jobs.request import JobRequest, TrainerFile
from irevla_trainer.jobs.trials import TrialsVerdict, judge_trials, trials_so_far
from irevla_trainer.jobs.worker import STOPPED

_STOPS_WITHIN = 4.0
"""s that a training process has to stop before it is killed; nothing is lost by that."""

_TRIES = 3
"""How often a training process that was killed is started again."""


@dataclass(frozen=True)
class Answer:
    """What a request led to.

    Attributes:
        accepted: Whether it will be done.
        job: The new job, or the running one that it was refused for; empty for none.
        reason: Why it was refused, or what will happen.
    """

    accepted: bool
    job: str
    reason: str


def training_process(job: Path) -> list[str]:
    """The command of the process that works on a job."""
    return [sys.executable, "-m", "irevla_trainer.jobs.worker", str(job)]


@dataclass
class _Running:
    job: JobFolder
    process: subprocess.Popen[bytes]
    tries: int = 1
    kill_at: float = float("inf")
    cancelled: bool = False


class JobManager:
    """The jobs in a trainer's folder. Only one manager works in a folder at a time; the caller sees to that.

    Args:
        folder: Of the trainer: jobs, policies and the index lie in it.
        settings: Of the trainer.
        robot: Robot profile, name or file.
        profile: The robot.
        index: Episodes of the watched folders, kept up to date by the caller.
        keep_free_gb: What must be free on the disk for a job to begin.
        resume: Whether jobs that an earlier process has left unfinished go on.
        command: What the training process of a job's folder is.
    """

    def __init__(
        self,
        folder: Path,
        settings: TrainerFile,
        robot: str,
        profile: RobotProfile,
        index: EpisodeIndex,
        keep_free_gb: float = 1.0,
        resume: bool = True,
        command: Callable[[Path], list[str]] = training_process,
    ) -> None:
        self._jobs = folder / "jobs"
        self._settings, self._robot, self._profile, self._index = settings, robot, profile, index
        self._tasks: TaskFile = load_tasks(settings.task_file)
        self._keep_free, self._command = keep_free_gb, command
        self._running: _Running | None = None
        self._queue: list[JobFolder] = []
        self.newest: JobFolder | None = None
        for job in all_jobs(self._jobs):
            self.newest = job
            state = job.state.state
            if state in ("queued", "running"):
                job.set_state("interrupted", "the trainer ended before the job did; it can be resumed")
            if resume and state in ("queued", "running", "interrupted"):
                job.set_state("queued", "goes on where it was interrupted")
                self._queue.append(job)

    @property
    def running(self) -> JobFolder | None:
        """The job that is worked on."""
        return self._running.job if self._running else None

    @property
    def progress(self) -> Progress:
        """How far the running job, or else the newest, is."""
        job = self.running or self.newest
        return read_progress(job.progress_path) if job else Progress()

    def unsettled(self) -> JobFolder | None:
        """The newest job, if it has promoted a policy that nobody has taken over yet."""
        job = self.newest
        return job if job is not None and job.state.promoted and not job.settled else None

    # -- requests -----------------------------------------------------------------------------------------------------

    def submit(self, request: JobRequest, queue: bool, serving: str) -> Answer:
        """Start a job, queue it, or say why not.

        Args:
            request: What to do.
            queue: Whether it may wait for the running job.
            serving: Folder of the checkpoint that serves; empty when that is not known.
        """
        busy = self._busy()
        if busy and not queue:
            return busy
        try:
            order = self._order(request, serving)
        except (UserError, RunError, OSError) as error:
            return Answer(False, "", str(error))
        return self._enqueue(create(self._jobs, order), f"{order.request.stage} from {order.base}")

    def resume(self, name: str, queue: bool = False) -> Answer:
        """Let a job go on that is over without having succeeded.

        Args:
            name: The job.
            queue: Whether it may wait for the running one.
        """
        job = self.find(name)
        if job is None:
            return Answer(False, "", f"there is no job {name!r}")
        state = job.state
        if not state.over or state.state == "succeeded":
            return Answer(False, name, f"{name} is {state.state}: there is nothing to resume")
        busy = self._busy()
        if busy and not queue:
            return busy
        (job.folder / "outcome.json").unlink(missing_ok=True)
        job.set_state("queued", "goes on where it was")
        return self._enqueue(job, "goes on where it was")

    def _busy(self) -> Answer | None:
        """The refusal of a request that does not want to wait; None when it need not."""
        busy = self.running or (self._queue[0] if self._queue else None)
        if busy is None:
            return None
        return Answer(False, busy.name, f"{busy.name} is running; wait for it, cancel it, or set queue")

    def _enqueue(self, job: JobFolder, what: str) -> Answer:
        waiting = len(self._queue) + bool(self._running)
        self._queue.append(job)
        self.newest = job
        return Answer(True, job.name, f"{what}, after {waiting} other jobs" if waiting else what)

    def cancel(self, name: str = "") -> Answer:
        """Stop a job; what it has finished is kept.

        Args:
            name: The job; empty for the running one.
        """
        for job in self._queue:
            if job.name == name:
                self._queue.remove(job)
                job.set_state("cancelled", "cancelled before it began")
                return Answer(True, name, "cancelled before it began")
        waiting = self.on_trial()
        if waiting is not None and name == waiting.name:
            waiting.set_state("cancelled", "the trials were refused; the policy before stays")
            return Answer(True, name, "the trials were refused; /irevla/rollback_policy if the candidate drives")
        running = self._running
        if running is None or name not in ("", running.job.name):
            return Answer(False, name, self._why_not_running(name))
        running.cancelled = True
        self._stop(running)
        return Answer(True, running.job.name, "stopping; what is finished is kept, and the job can be resumed")

    def _why_not_running(self, name: str) -> str:
        if not name:
            return "no job is running"
        job = self.find(name)
        return f"{name} is {job.state.state}" if job else f"there is no job {name!r}"

    def _order(self, request: JobRequest, serving: str) -> Order:
        complete = self._settings.complete(request)
        for task in map(EvaluationTask.parse, complete.tasks if self._settings.worlds_in != "none" else ()):
            self._tasks.variation(task.task, task.variation)
        base = complete.base or serving
        if not base:
            raise SettingsError("base_checkpoint: no policy serves, so that the request must name one")
        _, robot, _ = read_config(base)
        check_fits(base, robot, self._profile)
        folders = complete.bags or tuple(str(folder) for folder in self._index.folders)
        order = Order(
            next_number(self._jobs), complete, self._settings, self._robot, folders, str(Path(base).absolute())
        )
        if complete.bags:
            for folder in complete.bags:
                find_bags(folder)
        else:
            usable(self._index.episodes, order)
        self._jobs.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self._jobs).free / 1e9
        if free < self._keep_free:
            raise RunError(
                f"the disk of {self._jobs} has {free:.2f} GB free, {self._keep_free:g} GB must be; make room"
            )
        return order

    def find(self, name: str) -> JobFolder | None:
        """A job by its name."""
        return find_job(self._jobs, name)

    # -- the process --------------------------------------------------------------------------------------------------

    def poll(self) -> JobFolder | None:
        """Look after the training process; returns the job that is over now, if one is."""
        if self._running is None:
            if self._queue:
                self._start(self._queue.pop(0))
            return None
        running = self._running
        code = running.process.poll()
        if code is None:
            if time.monotonic() > running.kill_at:
                os.killpg(running.process.pid, signal.SIGKILL)
            return None
        running.process.stdin.close()  # type: ignore[union-attr]
        if self._goes_on(running, code):
            return None
        self._running = None
        self._conclude(running, code)
        return running.job

    def _start(self, job: JobFolder, tries: int = 1) -> None:
        job.set_state("running")
        with job.log_path.open("ab") as log:
            process = subprocess.Popen(
                self._command(job.folder),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                # Ctrl-C is for the trainer, which tells its process itself.
                start_new_session=True,
            )
        self._running = _Running(job, process, tries)

    def _goes_on(self, running: _Running, code: int) -> bool:
        """Start a process again that something has killed."""
        if code >= 0 or running.cancelled or running.job.outcome is not None or running.tries >= _TRIES:
            return False
        self._start(running.job, running.tries + 1)
        return True

    def _conclude(self, running: _Running, code: int) -> State:
        job, outcome = running.job, running.job.outcome
        if outcome is None and running.cancelled:
            return job.set_state("cancelled", "cancelled; what was finished is kept, and the job can be resumed")
        if outcome is None and code == STOPPED:
            return job.set_state("interrupted", "the training process was told to stop; the job can be resumed")
        if outcome is None:
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            again = f", {_TRIES} times" if running.tries >= _TRIES else ""
            return job.set_state("failed", f"the training process ended with {how}{again}; see {job.log_path}")
        if "failed" in outcome:
            return job.set_state("failed", outcome["failed"])
        if outcome.get("awaits_trials"):
            return job.set_state("on_trial", self._trials_message(job, 0))
        return job.set_state("succeeded", outcome["message"], outcome["version"] if outcome["promoted"] else "")

    # -- trials -------------------------------------------------------------------------------------------------------

    def on_trial(self) -> JobFolder | None:
        """The newest job, if its candidate waits for trials on the robot."""
        job = self.newest
        return job if job is not None and job.state.state == "on_trial" else None

    def judge_trials(self, job: JobFolder) -> TrialsVerdict | None:
        """Look at the labelled episodes of a candidate; its job is over when there are enough."""
        outcome, gate = job.outcome or {}, job.order.settings.gate
        episodes = self._index.episodes
        verdict = judge_trials(episodes, outcome["base"], outcome["version"], gate)
        if verdict is not None:
            promoted = outcome["version"] if verdict.promoted else ""
            job.set_outcome(outcome | {"promoted": verdict.promoted, "trials": verdict.to_json()})
            job.set_state("succeeded", verdict.reason, promoted)
            return verdict
        message = self._trials_message(job, trials_so_far(episodes, outcome["version"]))
        if message != job.state.message:
            job.set_state("on_trial", message)
        return None

    @staticmethod
    def _trials_message(job: JobFolder, done: int) -> str:
        outcome, trials = job.outcome or {}, job.order.settings.gate.trials
        return (
            f"{outcome['message']}; {done} of {trials} labelled trials: to approve them let it drive with "
            f"/irevla/load_policy {outcome['checkpoint']}, to refuse cancel {job.name}"
        )

    def _stop(self, running: _Running) -> None:
        if running.process.poll() is None:
            running.process.send_signal(signal.SIGINT)
            running.kill_at = min(running.kill_at, time.monotonic() + _STOPS_WITHIN)

    def close(self) -> None:
        """Stop the training process; its job can be resumed."""
        running, self._running = self._running, None
        if running is None:
            return
        self._stop(running)
        try:
            running.process.wait(_STOPS_WITHIN)
        except subprocess.TimeoutExpired:
            os.killpg(running.process.pid, signal.SIGKILL)
            running.process.wait()
        if running.job.outcome is not None:
            self._conclude(running, running.process.returncode)
        else:
            running.job.set_state("interrupted", "the trainer was told to end; the job can be resumed")
