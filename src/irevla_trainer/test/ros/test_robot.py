"""Stage 1 on a live robot: an actor beside the learner, through guard and recorder, whatever is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch
import yaml

from irevla_policy.errors import RunError
from irevla_policy.graph.registry import find_graph
from irevla_policy.graph.supervisor import Supervisor
from irevla_policy.model.config import ModelSettings, RobotFacts
from irevla_policy.model.policy import VLAPolicy
from irevla_policy.recording.storage import find_bags
from irevla_policy.robot.profile import load_profile
from irevla_policy.settings import SettingsError, from_dict
from irevla_trainer.data.description import describe
from irevla_trainer.loop import robot as robot_rollouts
from irevla_trainer.loop.robot import RobotRollouts
from irevla_trainer.loop.settings import TrainFile
from irevla_trainer.rl.asking import Noise, Role
from irevla_trainer.rl.latents import LatentStore
from irevla_trainer.rl.worlds import EpisodeRequest

# The learner gives way to whatever else runs: beside other tests it would never have its turn.
pytestmark = pytest.mark.graph

STEPS = 12
SETTINGS = {
    "tasks": {"rl": ["pick-red-block"]},
    "task_file": "tabletop",
    "robot": "panda",
    "from_scratch": True,
    "worlds_in": "robot",
    "max_steps": STEPS,
    "threads": 1,
    "stage1": {
        "algorithm": "sacfd",
        "decisions": 6 * STEPS,
        "sacfd": {"episodes": 2, "demonstrations": 0, "warmup": 2, "batch_size": 16},
    },
    "stage2": {"enabled": False},
}


class Robot:
    """A simulated arm in real time, and a run that learns on it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run = folder, folder / "run"
        (folder / "train.yaml").write_text(yaml.safe_dump(SETTINGS))
        self.bags, self.learners = folder / "bags", list[subprocess.Popen[str]]()
        arguments = {"world": "tabletop", "task": "pick-red-block", "expert": "false", "record": str(self.bags)}
        self.graph = find_graph("sim").resolve(arguments)

    def learn(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "irevla_trainer.cli", "train", "--config", str(self.folder / "train.yaml")]
        learner = subprocess.Popen(
            [*command, "--out", str(self.run), *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.learners.append(learner)
        return learner

    @property
    def stage(self) -> Path:
        return self.run / "steps" / "01-stage1-pick-red-block"

    def iterations(self) -> list[dict[str, float]]:
        path = self.stage / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []

    def actors(self) -> list[psutil.Process]:
        """Processes that act for this run."""
        wanted = str(self.stage / "robot")
        return [process for process in psutil.process_iter(["cmdline"]) if wanted in (process.info["cmdline"] or ())]


@pytest.fixture
def robot(tmp_path: Path) -> Iterator[Robot]:
    robot = Robot(tmp_path)
    yield robot
    # Learners first: they start actors again.
    for process in (*robot.learners, *robot.actors()):
        process.kill()


def until(reached: Callable[[], object], learner: subprocess.Popen[str], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert learner.poll() is None, learner.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def ended(learner: subprocess.Popen[str]) -> str:
    output, _ = learner.communicate(timeout=90.0)
    assert learner.returncode == 0, output
    return output


@pytest.mark.slow
def test_it_learns_while_the_robot_acts_and_survives_the_end_of_either(robot: Robot) -> None:
    with Supervisor(robot.graph, log_dir=robot.folder):
        learner = robot.learn()
        until(lambda: robot.iterations(), learner)
        [actor] = robot.actors()
        assert os.sched_getscheduler(learner.pid) == os.SCHED_IDLE
        assert os.sched_getscheduler(actor.pid) == os.SCHED_OTHER
        learner.send_signal(signal.SIGKILL)
        learner.communicate()
        actor.wait(5.0)  # nobody is left to act for
        before = robot.iterations()

        learner = robot.learn("--resume")
        until(lambda: robot.actors(), learner)
        robot.actors()[0].kill()
        ended(learner)
        after = robot.iterations()
        assert after[: len(before)] == before
        assert [line["iteration"] for line in after] == [1.0, 2.0, 3.0]
        assert after[-1]["decisions"] == 6 * STEPS and after[-1]["remembered"] == 6 * STEPS
        # The episode that was under way is recorded no longer.
        assert not [path for path in robot.bags.glob("unfinished/*") if path.is_dir()]
    assert not robot.actors() and not (robot.stage / "robot").exists()
    result = json.loads((robot.run / "result.json").read_text())
    assert result["selected"]["step"] == "01-stage1-pick-red-block" and "test" not in result
    told = [describe(bag) for bag in find_bags(robot.bags)]
    assert len(told) >= 5
    assert {(info.task, info.source) for info in told} == {("pick-red-block", "policy")}
    # Those that were broken off have no label, the others the simulator's.
    assert sum(info.labelled_by == "simulator" and info.success == "no" for info in told) >= 5


@pytest.mark.slow
def test_nodes_that_die_are_waited_for(robot: Robot) -> None:
    with Supervisor(robot.graph, log_dir=robot.folder) as nodes:
        learner = robot.learn()
        until(lambda: robot.iterations(), learner)
        os.killpg(nodes.pid("irevla_sim"), signal.SIGKILL)
        time.sleep(12.0)
        assert learner.poll() is None
        known = len(robot.iterations())
    with Supervisor(robot.graph, log_dir=robot.folder):
        output = ended(learner)
    assert "waiting for the robot" in output
    assert len(robot.iterations()) == 3 and known < 3
    assert robot.iterations()[-1]["remembered"] == 6 * STEPS


TWO_STAGES = """
import os, sys, time
from pathlib import Path
import psutil
from irevla_policy.model.config import ModelSettings, RobotFacts
from irevla_policy.model.policy import VLAPolicy
from irevla_policy.robot.profile import load_profile
from irevla_trainer.loop.robot import RobotRollouts
from irevla_trainer.rl.asking import Role

policy = VLAPolicy.create(ModelSettings(), RobotFacts.of(load_profile("panda")))
for stage in ("first", "second"):
    with RobotRollouts(Path(sys.argv[1]) / stage, policy, Role("panda", "tabletop", None, "float16", "cpu")):
        while not (children := psutil.Process().children()):
            time.sleep(0.01)
        print(os.sched_getscheduler(0), os.sched_getscheduler(children[0].pid))
"""


def test_the_actor_of_no_stage_steps_back(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TWO_STAGES, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90.0, check=False)
    assert done.stdout.splitlines() == [f"{os.SCHED_IDLE} {os.SCHED_OTHER}"] * 2, done.stderr


def test_an_actor_that_cannot_be_started_ends_the_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_process(*arguments: object, **options: object) -> None:
        raise OSError("Resource temporarily unavailable")

    monkeypatch.setattr(robot_rollouts, "_step_back", lambda except_for: None)
    policy = VLAPolicy.create(ModelSettings(), RobotFacts.of(load_profile("panda")))
    monkeypatch.setattr(subprocess, "Popen", no_process)
    with RobotRollouts(tmp_path, policy, Role("panda", "tabletop", None, "float16", "cpu")) as rollouts:
        rollouts.ask(0, [EpisodeRequest("pick-red-block", "", 0)], Noise(0.3, 0, 0.7), {"weight": torch.zeros(1)})
        with pytest.raises(RunError, match="acts on the robot cannot be started: Resource temporarily unavailable"):
            rollouts.take(0, LatentStore(1))


def test_only_what_learns_from_others_actions_learns_on_a_robot() -> None:
    with pytest.raises(SettingsError, match=r"stage1: algorithm: on a robot it must be sacfd, .* found 'ppo'"):
        from_dict(TrainFile, SETTINGS | {"stage1": {"algorithm": "ppo"}}, "train.yaml")
