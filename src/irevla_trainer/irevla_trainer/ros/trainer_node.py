"""`irevla_trainer`: turns recorded episodes into better policies while the robot works.

/irevla/retrain starts a job, /irevla/run_cycle does the same with feedback; the training runs in a process of its own.
A candidate that passes the gate is handed to the policy node by /irevla/load_policy.
"""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.node import Node
from rclpy.task import Future

from irevla_msgs.action import RunCycle
from irevla_msgs.msg import EpisodeInfo, TrainingStatus
from irevla_msgs.srv import CancelTraining, Retrain
from irevla_policy.errors import UserError
from irevla_policy.lock import FolderLock
from irevla_policy.paths import config_folder, from_anywhere
from irevla_policy.robot.profile import load_profile
from irevla_policy.ros import qos
from irevla_policy.ros.guard_messages import diagnostics
from irevla_policy.ros.lifecycle import spin
from irevla_policy.ros.messages import time_message
from irevla_policy.ros.parameters import NodeSettings, declare
from irevla_policy.settings import load, setting
from irevla_trainer.data.index import EpisodeIndex
from irevla_trainer.jobs.job import JobFolder
from irevla_trainer.jobs.manager import Answer, JobManager
from irevla_trainer.jobs.policies import remember_serving
from irevla_trainer.jobs.progress import read_progress
from irevla_trainer.jobs.request import JobRequest, TrainerFile
from irevla_trainer.ros.handing_over import HandingOver
from irevla_trainer.ros.training_status import training_status

_POLL = 0.1
"""s between two looks at the training process."""

_STATUS_PERIOD = 0.5
"""s between two messages about progress; changes of state are told at once."""

_SILENT = 5.0
"""s after which a policy node that says nothing is gone."""

_STAGES = {
    Retrain.Request.STAGE_DEFAULT: "",
    Retrain.Request.STAGE_SFT: "sft",
    Retrain.Request.STAGE_RL: "rl",
    Retrain.Request.STAGE_CYCLE: "cycle",
}


@dataclass(frozen=True)
class TrainerSettings(NodeSettings):
    """Parameters of the trainer node."""

    config: str = setting("trainer", "What a job is: a file in config, or a path")
    folder: Path = setting(
        factory=lambda: Path("trainer"), doc="Folder of jobs, policies and the index; made when missing"
    )
    watch: tuple[str, ...] = setting(("bags",), "Folders of bags whose episodes are learnt from")
    checkpoint: str = setting("", "Checkpoint to start from when no policy node says what it serves")
    refresh: float = setting(5.0, "Time between two looks at the watched folders", unit="s", above=0.0)
    resume: bool = setting(True, "Whether jobs that were interrupted go on when the trainer comes up")
    keep_free_gb: float = setting(1.0, "What must be free on the disk for a job to begin", unit="GB", at_least=0.0)


class TrainerNode(Node):
    """The ROS interface of the job manager."""

    def __init__(self) -> None:
        super().__init__("irevla_trainer")
        settings = declare(self, TrainerSettings)
        profile = load_profile(settings.robot)
        folder = settings.folder.absolute()
        # Jobs go on in a trainer that is started from another folder.
        orders = load(TrainerFile, _config(settings.config))
        orders = dataclasses.replace(orders, task_file=from_anywhere(orders.task_file))
        self._lock = FolderLock(folder)
        self._index = EpisodeIndex([Path(path) for path in settings.watch], profile, folder / "episodes.jsonl")
        self._manager = JobManager(
            folder,
            orders,
            from_anywhere(settings.robot),
            profile,
            self._index,
            settings.keep_free_gb,
            settings.resume,
        )
        self._policies = folder / "policies"
        self._manager.otherwise = settings.checkpoint
        self._serving_version, self._heard, self._remembered = "", -math.inf, ""
        self._ends: dict[str, list[Future]] = {}
        self._goals: dict[str, ServerGoalHandle] = {}
        self._said: tuple[Any, ...] = ()
        self._said_at = -math.inf
        self._status = self.create_publisher(TrainingStatus, "/irevla/training_status", qos.latched())
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.event())
        self.create_service(Retrain, "/irevla/retrain", self._on_retrain)
        self.create_service(CancelTraining, "/irevla/cancel_training", self._on_cancel)
        self._handing_over = HandingOver(self)
        self._action = ActionServer(
            self,
            RunCycle,
            "/irevla/run_cycle",
            execute_callback=self._execute,
            cancel_callback=self._on_cancel_goal,
        )
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.event())
        self._look = threading.Event()
        self._closing = threading.Event()
        self.create_subscription(EpisodeInfo, "/irevla/episode_info", self._on_episode, qos.latched())
        self._watcher = threading.Thread(target=self._watch, args=(settings.refresh,), name="index", daemon=True)
        self._watcher.start()
        self.create_timer(_POLL, self._poll)
        self.create_timer(1.0, self._report)

    def close(self) -> None:
        """Stop the training; its job can be resumed."""
        self._closing.set()
        self._look.set()
        self._manager.close()
        self._publish(force=True)
        self._lock.release()

    # -- requests -----------------------------------------------------------------------------------------------------

    def _on_retrain(self, request: Retrain.Request, response: Retrain.Response) -> Retrain.Response:
        answer = self._submit(request)
        response.accepted, response.job_id, response.reason = answer.accepted, answer.job, answer.reason
        return response

    def _submit(self, request: Retrain.Request | RunCycle.Goal) -> Answer:
        """Start what a request or a goal asks for."""
        try:
            if request.resume_job:
                answer = self._manager.resume(request.resume_job, request.queue)
            elif request.stage not in _STAGES:
                answer = Answer(
                    False, "", f"stage: must be one of STAGE_* (0 to {max(_STAGES)}), found {request.stage}"
                )
            else:
                answer = self._manager.submit(
                    JobRequest(
                        stage=_STAGES[request.stage],
                        tasks=tuple(request.tasks),
                        bags=tuple(str(Path(folder).absolute()) for folder in request.bag_folders),
                        iterations=request.iterations,
                        seed=request.seed,
                        base=request.base_checkpoint,
                    ),
                    request.queue,
                )
        except OSError as error:
            answer = _full(error)
        self._log(f"{answer.job or 'request refused'}: {answer.reason}", good=answer.accepted)
        return answer

    def _on_cancel(self, request: CancelTraining.Request, response: CancelTraining.Response) -> CancelTraining.Response:
        answer = self._cancel(request.job_id)
        response.accepted, response.job_id, response.message = answer.accepted, answer.job, answer.reason
        return response

    def _cancel(self, name: str) -> Answer:
        try:
            answer = self._manager.cancel(name)
        except OSError as error:
            answer = _full(error)
        self.get_logger().info(f"cancel {answer.job or name}: {answer.reason}")
        if answer.accepted:
            self._publish(self._manager.find(answer.job))
        return answer

    # -- the action ---------------------------------------------------------------------------------------------------

    async def _execute(self, goal: ServerGoalHandle) -> RunCycle.Result:
        answer = self._submit(goal.request)
        result = RunCycle.Result(job_id=answer.job, message=answer.reason)
        if not answer.accepted:
            goal.abort()
            return result
        self._goals[answer.job] = goal
        over: Future = Future()
        self._ends.setdefault(answer.job, []).append(over)
        job = await over
        self._goals.pop(answer.job, None)
        state, outcome = job.state, job.outcome or {}
        result.succeeded = state.state == "succeeded"
        result.promoted_version, result.message = state.promoted, state.message
        result.checkpoint = outcome.get("checkpoint", "")
        if state.state == "cancelled" and goal.is_cancel_requested:
            goal.canceled()
        elif result.succeeded:
            goal.succeed()
        else:
            goal.abort()
        return result

    def _on_cancel_goal(self, goal: ServerGoalHandle) -> CancelResponse:
        name = next((name for name, known in self._goals.items() if known.goal_id == goal.goal_id), "")
        if not name:
            return CancelResponse.REJECT
        return CancelResponse.ACCEPT if self._cancel(name).accepted else CancelResponse.REJECT

    # -- the jobs -----------------------------------------------------------------------------------------------------

    def _poll(self) -> None:
        try:
            self._look_after_jobs()
            self._hand_over()
        except (OSError, UserError) as error:
            self._complain(error)

    def _look_after_jobs(self) -> None:
        over = self._manager.poll()
        if over is not None:
            state = over.state
            self._log(f"{over.name} {state.state}: {state.message}", good=state.state in ("succeeded", "on_trial"))
            # Also when the next one begins at once.
            self._publish(over)
        else:
            self._publish()
        # A queued job that is cancelled never runs.
        for name, ends in list(self._ends.items()):
            waiting = self._manager.find(name)
            if waiting is not None and waiting.state.over:
                del self._ends[name]
                for end in ends:
                    end.set_result(waiting)

    def _try_out(self) -> None:
        """See whether the trials of a candidate have decided."""
        judged = self._manager.judge_trials()
        if judged is not None:
            job, verdict = judged
            self._log(f"{job.name}: {verdict.reason}", good=verdict.promoted)
            self._publish(job)

    def _hand_over(self) -> None:
        """Let the policy node load what the newest decision wants to serve."""
        if time.monotonic() > self._heard + _SILENT:
            self._serving_version = ""
        job = self._manager.to_hand_over
        wanted = job.hand_over if job is not None else None
        if wanted is None:
            return
        done = self._handing_over.step(wanted, self._serving_version)
        if done is None:
            return
        if done.serves:
            self._manager.serving, self._serving_version = wanted.checkpoint, wanted.version
        job = self._manager.settle(done.result)
        self._log(f"{job.name}: {done.result}", good=done.serves)
        self._publish(job)

    # -- the graph ----------------------------------------------------------------------------------------------------

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == "irevla_policy":
                values = {entry.key: entry.value for entry in status.values}
                self._serving_version = values.get("policy_version", "")
                self._heard = time.monotonic()
                if self._serving_version:
                    self._manager.serving = values["checkpoint"]

    def _remember(self) -> None:
        """Keep on the disk what the robot runs, for its next start, but no candidate that may not or does not stay."""
        tried, replacing = self._manager.on_trial, self._manager.to_hand_over
        passing = {(tried.outcome or {})["version"]} if tried is not None else set()
        if replacing is not None and replacing.hand_over is not None:
            passing.add(replacing.hand_over.instead_of)
        if self._serving_version not in {"", self._remembered, *passing}:
            remember_serving(self._policies, Path(self._manager.serving))
            self._remembered = self._serving_version

    def _on_episode(self, message: EpisodeInfo) -> None:
        if message.state != EpisodeInfo.STATE_RECORDING:
            self._look.set()

    def _watch(self, period: float) -> None:
        """Keep the index up to date, in a thread of its own: the first look may take long."""
        while not self._closing.is_set():
            try:
                for episode in self._index.refresh().new:
                    if episode.problem:
                        self.get_logger().warning(f"{episode.bag}: not used: {episode.problem}")
            except OSError as error:
                self.get_logger().error(f"the index cannot be written: {error}", throttle_duration_sec=60.0)
            self._look.wait(period)
            self._look.clear()

    # -- what goes out ------------------------------------------------------------------------------------------------

    def _publish(self, told: JobFolder | None = None, force: bool = False) -> None:
        """Publish the status when there is something new in it.

        Args:
            told: The job that it is about; the running one or else the newest when left out.
            force: Publish it again all the same.
        """
        job = told or self._manager.running or self._manager.newest
        if job is None:
            if not self._said or force:
                self._said = ("",)
                self._status.publish(self._stamped(TrainingStatus()))
            return
        progress = read_progress(job.progress_path)
        message = training_status(job, progress)
        now = time.monotonic()
        # As text: figures that are not known yet are NaN, and no NaN equals another.
        news, change = str(message), (job.name, message.state, progress.stage, progress.task)
        due = told is not None or now - self._said_at >= _STATUS_PERIOD or change != self._said[1:]
        if not force and (self._said[:1] == (news,) or not due):
            return
        self._said, self._said_at = (news, *change), now
        self._status.publish(self._stamped(message))
        goal = self._goals.get(job.name)
        if goal is not None and goal.is_active:
            goal.publish_feedback(RunCycle.Feedback(status=message))

    def _log(self, text: str, good: bool) -> None:
        # rclpy wants one severity for every line of code that logs.
        if good:
            self.get_logger().info(text)
        else:
            self.get_logger().error(text)

    def _complain(self, error: OSError | UserError) -> None:
        """Say, at most every 5 s, what keeps the trainer from going on."""
        reason = _full(error).reason if isinstance(error, OSError) else str(error)
        self.get_logger().error(reason, throttle_duration_sec=5.0)

    def _stamped(self, message: TrainingStatus) -> TrainingStatus:
        message.header.stamp = time_message(int(self.get_clock().now().nanoseconds))
        return message

    def _report(self) -> None:
        try:
            self._try_out()
            self._remember()
        except (OSError, UserError) as error:
            self._complain(error)
        episodes = self._index.episodes
        counts = {name: sum(episode.dataset == name for episode in episodes) for name in ("D_e", "D_RL")}
        problems = sum(bool(episode.problem) for episode in episodes)
        job = self._manager.running
        values = {
            "job": job.name if job else "",
            "episodes": str(len(episodes)),
            "demonstrations": str(counts["D_e"]),
            "successes": str(counts["D_RL"]),
            "problems": str(problems),
            "serving": self._manager.serving or self._manager.otherwise,
            "serving_version": self._serving_version,
        }
        level = DiagnosticStatus.WARN if problems else DiagnosticStatus.OK
        text = f"{problems} bags cannot be used" if problems else f"training {job.name}" if job else "idle"
        now = int(self.get_clock().now().nanoseconds)
        self._diagnostics.publish(diagnostics("irevla_trainer", level, text, values, now))


def _full(error: OSError) -> Answer:
    """The answer to a request for which the disk has no room, or worse."""
    return Answer(False, "", f"{error.filename or 'the trainer'}: {error.strerror or error}")


def _config(name: str) -> Path:
    """A file of that path, or of that name in the suite's config."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return path
    found = config_folder() / f"{name}.yaml"
    if not found.is_file():
        raise UserError(f"config: no file {name} and no {found}")
    return found


def main(args: list[str] | None = None) -> None:
    """Run the node until SIGINT."""
    spin(TrainerNode, args)


if __name__ == "__main__":
    main()
