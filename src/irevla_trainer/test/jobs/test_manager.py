"""Jobs, from a request to a candidate before the gate, in real training processes; whatever happens to them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from sample_episodes import PROFILE, write_episode

from irevla_policy.model.checkpoint import checkpoint_version, read_provenance, save_checkpoint
from irevla_policy.model.config import ModelSettings, RobotFacts
from irevla_policy.model.policy import VLAPolicy
from irevla_policy.settings import from_dict
from irevla_policy.sim.tasks import load_tasks
from irevla_trainer.data.index import EpisodeIndex
from irevla_trainer.jobs.job import JobFolder, State, all_jobs
from irevla_trainer.jobs.manager import JobManager
from irevla_trainer.jobs.plan import Plan, plan, usable
from irevla_trainer.jobs.progress import Progress, read_progress
from irevla_trainer.jobs.request import JobRequest, TrainerFile

WORKER = Path(__file__).with_name("stand_in_worker.py")
SFT = {"steps": 3, "batch_size": 4, "validation_share": 0.0}
STAGE1 = {"decisions": 40, "validation_episodes": 2, "ppo": {"episodes": 4, "warmup": 0, "minibatch": 8}}
LONG = {"sft": SFT | {"steps": 100_000, "save_every": 0.5}}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A checkpoint to start from."""
    folder = tmp_path_factory.mktemp("base") / "checkpoint"
    save_checkpoint(folder, VLAPolicy.create(ModelSettings(), RobotFacts.of(PROFILE)), {"training": "none"})
    return folder


@pytest.fixture(scope="module")
def bags(tmp_path_factory) -> Path:
    """Two demonstrations of a task, a success of a policy on another, and what is good for nothing."""
    folder = tmp_path_factory.mktemp("bags")
    for number in range(2):
        write_episode(folder / f"drawer-{number}", 4, task="drawer-open")
    write_episode(folder / "window", 4, task="window-open", source="policy")
    write_episode(folder / "failed", 4, task="window-open", source="policy", success="no")
    return folder


@dataclass
class Trainer:
    """A manager and what it needs; another one in the same folder comes after a crash."""

    folder: Path
    bags: Path
    base: Path
    manager: JobManager
    make: Callable[..., JobManager]

    def submit(self, queue: bool = False, **request):
        return self.manager.submit(JobRequest(**request), queue)

    def run(self, seconds: float = 120.0) -> State:
        """Until the running job is over."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            job = self.manager.poll()
            if job is not None:
                return job.state
            time.sleep(0.05)
        raise TimeoutError(self.log())

    def until(self, reached: Callable[[], bool], seconds: float = 60.0) -> None:
        """Until something has come about."""
        deadline = time.monotonic() + seconds
        while not reached():
            assert self.manager.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)

    def log(self) -> str:
        job = self.manager.newest
        return job.log_path.read_text() if job and job.log_path.exists() else "no log"

    @property
    def progress(self) -> Progress:
        return read_progress(self.job.progress_path)

    @property
    def job(self) -> JobFolder:
        assert self.manager.newest is not None
        return self.manager.newest


@pytest.fixture
def trainer(tmp_path, base, bags):
    made: list[JobManager] = []

    def make(resume: bool = True, keep_free_gb: float = 0.0, **changes) -> JobManager:
        values = {
            "tasks": ["drawer-open:blue"],
            "stage1": STAGE1,
            "stage2": {"sft": SFT},
            "sft": SFT,
            "validation_episodes": 2,
            "gate": {"episodes": 4, "looks": 2},
            "threads": 1,
            "priority": "normal",
        }
        settings = from_dict(TrainerFile, values | changes, "test")
        index = EpisodeIndex([bags], PROFILE, tmp_path / "trainer" / "episodes.jsonl")
        index.refresh()
        manager = JobManager(
            tmp_path / "trainer", settings, "sawyer", PROFILE, index, keep_free_gb, resume,
            lambda job: [sys.executable, str(WORKER), str(job)],
        )  # fmt: skip
        manager.serving = str(base)
        made.append(manager)
        return manager

    yield Trainer(tmp_path / "trainer", bags, base, make(), make)
    for manager in made:
        manager.close()


@pytest.mark.slow
def test_a_cycle_ends_with_a_verdict_on_a_candidate(trainer):
    asked = time.monotonic()
    answer = trainer.submit()
    assert time.monotonic() - asked < 0.1
    assert answer.accepted and answer.job == "job-000001"
    assert answer.reason == f"cycle from {trainer.base}"
    state = trainer.run()
    assert state.state == "succeeded", trainer.log()
    outcome = trainer.job.outcome
    assert state.message == outcome["message"]
    assert state.promoted == (outcome["version"] if outcome["promoted"] else "")
    steps = {path.name for path in (trainer.job.run_path / "steps").iterdir()}
    assert {"01-stage1-drawer-open-blue", "02-stage2-drawer-open-blue"} & steps == {"01-stage1-drawer-open-blue"}
    assert "01-stage2-drawer-open-blue" in steps
    progress = trainer.progress
    assert progress.stage in ("gate", "evaluation") and progress.share > 0.6
    # What the policy has done itself is learnt from as well: two demonstrations, a recorded success, and new ones.
    stage2 = trainer.job.run_path / "steps" / "01-stage2-drawer-open-blue"
    assert '"episodes": 2' not in (stage2 / "step.json").read_text()
    if outcome["gate"] is not None:
        stored = Path(outcome["checkpoint"])
        assert stored.name == outcome["version"] == checkpoint_version(stored)
        assert stored.parent == trainer.folder / "policies"
        provenance = read_provenance(stored)
        assert provenance["job"] == "job-000001" and provenance["base"] == checkpoint_version(trainer.base)
        assert provenance["gate"] == outcome["gate"]
        seeds = outcome["gate"]["outcomes"]["drawer-open:blue"]["before"]
        assert len(seeds) in (4, 8)


@pytest.mark.parametrize(
    ("stage", "steps"),
    [("sft", ["01-stage2"]), pytest.param("rl", ["01-stage1-drawer-open-blue"], marks=pytest.mark.slow)],
)
def test_single_stages(trainer, stage, steps):
    assert trainer.submit(stage=stage, iterations=1).accepted
    assert trainer.run().state == "succeeded", trainer.log()
    found = sorted(path.name for path in (trainer.job.run_path / "steps").glob("0*") if "validation" not in path.name)
    assert found == ["00-stage0", *steps]
    metrics = (trainer.job.run_path / "steps" / steps[0] / "metrics.jsonl").read_text().splitlines()
    # One pass over 8 decisions of demonstrations and as many of successes, or one rollout after the start.
    assert len(metrics) == (1 if stage == "sft" else 2)


def test_while_one_runs_others_are_refused_or_wait(trainer):
    trainer.manager = trainer.make(stage2=LONG)
    trainer.submit()
    trainer.until(lambda: trainer.manager.running is not None)
    refused = trainer.submit()
    assert (refused.accepted, refused.job) == (False, "job-000001")
    assert refused.reason == "job-000001 is running; wait for it, cancel it, or set queue"
    queued = trainer.submit(queue=True, stage="sft")
    assert queued.accepted and queued.job == "job-000002" and queued.reason.endswith("after 1 other jobs")
    assert trainer.manager.cancel("job-000002").accepted
    assert trainer.job.state.state == "cancelled"
    assert trainer.manager.cancel("job-000009").reason == "there is no job 'job-000009'"
    assert trainer.manager.cancel("job-000002").reason == "job-000002 is cancelled"


@pytest.mark.slow
def test_cancelling_stops_at_once_and_the_job_can_go_on(trainer):
    trainer.manager = trainer.make(stage2=LONG)
    trainer.submit()
    trainer.until(lambda: trainer.progress.stage == "sft")
    asked = time.monotonic()
    assert trainer.manager.cancel().accepted
    state = trainer.run()
    assert time.monotonic() - asked < 5.0
    assert state.state == "cancelled"
    kept = trainer.job.run_path / "steps" / "01-stage1-drawer-open-blue"
    before = (kept / "step.json").stat().st_mtime_ns
    assert trainer.manager.cancel().reason == "no job is running"
    assert trainer.manager.resume("job-000001").accepted
    done = trainer.progress.done
    trainer.until(lambda: trainer.progress.stage == "sft" and trainer.progress.done > done)
    assert (kept / "step.json").stat().st_mtime_ns == before
    assert trainer.job.state.state == "running"


@pytest.mark.slow
def test_a_training_process_that_is_killed_goes_on_by_itself(trainer):
    trainer.submit()
    trainer.until(lambda: trainer.progress.stage in ("rl", "sft"))
    first = trainer.manager._running.process
    first.send_signal(signal.SIGKILL)
    trainer.until(lambda: trainer.manager._running.process is not first)
    assert trainer.run().state == "succeeded", trainer.log()


def test_a_training_process_that_always_dies_is_given_up(trainer):
    trainer.manager._command = lambda job: [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
    trainer.submit()
    state = trainer.run()
    assert state.state == "failed"
    assert state.message.startswith("the training process ended with signal SIGKILL, 3 times; see ")


@pytest.mark.slow
def test_jobs_outlive_their_trainer(trainer):
    trainer.submit()
    trainer.until(lambda: trainer.progress.stage in ("rl", "sft"))
    process = trainer.manager._running.process
    # As if the trainer were killed: its end of the pipe is gone, and nobody writes what became of the job.
    os.close(process.stdin.fileno())
    assert process.wait(10) == 130
    trainer.manager._running = None
    left = trainer.make(resume=False)
    assert all_jobs(trainer.folder / "jobs")[0].state.state == "interrupted"
    assert "can be resumed" in left.newest.state.message
    trainer.manager = left
    assert left.resume("job-000001").accepted
    assert trainer.run().state == "succeeded", trainer.log()
    assert trainer.manager.resume("job-000001").reason == "job-000001 is succeeded: there is nothing to resume"


@pytest.mark.slow
def test_a_trainer_that_comes_again_goes_on(trainer):
    trainer.submit()
    trainer.until(lambda: trainer.progress.stage in ("rl", "sft"))
    trainer.manager.close()
    assert trainer.job.state.state == "interrupted"
    trainer.manager = trainer.make()
    assert trainer.job.state.message == "goes on where it was interrupted"
    assert trainer.run().state == "succeeded", trainer.log()


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"stage": "dance"}, "stage: must be one of cycle, rl, sft, found 'dance'"),
        ({"tasks": ("drawer-opne",)}, "no task 'drawer-opne'"),
        ({"tasks": ("drawer-open:pink",)}, "no variation 'pink'"),
        ({"tasks": ("drawer-open", "drawer-open-v3")}, "tasks: expected every task once, found 'drawer-open' again"),
        ({"iterations": -1}, "iterations: must not be negative, found -1"),
        ({"base": "nowhere"}, "nowhere"),
        ({"bags": ("/no/such/folder",)}, "/no/such/folder: no such bag or folder of bags"),
        ({"stage": "sft", "tasks": ("faucet-open",)}, "no episode of faucet-open that is labelled as a success in "),
    ],
)
def test_what_cannot_be_done_is_refused_at_once(trainer, request_, reason):
    answer = trainer.submit(**request_)
    assert not answer.accepted and answer.job == ""
    assert reason in answer.reason
    assert not (trainer.folder / "jobs").exists()


def test_without_a_policy_or_room_or_episodes_nothing_begins(trainer, tmp_path):
    trainer.manager.serving = ""
    assert trainer.submit().reason.startswith("base_checkpoint: no policy serves")
    trainer.manager.serving = str(trainer.base)
    assert "GB must be; make room" in trainer.make(keep_free_gb=1e9).submit(JobRequest()).reason
    trainer.manager._index = EpisodeIndex([tmp_path / "empty"], PROFILE, tmp_path / "index")
    assert trainer.submit().reason == "the episodes are still being looked at; ask again"
    trainer.manager._index.refresh()
    assert trainer.submit().reason.startswith("a cycle needs demonstrations: no successful episode")
    assert trainer.submit(stage="sft").reason.startswith("no episode that is labelled as a success in ")


@pytest.mark.slow
def test_what_goes_wrong_in_training_is_one_sentence_and_can_be_mended(trainer, tmp_path):
    bags, away = tmp_path / "bags", tmp_path / "away"
    shutil.copytree(trainer.bags, bags)
    index = EpisodeIndex([bags], PROFILE, tmp_path / "trainer" / "episodes.jsonl")
    index.refresh()
    trainer.manager._index = index
    assert trainer.submit().accepted
    bags.rename(away)
    state = trainer.run()
    assert state.state == "failed"
    assert state.message.startswith(
        f"a cycle needs demonstrations: no successful episode of an expert or a person in {bags}"
    )
    away.rename(bags)
    assert trainer.manager.resume(trainer.job.name).accepted
    assert trainer.run().state == "succeeded", trainer.log()


def test_a_task_is_the_same_by_another_of_its_names(trainer, tmp_path):
    bags = tmp_path / "bags"
    write_episode(bags / "one", 4, task="drawer-open-v3")
    trainer.manager._index = EpisodeIndex([bags], PROFILE, tmp_path / "index")
    trainer.manager._index.refresh()
    assert trainer.submit(stage="sft", tasks=("drawer-open",)).accepted
    order = trainer.job.order
    assert usable(trainer.manager._index.episodes, order, load_tasks("metaworld")).tasks == ("drawer-open",)
    assert trainer.submit(queue=True, tasks=("drawer-open-v3:blue",)).accepted
    assert trainer.job.order.request.tasks == ("drawer-open:blue",)


def test_what_is_wrong_with_the_bags_of_a_request_is_said(trainer, tmp_path):
    foreign = tmp_path / "foreign"
    write_episode(foreign / "one", 4, task="drawer-open", profile_hash="0123456789ab")
    assert trainer.submit(stage="sft", bags=(str(foreign),)).accepted
    state = trainer.run()
    assert state.state == "failed"
    assert "1 bags cannot be used, the first: " in state.message
    assert "recorded with robot " in state.message
    assert not (trainer.job.folder / "episodes.jsonl").exists()


def test_folders_of_jobs_that_are_over_may_be_deleted(trainer):
    trainer.manager._command = lambda job: [sys.executable, "-c", "raise SystemExit(3)"]
    trainer.submit()
    assert trainer.run().state == "failed"
    shutil.rmtree(trainer.job.folder)
    assert trainer.manager.newest is None
    # Its number, and with it the seeds of its gate, are not given again, also not by another manager.
    trainer.manager = trainer.make()
    assert trainer.submit().job == "job-000002"


def test_a_job_that_cannot_be_read_any_more_fails_alone(trainer):
    trainer.manager._command = lambda job: [sys.executable, "-c", "import time; time.sleep(60)"]
    trainer.submit()
    trainer.until(lambda: trainer.manager.running is not None)
    assert trainer.submit(queue=True).accepted
    order = trainer.job.folder / "order.json"
    values = json.loads(order.read_text())
    values["settings"]["of_an_older_version"] = 1
    order.write_text(json.dumps(values))
    assert trainer.submit(queue=True).accepted
    trainer.manager.cancel()
    assert trainer.run().state == "cancelled"
    state = trainer.run()
    assert state.state == "failed" and "of_an_older_version" in state.message
    trainer.until(lambda: trainer.manager.running is not None)
    assert trainer.manager.running.name == "job-000003"


def test_a_job_keeps_its_start_while_nobody_says_what_serves(trainer, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(trainer.base, other)
    trainer.manager._command = lambda job: [sys.executable, "-c", "import time; time.sleep(60)"]
    assert trainer.submit().accepted
    # As after a restart: the policy node has not been heard yet.
    trainer.manager = trainer.make()
    trainer.manager.serving, trainer.manager.otherwise = "", str(other)
    trainer.manager._command = lambda job: [sys.executable, "-c", "import time; time.sleep(60)"]
    trainer.until(lambda: trainer.manager.running is not None)
    assert trainer.job.order.base == trainer.job.order.serving == str(trainer.base)
    assert trainer.submit(queue=True).reason.startswith(f"cycle from {other}")


def test_the_request_of_a_job_is_kept(trainer):
    trainer.submit(seed=7, iterations=2)
    order = trainer.job.order
    assert order.request == replace(order.request, stage="cycle", seed=7, iterations=2, tasks=("drawer-open:blue",))
    assert order.settings.stage1.decisions == 40


def test_a_demonstration_that_was_learnt_from_checks_no_later_candidate(trainer):
    gate = {"mode": "trials", "held_out": 0.5}
    trainer.manager = trainer.make(stage="sft", worlds_in="none", gate=gate)

    def planned() -> Plan:
        assert trainer.submit(queue=True, stage="sft").accepted
        return plan(trainer.job)

    first = planned()
    # Their names come before those of all others.
    for number in range(2):
        write_episode(trainer.bags / f"a-{number}", 4, task="drawer-open", source="human")
    trainer.manager._index.refresh()
    second = planned()
    assert len(first.held_out) == 1 and len(second.held_out) == 2
    assert set(first.held_out) < set(second.held_out)
    assert not set(first.settings.bags) & set(second.held_out)
    assert not set(second.settings.bags) & set(second.held_out)
    # As earlier versions did, which held out others every time.
    values = json.loads(trainer.job.plan_path.read_text())
    values["settings"]["bags"] += first.held_out
    trainer.job.plan_path.write_text(json.dumps(values))
    assert not set(first.held_out) & set(planned().held_out)


@pytest.mark.slow
def test_without_simulation_a_candidate_is_checked_and_then_tried_on_the_robot(trainer, tmp_path):
    gate = {"mode": "trials", "trials": 2, "held_out": 0.5, "worse_loss": 100.0}
    trainer.manager = trainer.make(stage="sft", worlds_in="none", gate=gate)
    assert trainer.submit().accepted
    state = trainer.run()
    assert state.state == "on_trial", trainer.log()
    outcome = trainer.job.outcome
    assert outcome["message"].startswith("loss on 1 held-out demonstrations ")
    assert f"0 of 2 labelled trials: to approve them let it drive with /irevla/load_policy {outcome['checkpoint']}" in (
        state.message
    )
    assert not list(trainer.job.run_path.glob("steps/*-validation"))
    for number in range(2):
        write_episode(
            tmp_path / "trials" / f"trial-{number}", 2, source="policy", policy_version=outcome["version"], task="reach"
        )
    # Another manager, as after a restart: the trials are still waited for.
    trainer.manager = trainer.make(stage="sft", worlds_in="none", gate=gate)
    trainer.manager._index = EpisodeIndex([tmp_path / "trials"], PROFILE, tmp_path / "index")
    refused = trainer.submit()
    assert refused.reason == "job-000001 is on trial; label its trials, cancel it, or set queue"
    assert trainer.manager.judge_trials() is None
    trainer.manager._index.refresh()
    judged, verdict = trainer.manager.judge_trials()
    assert judged.name == "job-000001" and verdict.promoted
    assert verdict.reason.startswith("the candidate stays: 2 of 2 trials succeeded")
    assert trainer.job.state.state == "succeeded" and trainer.job.state.promoted == outcome["version"]
    assert trainer.manager.on_trial is None
    assert read_provenance(Path(outcome["checkpoint"]))["trials"] == verdict.to_json()
    # Where it drives already that is settled at once; where the robot has started with the policy before it is loaded.
    assert trainer.make().to_hand_over.name == trainer.job.name
    wanted = trainer.job.hand_over
    assert (wanted.version, wanted.instead_of) == (outcome["version"], checkpoint_version(trainer.base))


@pytest.mark.slow
def test_a_candidate_that_fails_its_trials_is_taken_back(trainer, tmp_path):
    gate = {"mode": "trials", "trials": 2, "held_out": 0.0}
    trainer.manager = trainer.make(stage="sft", worlds_in="none", gate=gate)
    trainer.submit()
    assert trainer.run().state == "on_trial", trainer.log()
    outcome = trainer.job.outcome
    for number in range(2):
        write_episode(
            tmp_path / "trials" / f"trial-{number}", 2, source="policy", policy_version=outcome["version"], success="no"
        )
    trainer.manager._index = EpisodeIndex([tmp_path / "trials"], PROFILE, tmp_path / "index")
    trainer.manager._index.refresh()
    _, verdict = trainer.manager.judge_trials()
    assert not verdict.promoted
    # A trainer that comes up now still sees to it.
    again = trainer.make()
    assert again.to_hand_over.name == trainer.job.name
    wanted = trainer.job.hand_over
    assert (wanted.version, wanted.instead_of) == (checkpoint_version(trainer.base), outcome["version"])
    assert checkpoint_version(wanted.checkpoint) == wanted.version
    again.settle("the policy node serves it now")
    assert again.to_hand_over is None and trainer.make().to_hand_over is None
    assert trainer.job.state.message.endswith("; the policy node serves it now")


@pytest.mark.slow
def test_trials_that_are_refused_end_the_job(trainer):
    gate = {"mode": "trials", "trials": 2, "held_out": 0.0}
    trainer.manager = trainer.make(stage="sft", worlds_in="none", gate=gate)
    trainer.submit()
    assert trainer.run().state == "on_trial", trainer.log()
    assert trainer.manager.cancel(trainer.job.name).accepted
    assert trainer.job.state.state == "cancelled" and not trainer.job.state.promoted
    assert trainer.manager.to_hand_over.hand_over.version == checkpoint_version(trainer.base)


@pytest.mark.slow
def test_what_is_cancelled_stays_so_when_the_trainer_ends_meanwhile(trainer):
    trainer.manager = trainer.make(stage2=LONG)
    trainer.submit()
    trainer.until(lambda: trainer.progress.stage == "sft")
    trainer.manager.cancel()
    # As if the trainer were killed before the training process has stopped.
    os.close(trainer.manager._running.process.stdin.fileno())
    trainer.manager._running.process.wait(10)
    trainer.manager._running = None
    assert trainer.make().running is None
    assert trainer.job.state.state == "cancelled"
    assert trainer.manager.resume(trainer.job.name).accepted
    assert trainer.manager.cancel().reason == "cancelled before it began"


def test_what_is_cancelled_in_its_last_moment_is_not_handed_over(trainer, monkeypatch):
    monkeypatch.setenv("STAND_IN_GATE", "open")
    assert trainer.submit(stage="sft").accepted
    trainer.manager.poll()
    deadline = time.monotonic() + 60.0
    # Nobody looks whether the process has ended meanwhile.
    while trainer.job.outcome is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert trainer.job.outcome["promoted"], trainer.log()
    assert trainer.manager.cancel().accepted
    assert trainer.run().state == "cancelled"
    assert trainer.manager.to_hand_over is None and trainer.job.hand_over is None
    assert trainer.manager.resume(trainer.job.name).accepted
    assert trainer.run().promoted


@pytest.mark.slow
def test_a_waiting_job_starts_from_what_serves_when_its_turn_comes(trainer, monkeypatch, tmp_path):
    monkeypatch.setenv("STAND_IN_GATE", "open")
    assert trainer.submit(stage="sft").accepted and trainer.submit(queue=True, stage="sft").accepted
    first = trainer.manager.find("job-000001")
    assert trainer.run().promoted
    # It waits until that has been handed over.
    trainer.manager.poll()
    assert trainer.manager.running is None and trainer.manager.to_hand_over.name == "job-000001"
    trainer.manager.serving = first.hand_over.checkpoint
    trainer.manager.settle("serves")
    assert trainer.run().promoted
    second = trainer.manager.find("job-000002")
    assert second.outcome["base"] == second.outcome["serving"] == first.outcome["version"]
    # A third one, of which nothing has been handed over yet, supersedes what is still to be.
    assert trainer.submit(stage="sft").accepted
    trainer.manager._wait_until = 0.0
    assert trainer.run().promoted
    assert second.hand_over.result == "not handed over: job-000003 came before that"
    assert trainer.manager.to_hand_over.name == "job-000003"


@pytest.mark.slow
def test_what_is_asked_for_from_another_checkpoint_is_compared_with_what_serves(trainer, tmp_path):
    other = tmp_path / "other"
    save_checkpoint(other, VLAPolicy.create(ModelSettings(), RobotFacts.of(PROFILE), seed=5), {"training": "none"})
    assert trainer.submit(stage="sft", base=str(other)).accepted
    assert trainer.run().state == "succeeded", trainer.log()
    outcome = trainer.job.outcome
    assert (outcome["base"], outcome["serving"]) == (checkpoint_version(other), checkpoint_version(trainer.base))


@pytest.mark.slow
def test_episodes_of_what_no_world_knows_are_left_out(trainer, tmp_path):
    bags = tmp_path / "more"
    shutil.copytree(trainer.bags, bags)
    write_episode(bags / "tea", 4, task="pour-tea", source="human")
    trainer.manager._index = EpisodeIndex([bags], PROFILE, tmp_path / "index")
    trainer.manager._index.refresh()
    refused = trainer.submit(stage="sft", tasks=("pour-tea",))
    assert refused.reason.startswith("no task 'pour-tea' in world 'metaworld'")
    assert trainer.submit(stage="sft", tasks=("window-open",)).accepted
    assert trainer.run().state == "succeeded", trainer.log()
    plan = json.loads(trainer.job.plan_path.read_text())
    assert plan["left_out"] == ["pour-tea"] and plan["trained"] == ["window-open"]
    # What it does not learn from is what it may forget.
    assert plan["others"] == ["drawer-open"]
    assert "left out, because metaworld does not know them: pour-tea" in trainer.log()


def test_a_disk_without_room_for_the_outcome_is_said(trainer):
    words = "import sys; sys.exit(28)"
    trainer.manager._command = lambda job: [sys.executable, "-c", words]
    trainer.submit()
    state = trainer.run()
    assert state.state == "failed" and "the disk is full; nothing finished is lost" in state.message
