"""The learner and its worlds as processes: what is left when one of them ends, and what the terminal shows."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml

from irevla_policy.errors import RunError
from irevla_policy.model.checkpoint import checkpoint_version, save_checkpoint
from irevla_policy.model.config import ModelSettings, RobotFacts
from irevla_policy.model.policy import VLAPolicy
from irevla_policy.robot.profile import load_profile
from irevla_trainer.rl.worlds import EpisodeRequest, Worlds

PROFILE = load_profile("sawyer")
REQUESTS = [EpisodeRequest("drawer-open", "", seed) for seed in range(4)]
FIRST_VALIDATION, FIRST_ROLLOUT = "00-stage0-validation", "01-stage1-drawer-open-blue"


def still(seen):
    return np.zeros((len(seen.index), 4))


@pytest.fixture(scope="module")
def worlds():
    with Worlds(PROFILE, 2, max_steps=2) as made:
        yield made


def test_other_requests_can_follow_episodes_that_were_broken_off(worlds):
    def fail(seen):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(worlds.episodes(REQUESTS, fail))
    for _ in worlds.episodes(REQUESTS, still):
        break
    steps = list(worlds.episodes(REQUESTS[:3], still))
    # The two worlds take turns.
    assert [stepped.index for stepped in steps] == [[0], [2], [0], [2], [1], [1]]
    assert [stepped.last and stepped.last.index for stepped in steps] == [None, None, [0], [2], None, [1]]


def test_actions_that_are_not_finite_never_reach_a_world(worlds):
    with pytest.raises(RunError, match="actions are not finite"):
        list(worlds.episodes(REQUESTS, lambda seen: np.full((len(seen.index), 4), np.nan)))
    assert len(list(worlds.episodes(REQUESTS, still))) == 8


def test_what_a_world_raises_arrives_with_its_place(worlds):
    with pytest.raises(Exception, match="-1") as raised:
        list(worlds.episodes([EpisodeRequest("drawer-open", "", -1)], still))
    assert "in world 0:\nTraceback" in str(raised.value.__cause__)
    assert len(list(worlds.episodes(REQUESTS, still))) == 8


def test_a_world_that_is_killed_is_named_and_closing_leaves_no_process(worlds):
    before = set(psutil.Process().children(recursive=True))
    with Worlds(PROFILE, 2, max_steps=50) as others:
        made = set(psutil.Process().children(recursive=True)) - before
        # The worlds are forked one after the other, below a server that is there already.
        processes = sorted(made, key=lambda process: process.pid)
        assert len(processes) == 2

        def kill(seen):
            # Asked a second time when the world had answered already before it was killed.
            with contextlib.suppress(psutil.NoSuchProcess):
                processes[1].kill()
            return still(seen)

        with pytest.raises(RunError, match=r"world 1 was ended by signal 9 \(out of memory"):
            list(others.episodes(REQUESTS, kill))
    gone, alive = psutil.wait_procs(processes, timeout=10)
    assert len(gone) == 2 and not alive


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A run from a checkpoint: validation, a rollout of stage 1, validation, test."""
    folder = tmp_path_factory.mktemp("processes")
    save_checkpoint(folder / "start", VLAPolicy.create(ModelSettings(), RobotFacts.of(PROFILE)))
    settings = {
        "tasks": {"expert": ["drawer-open"], "rl": ["drawer-open:blue"]},
        "init": str(folder / "start"),
        "stage1": {"decisions": 40, "validation_episodes": 2, "ppo": {"episodes": 4, "warmup": 1}},
        "stage2": {"enabled": False},
        "evaluation": {"validation_episodes": 4, "test_episodes": 4, "filmed": 1},
        "worlds": 2,
        "max_steps": 5,
        "threads": 1,
    }
    (folder / "train.yaml").write_text(yaml.safe_dump(settings))
    return folder / "train.yaml"


class Learner:
    """`irevla train` in a process group of its own, as a terminal starts it."""

    def __init__(self, config: Path, out: Path, *words: str) -> None:
        command = [sys.executable, "-m", "irevla_trainer.cli", "train", "--config", config, "--out", out, *words]
        self.out = out
        self.errors = out.with_name(f"{out.name}.{time.monotonic_ns()}.err")
        with self.errors.open("w") as file:
            self.process = psutil.Popen([str(word) for word in command], stderr=file, start_new_session=True)
        self.family: list[psutil.Process] = []

    def wait_for(self, step: str) -> None:
        """Until the worlds run in a step."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self.process.poll() is None:
            self.family = self.process.children(recursive=True)
            # Two worlds below the server they are forked from, which is one of the learner's own children.
            workers = [process for process in self.family if process.ppid() != self.process.pid]
            if (self.out / "steps" / step).is_dir() and len(workers) == 2:
                return
            time.sleep(0.02)
        raise AssertionError(f"never got to {step}:\n{self.errors.read_text()}")

    def leftovers(self) -> list[psutil.Process]:
        """Processes that outlive the learner by more than a few seconds."""
        return psutil.wait_procs(self.family, timeout=8)[1]

    def lines(self) -> list[str]:
        return self.errors.read_text().splitlines()


@pytest.mark.slow
def test_killed_and_interrupted_it_leaves_no_process_no_traceback_and_goes_on(config, tmp_path):
    out = tmp_path / "run"
    first = Learner(config, out)
    first.wait_for(FIRST_VALIDATION)
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    assert not first.leftovers()
    assert not [line for line in first.lines() if "Traceback" in line or "Error" in line or "leaked" in line]

    second = Learner(config, out, "--resume")
    second.wait_for(FIRST_ROLLOUT)
    started = time.monotonic()
    os.killpg(second.process.pid, signal.SIGINT)
    assert second.process.wait(30) == 130
    assert time.monotonic() - started < 15
    assert not second.leftovers()
    assert second.lines()[-1] == "irevla train: interrupted"
    assert not [line for line in second.lines() if "Traceback" in line or "Error" in line]

    third = Learner(config, out, "--resume")
    assert third.process.wait(150) == 0, third.lines()
    result = json.loads((out / "result.json").read_text())
    assert checkpoint_version(out / "checkpoint") == result["selected"]["version"]
    assert len(result["films"]) == 2


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_in_the_simulator_too_an_interrupted_run_ends_as_an_uninterrupted_one(config, tmp_path, number):
    def plain(value):
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items() if key != "seconds"}
        return value

    whole = Learner(config, tmp_path / "whole")
    assert whole.process.wait(300) == 0
    random = np.random.default_rng(int(number))
    code, learner = 1, Learner(config, tmp_path / "run")
    for _ in range(12):
        try:
            code = learner.process.wait(random.uniform(2, 12))
        except psutil.TimeoutExpired:
            os.killpg(learner.process.pid, number)
            learner.process.wait(30)
        if code == 0:
            break
        resume = ["--resume"] if (tmp_path / "run" / "config.yaml").exists() else []
        learner = Learner(config, tmp_path / "run", *resume)
    assert learner.process.wait(300) == 0
    assert not [line for line in learner.lines() if "Traceback" in line]
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("whole", "run")]
    assert plain(results[0]) == plain(results[1])
