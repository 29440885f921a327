"""`irevla_trainer` in a process of its own: requests, status, the action, the hand-over, and kills."""

from __future__ import annotations

import math
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import rclpy
from action_msgs.msg import GoalStatus
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from sample_episodes import PROFILE, write_episode
from trainer_process import SFT, start_trainer

from irevla_msgs.action import RunCycle
from irevla_msgs.msg import TrainingStatus
from irevla_msgs.srv import CancelTraining, LoadPolicy, Retrain
from irevla_policy.model.checkpoint import checkpoint_version, save_checkpoint
from irevla_policy.model.config import ModelSettings, RobotFacts
from irevla_policy.model.policy import VLAPolicy
from irevla_policy.ros import qos
from irevla_policy.ros.guard_messages import diagnostics
from irevla_trainer.jobs.job import all_jobs

pytestmark = pytest.mark.graph  # answers and observations have to come in time

PATIENCE = 30.0


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """The checkpoint that serves."""
    folder = tmp_path_factory.mktemp("base") / "checkpoint"
    save_checkpoint(folder, VLAPolicy.create(ModelSettings(), RobotFacts.of(PROFILE)), {"training": "none"})
    return folder


class DiedError(Exception):
    """The policy node is killed in the middle of a request."""


@dataclass
class User:
    """Who calls the trainer, and the policy node that it hands its policies to."""

    folder: Path
    serves: Path
    loaded: list[str] = field(default_factory=list)
    statuses: list[TrainingStatus] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)
    dies: bool = False
    silent: bool = False

    def __post_init__(self) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("user", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.node.create_service(LoadPolicy, "/irevla/load_policy", self._load)
        self.node.create_subscription(TrainingStatus, "/irevla/training_status", self.statuses.append, qos.latched())
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._diagnostics, qos.event())
        self.action = ActionClient(self.node, RunCycle, "/irevla/run_cycle")
        self.publisher = self.node.create_publisher(DiagnosticArray, "/diagnostics", qos.event())
        self.node.create_timer(0.3, self._report)

    def _report(self) -> None:
        if self.silent:
            return
        values = {"checkpoint": str(self.serves), "policy_version": checkpoint_version(self.serves)}
        self.publisher.publish(diagnostics("irevla_policy", DiagnosticStatus.OK, "active", values, 1))

    def _load(self, request: LoadPolicy.Request, response: LoadPolicy.Response) -> LoadPolicy.Response:
        self.loaded.append(request.path)
        if self.dies:
            # No answer ever goes out.
            raise DiedError
        self.serves = Path(request.path)
        response.accepted, response.policy_version = True, checkpoint_version(request.path)
        return response

    def _diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == "irevla_trainer":
                self.values = {entry.key: entry.value for entry in status.values}

    def call(self, kind: Any, name: str, **fields: Any) -> Any:
        client = self.node.create_client(kind, name)
        assert client.wait_for_service(PATIENCE), name
        return self.answer(client.call_async(kind.Request(**fields)))

    def answer(self, future: Any, seconds: float = PATIENCE) -> Any:
        self.until(future.done, seconds)
        return future.result()

    def retrain(self, **fields: Any) -> Any:
        return self.call(Retrain, "/irevla/retrain", **fields)

    def until(self, reached: Callable[[], bool], seconds: float = PATIENCE) -> None:
        deadline = time.monotonic() + seconds
        while not reached():
            with suppress(DiedError):
                self.executor.spin_once(0.02)
            assert time.monotonic() < deadline, (self.statuses[-1:], self.values)

    def listen(self, seconds: float) -> None:
        """Take what comes, for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with suppress(DiedError):
                self.executor.spin_once(0.02)

    def forget(self) -> None:
        """All that a node has said that was killed, also what is still under way."""
        self.listen(0.5)
        self.statuses.clear()
        self.values.clear()

    def ended(self, seconds: float = 120.0) -> TrainingStatus:
        """The status at the end of a job."""
        over = (
            TrainingStatus.STATE_SUCCEEDED,
            TrainingStatus.STATE_FAILED,
            TrainingStatus.STATE_CANCELLED,
        )
        self.until(lambda: bool(self.statuses) and self.statuses[-1].state in over, seconds)
        return self.statuses[-1]

    def training(self) -> None:
        """Until a job is learning."""
        self.until(lambda: bool(self.statuses) and self.statuses[-1].stage in ("rl", "sft"), 60.0)

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self.context)


@pytest.fixture
def user(tmp_path, base) -> Iterator[User]:
    bags = tmp_path / "bags"
    for number in range(2):
        write_episode(bags / f"drawer-{number}", 4, task="drawer-open")
    made = User(tmp_path, base)
    yield made
    made.close()


@contextmanager
def trainer(user: User, base: Path, verdict: str = "", **changes: Any) -> Iterator[subprocess.Popen]:
    """The node, until the block is left."""
    node = start_trainer(user.folder, verdict, **changes)
    try:
        user.until(lambda: user.values.get("demonstrations") == "2" and bool(user.values["serving_version"]), 60.0)
        yield node
    finally:
        if node.poll() is None:
            node.send_signal(signal.SIGINT)
            assert node.wait(15) == 0


def test_an_empty_request_ends_with_a_better_policy_in_service(user, base):
    with trainer(user, base, verdict="open"):
        asked = time.monotonic()
        answer = user.retrain()
        assert answer.accepted and answer.job_id == "job-000001"
        assert answer.reason == f"cycle from {base}"
        client = user.node.create_client(Retrain, "/irevla/retrain")
        client.wait_for_service(PATIENCE)
        asked = time.monotonic()
        refused = user.answer(client.call_async(Retrain.Request()))
        assert time.monotonic() - asked < 0.1
        assert not refused.accepted and refused.job_id == "job-000001"
        assert "is running; wait for it, cancel it, or set queue" in refused.reason
        status = user.ended()
        assert status.state == TrainingStatus.STATE_SUCCEEDED, status.message
        assert status.progress == 1.0 and status.seconds_left < 0
        assert status.message.startswith("better: trained tasks 0.00 -> 1.00")
        user.until(lambda: bool(user.loaded))
        assert Path(user.loaded[0]).name == status.promoted_version == checkpoint_version(user.loaded[0])
        user.until(lambda: (user.folder / "trainer" / "policies" / "serving").resolve() == user.serves)
        handed_over = f"; the policy node serves {status.promoted_version} now"
        user.until(lambda: user.statuses[-1].message == status.message + handed_over)
        # What has been said is not said again and again.
        said = len(user.statuses)
        user.listen(1.6)
        assert len(user.statuses) == said
    stages = [status.stage for status in user.statuses]
    assert stages.index("rl") < stages.index("sft")
    shares = [status.progress for status in user.statuses]
    assert shares == sorted(shares)
    states = [status.state for status in user.statuses]
    assert states[0] in (TrainingStatus.STATE_IDLE, TrainingStatus.STATE_QUEUED)
    assert {TrainingStatus.STATE_RUNNING, TrainingStatus.STATE_EVALUATING} <= set(states)


@pytest.mark.slow
def test_episodes_that_come_later_are_learnt_from(user, base):
    with trainer(user, base):
        write_episode(user.folder / "bags" / "pressed", 4, task="button-press", source="policy")
        user.until(lambda: user.values["successes"] == "1")
        assert user.retrain(stage=Retrain.Request.STAGE_SFT).accepted
        assert user.ended().state == TrainingStatus.STATE_SUCCEEDED
    plan = (user.folder / "trainer" / "jobs" / "job-000001" / "plan.json").read_text()
    assert "bags/pressed" in plan and "button-press" in plan


@pytest.mark.slow
def test_jobs_that_wait_are_told_of_as_well(user, base):
    with trainer(user, base, verdict="open"):
        assert user.retrain(stage=Retrain.Request.STAGE_SFT).accepted
        second = user.retrain(stage=Retrain.Request.STAGE_SFT, queue=True)
        assert second.accepted and second.job_id == "job-000002"
        cancelled = user.retrain(stage=Retrain.Request.STAGE_SFT, queue=True).job_id
        assert user.call(CancelTraining, "/irevla/cancel_training", job_id=cancelled).accepted
        told = {(cancelled, TrainingStatus.STATE_CANCELLED)}
        told |= {(f"job-00000{number}", TrainingStatus.STATE_SUCCEEDED) for number in (1, 2)}
        user.until(lambda: told <= {(status.job_id, status.state) for status in user.statuses}, 120.0)
        user.until(lambda: len(user.loaded) == 2)
        assert user.statuses[-1].job_id == "job-000002"


@pytest.mark.slow
def test_a_policy_node_that_dies_while_it_loads_is_asked_again(user, base):
    user.dies = True
    with trainer(user, base, verdict="open"):
        assert user.retrain(stage=Retrain.Request.STAGE_SFT).accepted
        user.until(lambda: len(user.loaded) == 1, 120.0)
        user.silent = True
        user.until(lambda: user.values["serving_version"] == "")
        user.dies = user.silent = False
        user.until(lambda: len(user.loaded) == 2)
        user.until(lambda: user.values["serving_version"] == Path(user.loaded[1]).name)


def test_the_action_tells_how_far_it_is_and_can_be_cancelled(user, base):
    told: list[TrainingStatus] = []
    with trainer(user, base, stage2={"sft": SFT | {"steps": 100_000}}):
        assert user.action.wait_for_server(PATIENCE)
        goal = RunCycle.Goal(seed=3)
        handle = user.answer(user.action.send_goal_async(goal, lambda feedback: told.append(feedback.feedback.status)))
        assert handle.accepted
        result = handle.get_result_async()
        user.until(lambda: bool(told) and told[-1].stage == "sft", 90.0)
        asked = time.monotonic()
        assert len(user.answer(handle.cancel_goal_async()).goals_canceling) == 1
        answer = user.answer(result)
        assert time.monotonic() - asked < 5.0
        assert answer.status == GoalStatus.STATUS_CANCELED
        assert not answer.result.succeeded and answer.result.job_id == "job-000001"
        assert "can be resumed" in answer.result.message
        assert not math.isnan(told[-1].success_rate)
        refused = user.answer(user.action.send_goal_async(RunCycle.Goal(tasks=["drawer-opne"])))
        answer = user.answer(refused.get_result_async())
        assert answer.status == GoalStatus.STATUS_ABORTED
        assert "no task 'drawer-opne'" in answer.result.message
        assert user.retrain(resume_job="job-000001").accepted
        user.training()
        assert user.call(CancelTraining, "/irevla/cancel_training").accepted
        assert user.ended().state == TrainingStatus.STATE_CANCELLED


@pytest.mark.slow
def test_the_action_ends_with_what_was_promoted(user, base):
    told: list[TrainingStatus] = []
    with trainer(user, base, verdict="open"):
        assert user.action.wait_for_server(PATIENCE)
        goal = RunCycle.Goal(stage=Retrain.Request.STAGE_SFT)
        handle = user.answer(user.action.send_goal_async(goal, lambda feedback: told.append(feedback.feedback.status)))
        answer = user.answer(handle.get_result_async(), 90.0)
        assert answer.status == GoalStatus.STATUS_SUCCEEDED
        assert answer.result.succeeded and answer.result.job_id == "job-000001"
        assert answer.result.promoted_version == checkpoint_version(answer.result.checkpoint)
        assert answer.result.message.startswith("better: trained tasks 0.00 -> 1.00")
        user.until(lambda: user.loaded == [answer.result.checkpoint])
    assert {status.job_id for status in told} == {"job-000001"}
    assert "sft" in [status.stage for status in told]


def test_what_cannot_be_done_is_one_sentence(user, base):
    cases = {
        "stage: must be one of STAGE_* (0 to 3), found 9": {"stage": 9},
        "no variation 'pink'": {"tasks": ["drawer-open:pink"]},
        "/nowhere: no such checkpoint folder": {"base_checkpoint": "/nowhere"},
        "/nowhere: no such bag or folder of bags": {"bag_folders": ["/nowhere"]},
        "there is no job 'job-7'": {"resume_job": "job-7"},
    }
    with trainer(user, base):
        for reason, fields in cases.items():
            answer = user.retrain(**fields)
            assert not answer.accepted
            assert reason in answer.reason
            assert "\n" not in answer.reason


@pytest.mark.slow
def test_a_trainer_that_is_killed_leaves_no_process_and_goes_on_when_it_comes_again(user, base):
    with trainer(user, base) as node:
        user.retrain()
        user.training()
        node.kill()
        node.wait()
    user.forget()
    with trainer(user, base):
        status = user.ended()
        assert status.job_id == "job-000001"
        assert status.state == TrainingStatus.STATE_SUCCEEDED, status.message


def test_two_trainers_never_share_a_folder(user, base):
    with trainer(user, base):
        second = start_trainer(user.folder, stderr=subprocess.PIPE)
        _, said = second.communicate(timeout=30)
        assert second.returncode == 2
        assert f"{user.folder / 'trainer'}: another process (" in said.decode()


def kill_at_random(user: User, base: Path, kills: int, seed: int) -> None:
    """A job whenever there is none, and at random moments a SIGKILL for the node or its training process."""
    draw = random.Random(seed)
    idle = (TrainingStatus.STATE_IDLE, TrainingStatus.STATE_SUCCEEDED)
    for _ in range(kills):
        user.forget()
        with trainer(user, base, verdict="open") as node:
            user.until(lambda: bool(user.statuses), 60.0)
            if user.statuses[-1].state in idle:
                assert user.retrain().accepted
            user.listen(draw.uniform(0.5, 12.0))
            workers = psutil.Process(node.pid).children()
            if workers and draw.random() < 0.5:
                workers[0].kill()
                user.until(lambda: bool(user.values), 60.0)
            else:
                node.kill()
                node.wait()
    user.forget()
    with trainer(user, base, verdict="open"):
        user.until(lambda: bool(user.statuses), 60.0)
        status = user.ended()
        assert status.state == TrainingStatus.STATE_SUCCEEDED, status.message
        user.until(lambda: checkpoint_version(user.serves) == status.promoted_version)
    jobs = all_jobs(user.folder / "trainer" / "jobs")
    assert {job.state.state for job in jobs} == {"succeeded"}
    for policy in (user.folder / "trainer" / "policies").iterdir():
        assert policy.is_symlink() or policy.name == checkpoint_version(policy)
    assert sorted(bag.name for bag in (user.folder / "bags").iterdir()) == ["drawer-0", "drawer-1"]


@pytest.mark.slow
def test_kills_lose_nothing(user, base):
    kill_at_random(user, base, kills=2, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_fifty_kills_lose_nothing(user, base):
    kill_at_random(user, base, kills=50, seed=2)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_two_hundred_jobs_leave_memory_and_files_as_they_were(user, base):
    def taken(node: subprocess.Popen) -> tuple[float, int]:
        process = psutil.Process(node.pid)
        return process.memory_info().rss / 1e6, process.num_fds()

    tiny = {"stage": "sft", "sft": SFT | {"steps": 1}, "validation_episodes": 1, "gate": {"episodes": 1, "looks": 1}}
    with trainer(user, base, verdict="open", **tiny) as node:
        first = (0.0, 0)
        for number in range(1, 201):
            assert user.retrain().accepted
            user.until(lambda name=f"job-{number:06d}": user.statuses[-1].job_id == name, 60.0)
            assert user.ended().state == TrainingStatus.STATE_SUCCEEDED
            user.until(lambda count=number: len(user.loaded) == count)
            if number == 20:
                first = taken(node)
        last = taken(node)
    assert last[0] < first[0] + 30.0
    assert last[1] <= first[1] + 2
