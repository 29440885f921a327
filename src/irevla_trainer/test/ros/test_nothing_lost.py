"""Nodes of a working robot are killed at random moments: nothing finished is lost, nothing half-done serves."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from subprocess import Popen

import psutil
import pytest
from sample_episodes import PROFILE, write_episode
from trainer_process import start_trainer

from irevla_msgs.msg import TrainingStatus
from irevla_policy.errors import RunError
from irevla_policy.graph.registry import find_graph
from irevla_policy.graph.supervisor import Supervisor
from irevla_policy.model.checkpoint import checkpoint_version, save_checkpoint
from irevla_policy.model.config import ModelSettings, RobotFacts
from irevla_policy.model.policy import VLAPolicy
from irevla_policy.recording.recovery import unfinished
from irevla_trainer.data.description import describe
from irevla_trainer.data.index import EpisodeIndex
from irevla_trainer.jobs.job import all_jobs
from irevla_trainer.ros.episodes import EndedEpisode, EpisodeRunner
from irevla_trainer.ros.training_client import TrainingClient

VICTIMS = ("irevla_policy", "irevla_recorder", "irevla_trainer", "training")
DEMONSTRATIONS = 2


class Operator(TrainingClient):
    """Who watches the trainer."""

    @property
    def _status(self) -> TrainingStatus:
        return self._unread[-1] if self._unread else TrainingStatus()

    @property
    def idle(self) -> bool:
        """Whether no job runs or waits to go on."""
        return self._status.state in (TrainingStatus.STATE_IDLE, TrainingStatus.STATE_SUCCEEDED)

    def ready(self) -> None:
        """Wait until the trainer knows the demonstrations and what the policy node serves, and has told its status."""

        def known() -> bool:
            counted = int(self._trainer.get("demonstrations", 0)) == DEMONSTRATIONS
            return counted and bool(self._trainer["serving_version"]) and self._status.header.stamp.sec > 0

        self.wait(known, time.monotonic() + 60.0, f"the trainer says {self._trainer}")

    def settle(self, job: str) -> None:
        """Wait until a job has ended; what is latched of those before it comes first."""

        def ended() -> bool:
            return self.idle and self._status.job_id == job

        self.wait(ended, time.monotonic() + 120.0, f"{job} did not end: {self._status}")


class Site:
    """A robot in simulation and its trainer; either comes up again after it was killed.

    Args:
        folder: Of everything.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.finished: list[EndedEpisode] = []
        self._seed = 0
        self._base = folder / "base"
        save_checkpoint(self._base, VLAPolicy.create(ModelSettings(), RobotFacts.of(PROFILE)), {"training": "none"})
        for number in range(DEMONSTRATIONS):
            write_episode(folder / "bags" / f"drawer-{number}", 4, task="drawer-open")
        self._robot = ExitStack()
        self.nodes: Supervisor | None = None
        self.trainer: Popen | None = None

    def up(self) -> None:
        """Bring up what is down, and a job; the robot starts with the policy that served last."""
        if self.nodes is None:
            last = self.folder / "trainer" / "policies" / "serving"
            arguments = {"mode": "lock_step", "task": "drawer-open", "expert": "false", "log_level": "warn"}
            arguments["checkpoint"] = str(last if last.exists() else self._base)
            arguments["record"] = str(self.folder / "bags")
            nodes = Supervisor(find_graph("sim").resolve(arguments), log_dir=self.folder / "logs")
            self.nodes = self._robot.enter_context(nodes)
            self.runner = self._robot.enter_context(EpisodeRunner(True, self.nodes.check))
        if self.trainer is None or self.trainer.poll() is not None:
            self.trainer = start_trainer(self.folder, verdict="open")
        with Operator(self.nodes.check) as operator:
            operator.ready()
            if operator.idle:
                operator.retrain(DEMONSTRATIONS)

    def down(self) -> None:
        """End what runs, in order."""
        self._robot.close()
        self.nodes = None
        if self.trainer is not None and self.trainer.poll() is None:
            self.trainer.send_signal(signal.SIGINT)
            assert self.trainer.wait(15) == 0

    def work(self) -> None:
        """Run one recorded episode.

        Raises:
            RunError: A node of the robot is gone.
        """
        self._seed += 1
        self.finished.append(self.runner.run("drawer-open", seed=self._seed))

    def kill(self, victim: str) -> None:
        """SIGKILL for a node, or for the training process if there is one."""
        assert self.nodes is not None and self.trainer is not None
        if victim == "training":
            children = psutil.Process(self.trainer.pid).children()
            if children:
                children[0].kill()
        elif victim == "irevla_trainer":
            self.trainer.kill()
            self.trainer.wait()
        else:
            os.kill(self.nodes.pid(victim), signal.SIGKILL)

    def survive(self, victim: str, after: float) -> None:
        """Let robot and trainer work, kill one `after` so many s, and see to it that both are up again."""
        self.up()
        clock = threading.Timer(after, self.kill, [victim])
        clock.start()
        try:
            while clock.is_alive():
                self.work()
            # It may have been killed between two episodes; then the next one cannot be run.
            self.work()
        except RunError:
            self._robot.close()
            self.nodes = None
        finally:
            clock.join()


def survive_kills(folder: Path, kills: int, seed: int) -> None:
    """Kill at random moments, then look at what is there."""
    site, draw = Site(folder), random.Random(seed)
    victims = [VICTIMS[number % len(VICTIMS)] for number in range(kills)]
    draw.shuffle(victims)
    try:
        for victim in victims:
            site.survive(victim, draw.uniform(0.2, 8.0))
        site.up()
        with Operator() as operator:
            operator.ready()
            operator.settle(all_jobs(folder / "trainer" / "jobs")[-1].name)
            promoted = [job.state.promoted for job in all_jobs(folder / "trainer" / "jobs")]
            assert promoted and all(promoted), "a job ended without the verdict that it was given"
            operator.serves(promoted[-1])
        site.work()
    finally:
        site.down()
    assert len(site.finished) >= kills
    policies = {path.name: path for path in (folder / "trainer" / "policies").iterdir() if not path.is_symlink()}
    for version, path in policies.items():
        assert version == checkpoint_version(path)
    for episode in site.finished:
        assert episode.bag is not None
        info = describe(episode.bag)
        assert info.state == "finished" and info.success == ("yes" if episode.success else "no")
        assert info.policy_version in policies
    # What was being recorded when its recorder was killed is a bag as well; none is unreadable.
    index = EpisodeIndex([folder / "bags"], PROFILE, folder / "index.jsonl")
    index.refresh()
    assert not [episode.problem for episode in index.episodes if episode.problem]
    assert len(index.episodes) >= len(site.finished) + DEMONSTRATIONS
    assert not unfinished(folder / "bags")


def test_kills_of_any_node_lose_nothing(tmp_path):
    survive_kills(tmp_path, kills=3, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_fifty_kills_of_any_node_lose_nothing(tmp_path):
    survive_kills(tmp_path, kills=52, seed=2)
