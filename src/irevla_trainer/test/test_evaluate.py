"""Evaluation counts right, feeds the policy what it needs, and is deterministic."""

from __future__ import annotations

from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

from irevla_policy.robot.observation import Observation
from irevla_policy.robot.profile import load_profile
from irevla_policy.sim.world import StepResult
from irevla_trainer.evaluate import EvaluationTask, evaluate
from irevla_trainer.seeds import SeedError, episode_seeds

PROFILE = load_profile("sawyer")


class CountingWorld:
    """Succeeds at even seeds, in the third decision, when it gets the action that the observation asks for."""

    profile = PROFILE
    made: ClassVar[list[CountingWorld]] = []

    def __init__(self) -> None:
        self.closed = False
        CountingWorld.made.append(self)

    def reset(self, task, variation="", seed=0, instruction_index=None):
        self.task, self.variation, self.seed, self.steps = task, variation, seed, 0
        return self._observe()

    def _observe(self):
        image = np.full((96, 96, 3), (self.seed * 7 + self.steps) % 256, np.uint8)
        return Observation(self.steps, {"corner": image}, np.array(PROFILE.home), 0.05, f"{self.task} {self.variation}")

    def step(self, values):
        assert values[0] == self._observe().images["corner"][0, 0, 0], "the action answers another observation"
        self.steps += 1
        success = self.steps == 3 and self.seed % 2 == 0
        return StepResult(
            self._observe(), float(success), success, success, not success and self.steps == 5, np.zeros(39)
        )

    def close(self):
        self.closed = True


class EchoPolicy:
    """Answers each observation with its brightness; remembers the batches."""

    def __init__(self, chunk=1):
        self.chunk = chunk
        self.batches = []

    def act(self, observations, states):
        assert states.shape == (len(observations), PROFILE.state_dim)
        self.batches.append(len(observations))
        bright = [int(seen.images["corner"][0, 0, 0]) for seen in observations]
        return np.array([[[value + step, 0, 0, 0] for step in range(self.chunk)] for value in bright], float)


@pytest.mark.parametrize(("worlds", "chunk"), [(1, 1), (4, 1), (4, 2), (50, 1)])
def test_counts_and_order(worlds, chunk):
    CountingWorld.made.clear()
    policy = EchoPolicy(chunk)
    tasks = [EvaluationTask("open"), EvaluationTask("close", "blue")]
    results = evaluate(policy, CountingWorld, tasks, range(10, 17), worlds=worlds)
    assert [result.task for result in results] == tasks
    for result in results:
        assert [episode.seed for episode in result.episodes] == list(range(10, 17))
        assert [episode.success for episode in result.episodes] == [seed % 2 == 0 for seed in range(10, 17)]
        assert [episode.steps for episode in result.episodes] == [3 if seed % 2 == 0 else 5 for seed in range(10, 17)]
        assert result.rate.successes == 4
    assert len(CountingWorld.made) == min(worlds, 7)
    assert all(world.closed for world in CountingWorld.made)
    assert max(policy.batches) == min(worlds, 7)


def test_json_has_rate_interval_and_outcomes():
    result = evaluate(EchoPolicy(), CountingWorld, [EvaluationTask("open", "blue")], range(4))[0].to_json()
    assert (result["task"], result["variation"], result["success"], result["episodes"]) == ("open", "blue", 0.5, 4)
    assert 0.0 < result["low"] < 0.5 < result["high"] < 1.0
    assert result["seeds"] == [0, 1, 2, 3]
    assert result["outcomes"] == [True, False, True, False]


def test_films_only_what_was_asked():
    result = evaluate(EchoPolicy(), CountingWorld, [EvaluationTask("open")], range(4), filmed=2)[0]
    assert [len(episode.frames) for episode in result.episodes] == [4, 6, 0, 0]


def test_worlds_are_closed_when_the_policy_fails():
    CountingWorld.made.clear()
    with pytest.raises(ZeroDivisionError):
        evaluate(SimpleNamespace(act=lambda *_: 1 / 0), CountingWorld, [EvaluationTask("open")], range(4))
    assert CountingWorld.made
    assert all(world.closed for world in CountingWorld.made)


def test_task_names():
    assert EvaluationTask.parse("open") == EvaluationTask("open", "")
    assert EvaluationTask.parse(" open:blue ") == EvaluationTask("open", "blue")
    assert str(EvaluationTask("open", "blue")) == "open:blue"


def test_seeds_of_different_purposes_never_meet():
    ranges = [set(episode_seeds(purpose, 1000, 5)) for purpose in ("train", "validation", "test")]
    assert all(len(seeds) == 1000 for seeds in ranges)
    assert not (ranges[0] & ranges[1] or ranges[0] & ranges[2] or ranges[1] & ranges[2])


@pytest.mark.parametrize(("purpose", "count", "first"), [("exam", 1, 0), ("test", 2, 999_999), ("test", 1, -1)])
def test_seeds_that_cannot_be(purpose, count, first):
    with pytest.raises(SeedError):
        episode_seeds(purpose, count, first)


def test_default_policy_drives_the_real_world_the_same_every_time():
    import os

    os.environ.setdefault("MUJOCO_GL", "egl")
    from irevla_policy.model.config import ModelSettings, RobotFacts
    from irevla_policy.model.policy import VLAPolicy
    from irevla_policy.sim.metaworld import MetaWorld

    policy = VLAPolicy.create(ModelSettings(), RobotFacts.of(PROFILE))

    def run():
        worlds = evaluate(
            policy,
            lambda: MetaWorld(PROFILE, max_steps=4),
            [EvaluationTask("drawer-open")],
            episode_seeds("test", 3),
            worlds=2,
            filmed=3,
        )
        return worlds[0].episodes

    first, again = run(), run()
    assert [episode.steps for episode in first] == [4, 4, 4]
    for one, other in zip(first, again, strict=True):
        assert len(one.frames) == 5
        assert all(np.array_equal(a, b) for a, b in zip(one.frames, other.frames, strict=True))
