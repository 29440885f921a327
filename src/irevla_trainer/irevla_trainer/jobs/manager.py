"""One job at a time, in a process of its own; the others wait, are refused, or are over.

    manager = JobManager(folder, settings, robot, profile, index)
    manager.serving = "runs/x/checkpoint"
    answer = manager.submit(JobRequest())
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
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from irevla_policy.errors import RunError, UserError
from irevla_policy.model.checkpoint import check_fits, read_config
from irevla_policy.recording.storage import check_bags
from irevla_policy.robot.profile import RobotProfile
from irevla_policy.settings import SettingsError
from irevla_policy.sim.tasks import TaskFile, load_tasks
from irevla_trainer.data.index import EpisodeIndex
from irevla_trainer.evaluate import EvaluationTask
from irevla_trainer.jobs.job import HandOver, JobFolder, Order, State, all_jobs, create, find_job, next_number
from irevla_trainer.jobs.plan import usable
from irevla_trainer.jobs.policies import annotate
from irevla_trainer.jobs.request import JobRequest, TrainerFile
from irevla_trainer.jobs.trials import TrialsVerdict, judge_trials, trials_so_far
from irevla_trainer.jobs.worker import NO_ROOM, STOPPED
from irevla_trainer.priority import apart

_STOPS_WITHIN = 4.0
"""s that a training process has to stop before it is killed; nothing is lost by that."""

_TRIES = 3
"""How often a training process is started in all, where something kills it."""

_HANDING_OVER = 30.0
"""s that a waiting job waits for what the one before has promoted to serve: it starts from it."""

_CANCELLED = "cancelled; what was finished is kept, and the job can be resumed"


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

    Attributes:
        serving: Folder of the checkpoint that serves, as far as the caller knows; empty when it does not.
        otherwise: Checkpoint that a job starts from when it is not known what serves; empty for none.
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
        self._on_trial: JobFolder | None = None
        self._to_hand_over: JobFolder | None = None
        self._wait_until = -float("inf")
        self.serving = self.otherwise = ""
        self._newest: JobFolder | None = None
        for job in all_jobs(self._jobs):
            self._take_up(job, resume)

    def _take_up(self, job: JobFolder, resume: bool) -> None:
        """Go on with what an earlier process has left of a job."""
        self._newest = job
        state = job.state.state
        if state == "cancelling":
            job.set_state("cancelled", _CANCELLED)
        elif state == "on_trial":
            self._on_trial = job
        elif resume and state in ("queued", "running", "interrupted"):
            job.set_state("queued", "goes on where it was interrupted")
            self._queue.append(job)
        elif state in ("queued", "running"):
            job.set_state("interrupted", "the trainer ended before the job did; it can be resumed")
        wanted = job.hand_over
        if wanted is not None and not wanted.result:
            self._want(job, wanted)

    @property
    def running(self) -> JobFolder | None:
        """The job that is worked on."""
        return self._running.job if self._running else None

    @property
    def newest(self) -> JobFolder | None:
        """The job that was asked for last; None without any, or when its folder was deleted."""
        return self._newest if self._newest is not None and self._newest.exists else None

    # -- requests -----------------------------------------------------------------------------------------------------

    def submit(self, request: JobRequest, queue: bool = False) -> Answer:
        """Start a job, queue it, or say why not.

        Args:
            request: What to do.
            queue: Whether it may wait for other jobs.
        """
        busy = self._busy()
        if busy and not queue:
            return busy
        try:
            order = self._order(request)
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
        if busy is not None:
            return Answer(False, busy.name, f"{busy.name} is running; wait for it, cancel it, or set queue")
        if self._on_trial is not None:
            name = self._on_trial.name
            return Answer(False, name, f"{name} is on trial; label its trials, cancel it, or set queue")
        return None

    def _enqueue(self, job: JobFolder, what: str) -> Answer:
        waiting = len(self._queue) + bool(self._running)
        self._queue.append(job)
        self._newest = job
        return Answer(True, job.name, f"{what}, after {waiting} other jobs" if waiting else what)

    def cancel(self, name: str = "") -> Answer:
        """Stop a job; what it has finished is kept.

        Args:
            name: The job; empty for the running one, or else the next.

        Raises:
            OSError: The disk is full.
        """
        running = self._running
        if running is None and self._queue and not name:
            name = self._queue[0].name
        for job in self._queue:
            if job.name == name:
                job.set_state("cancelled", "cancelled before it began")
                self._queue.remove(job)
                return Answer(True, name, "cancelled before it began")
        if self._on_trial is not None and name == self._on_trial.name:
            return self._refuse_trials(self._on_trial)
        if running is None or name not in ("", running.job.name):
            return Answer(False, name, self._why_not_running(name))
        running.cancelled = True
        self._stop(running)
        # On a full disk it is stopped all the same; only a trainer that comes up meanwhile would go on with it.
        with suppress(OSError):
            running.job.set_state("cancelling", "stopping")
        return Answer(True, running.job.name, "stopping; what is finished is kept, and the job can be resumed")

    def _why_not_running(self, name: str) -> str:
        if not name:
            return "no job is running"
        job = self.find(name)
        return f"{name} is {job.state.state}" if job else f"there is no job {name!r}"

    def _order(self, request: JobRequest) -> Order:
        complete = self._settings.complete(request)
        tasks = [EvaluationTask.parse(text).named_in(self._tasks) for text in complete.tasks]
        for number, task in enumerate(tasks):
            if self._settings.worlds_in != "none":
                self._tasks.variation(task.task, task.variation)
            if task in tasks[:number]:
                raise SettingsError(f"tasks: expected every task once, found {str(task)!r} again")
        complete = replace(complete, tasks=tuple(map(str, tasks)))
        base = complete.base or self.serving or self.otherwise
        if not base:
            raise SettingsError("base_checkpoint: no policy serves, so that the request must name one")
        _, robot, _ = read_config(base)
        check_fits(base, robot, self._profile)
        folders = complete.bags or tuple(str(folder) for folder in self._index.folders)
        order = Order(
            next_number(self._jobs),
            complete,
            self._settings,
            self._robot,
            folders,
            base=str(Path(base).absolute()),
            serving=str(Path(self.serving or base).absolute()),
        )
        if complete.bags:
            for folder in complete.bags:
                check_bags(folder)
        else:
            self._check_episodes(order)
        self._jobs.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self._jobs).free / 1e9
        if free < self._keep_free:
            raise RunError(
                f"the disk of {self._jobs} has {free:.2f} GB free, {self._keep_free:g} GB must be; make room"
            )
        return order

    def _check_episodes(self, order: Order) -> None:
        """Refuse a job without anything to learn from."""
        try:
            usable(self._index.episodes, order, self._tasks)
        except SettingsError as error:
            if self._index.complete:
                raise
            done, total = self._index.progress
            so_far = f", {done} of {total}" if total else ""
            raise SettingsError(f"the episodes are still being looked at{so_far}; ask again") from error

    def find(self, name: str) -> JobFolder | None:
        """A job by its name."""
        return find_job(self._jobs, name)

    # -- the process --------------------------------------------------------------------------------------------------

    def poll(self) -> JobFolder | None:
        """Look after the training process; returns the job that is over now, if one is.

        Raises:
            OSError: The disk is full; the next call tries again.
        """
        running = self._running
        if running is None:
            return self._start_next() if self._queue and self._may_start() else None
        code = running.process.poll()
        if code is None:
            if time.monotonic() > running.kill_at:
                os.killpg(running.process.pid, signal.SIGKILL)
            return None
        running.process.stdin.close()  # type: ignore[union-attr]
        if self._goes_on(running, code):
            return None
        self._conclude(running, code)
        self._running = None
        return running.job

    def _start_next(self) -> JobFolder | None:
        """Start the first job of the queue; returns it when it is over already, because it cannot be read."""
        job, failed = self._queue[0], None
        try:
            self._start(job)
        except UserError as error:
            job.set_state("failed", str(error))
            failed = job
        del self._queue[0]
        return failed

    def _may_start(self) -> bool:
        """Whether what the next job starts from is known: what the one before has promoted serves, or will not."""
        handing_over = self._to_hand_over is not None and time.monotonic() < self._wait_until
        return self._on_trial is None and not handing_over

    def _start(self, job: JobFolder, tries: int = 1) -> None:
        if not job.plan_path.is_file() and self.serving:
            # What serves now, not when it was asked for.
            order, serving = job.order, str(Path(self.serving).absolute())
            now = replace(order, base=order.base if order.request.base else serving, serving=serving)
            if now != order:
                job.set_order(now)
        job.set_state("running")
        with job.log_path.open("ab") as log:
            process = subprocess.Popen(
                self._command(job.folder),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                # Ctrl-C is for the trainer, which tells its process itself.
                **apart(),
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
        # Also when it came to its end meanwhile: whoever was told that it stops expects no other policy.
        if running.cancelled:
            return job.set_state("cancelled", _CANCELLED)
        if outcome is None and code == STOPPED:
            return job.set_state("interrupted", "the training process was told to stop; the job can be resumed")
        if outcome is None and code == NO_ROOM:
            return job.set_state("failed", f"{job.folder}: the disk is full; nothing finished is lost")
        if outcome is None:
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            again = f", {_TRIES} times" if running.tries >= _TRIES else ""
            return job.set_state("failed", f"the training process ended with {how}{again}; see {job.log_path}")
        if "failed" in outcome:
            return job.set_state("failed", outcome["failed"])
        if outcome.get("awaits_trials"):
            self._on_trial = job
            return job.set_state("on_trial", self._trials_message(job, 0))
        if not outcome["promoted"]:
            return job.set_state("succeeded", outcome["message"])
        self._want(job, HandOver(outcome["checkpoint"], outcome["version"], instead_of=outcome["serving"]))
        return job.set_state("succeeded", outcome["message"], outcome["version"])

    # -- what is to serve ---------------------------------------------------------------------------------------------

    @property
    def to_hand_over(self) -> JobFolder | None:
        """The job whose policy (`hand_over`) the robot is still to be given."""
        return self._to_hand_over

    def settle(self, result: str) -> JobFolder:
        """Note what became of the policy that was to be handed over; returns its job.

        Raises:
            OSError: The disk is full; it is still to be handed over.
        """
        job = self._to_hand_over
        assert job is not None
        self._settle(job, result)
        self._to_hand_over = None
        return job

    @staticmethod
    def _settle(job: JobFolder, result: str) -> None:
        wanted, state = job.hand_over, job.state
        assert wanted is not None
        job.set_hand_over(replace(wanted, result=result))
        job.set_state(state.state, f"{state.message}; {result}", state.promoted)

    def _want(self, job: JobFolder, wanted: HandOver) -> None:
        """Have a policy handed over; what was still to be is superseded by it."""
        before = self._to_hand_over
        job.set_hand_over(wanted)
        self._to_hand_over, self._wait_until = job, time.monotonic() + _HANDING_OVER
        if before is not None and before.folder != job.folder:
            self._settle(before, f"not handed over: {job.name} came before that")

    # -- trials -------------------------------------------------------------------------------------------------------

    @property
    def on_trial(self) -> JobFolder | None:
        """The job whose candidate waits for trials on the robot."""
        return self._on_trial

    def judge_trials(self) -> tuple[JobFolder, TrialsVerdict] | None:
        """Look at the labelled episodes of the candidate on trial; its job is over when there are enough.

        Raises:
            OSError: The disk is full; the next call tries again.
        """
        job = self._on_trial
        if job is None:
            return None
        outcome, gate = job.outcome or {}, job.order.settings.gate
        verdict = judge_trials(self._index.episodes, outcome["serving"], outcome["version"], gate)
        if verdict is None:
            message = self._trials_message(job, trials_so_far(self._index.episodes, outcome["version"]))
            if message != job.state.message:
                job.set_state("on_trial", message)
            return None
        annotate(Path(outcome["checkpoint"]), {"trials": verdict.to_json()})
        job.set_outcome(outcome | {"promoted": verdict.promoted, "trials": verdict.to_json()})
        self._end_trials(job, "succeeded", verdict.reason, verdict.promoted)
        return job, verdict

    def _refuse_trials(self, job: JobFolder) -> Answer:
        reason = "the trials were refused; the policy before stays, or drives again"
        self._end_trials(job, "cancelled", reason, promoted=False)
        return Answer(True, job.name, reason)

    def _end_trials(self, job: JobFolder, state: str, reason: str, promoted: bool) -> None:
        outcome = job.outcome or {}
        before, candidate = outcome["serving"], outcome["version"]
        if promoted:
            # It drives, or did: labels may come when the robot has started again, with the policy before.
            self._want(job, HandOver(outcome["checkpoint"], candidate, instead_of=before))
        else:
            self._want(job, HandOver(str(job.policies / before), before, instead_of=candidate))
        job.set_state(state, reason, outcome["version"] if promoted else "")
        self._on_trial = None

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
        if running.job.outcome is not None or running.cancelled:
            self._conclude(running, running.process.returncode)
        else:
            running.job.set_state("interrupted", "the trainer was told to end; the job can be resumed")
