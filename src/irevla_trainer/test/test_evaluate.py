"""Evaluation counts right, feeds the policy what it needs, and is deterministic."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from irevla_policy.robot.profile import load_profile
from irevla_trainer.evaluate import EvaluationTask, evaluate
from irevla_trainer.rl.worlds import Seen, Stepped
from irevla_trainer.seeds import SeedError, episode_seeds

PROFILE = load_profile("sawyer")


class CountingWorlds:
    """Episodes of even seeds succeed in the third decision, the others are given up in the fifth.

    Every action must be the one that its observation asks for.
    """

    def __init__(self, count):
        self.count = count

    def episodes(self, requests, decide):
        parts = np.array_split(np.arange(len(requests)), self.count)
        waiting = [[int(place) for place in part] for part in parts if len(part)]
        steps = dict.fromkeys(range(len(requests)), 0)
        while waiting := [part for part in waiting if part]:
            index = [part[0] for part in waiting]
            seen = self._seen(index, steps, requests)
            assert np.array_equal(decide(seen)[:, 0], seen.images["corner"][:, 0, 0, 0]), "answers something else"
            for place in index:
                steps[place] += 1
            good = np.array([steps[place] == 3 and requests[place].seed % 2 == 0 for place in index])
            spent = np.array([steps[place] == 5 for place in index])
            over = [place for place, ended in zip(index, good | spent, strict=True) if ended]
            for part in waiting:
                if part[0] in over:
                    part.pop(0)
            yield Stepped(index, good, spent, self._seen(over, steps, requests) if over else None)

    def _seen(self, index, steps, requests):
        asked = [requests[place] for place in index]
        bright = [(one.seed * 7 + steps[place]) % 256 for one, place in zip(asked, index, strict=True)]
        images = np.array(bright, np.uint8)[:, None, None, None] * np.ones((1, 96, 96, 3), np.uint8)
        instructions = [f"{one.task} {one.variation}" for one in asked]
        state = np.zeros((len(index), PROFILE.state_dim), np.float32)
        return Seen(index, [steps[place] for place in index], {"corner": images}, instructions, state)


class EchoPolicy:
    """Answers each observation with its brightness; remembers the batches."""

    def __init__(self, chunk=1):
        self.chunk = chunk
        self.batches = []
        self.instructions = set()

    def act(self, observations, states):
        assert states.shape == (len(observations), PROFILE.state_dim)
        self.batches.append(len(observations))
        self.instructions |= {seen.instruction for seen in observations}
        bright = [int(seen.images["corner"][0, 0, 0]) for seen in observations]
        return np.array([[[value + step, 0, 0, 0] for step in range(self.chunk)] for value in bright], float)


@pytest.mark.parametrize(("worlds", "chunk"), [(1, 1), (4, 1), (4, 2), (50, 1)])
def test_counts_and_order(worlds, chunk):
    policy = EchoPolicy(chunk)
    tasks = [EvaluationTask("open"), EvaluationTask("close", "blue")]
    told = []
    results = evaluate(
        policy, CountingWorlds(worlds), tasks, range(10, 17), progress=lambda *values: told.append(values)
    )
    assert [result.task for result in results] == tasks
    for result in results:
        assert [episode.seed for episode in result.episodes] == list(range(10, 17))
        assert [episode.success for episode in result.episodes] == [seed % 2 == 0 for seed in range(10, 17)]
        assert [episode.steps for episode in result.episodes] == [3 if seed % 2 == 0 else 5 for seed in range(10, 17)]
        assert result.rate.successes == 4
    assert max(policy.batches) == min(worlds, 14)
    assert policy.instructions == {"open ", "close blue"}
    for task in tasks:
        assert [done for one, done, _ in told if one == task] == list(range(1, 8))
        assert [successes for one, _, successes in told if one == task][-1] == 4


def test_a_chunk_is_carried_out_before_the_next_is_asked_for():
    policy = EchoPolicy(chunk=2)
    evaluate(policy, CountingWorlds(1), [EvaluationTask("open")], [0, 1])
    assert len(policy.batches) == 2 + 3  # decisions 0 and 2; 0, 2 and 4


def test_json_has_rate_interval_and_outcomes():
    result = evaluate(EchoPolicy(), CountingWorlds(2), [EvaluationTask("open", "blue")], range(4))[0].to_json()
    assert (result["task"], result["variation"], result["success"], result["episodes"]) == ("open", "blue", 0.5, 4)
    assert 0.0 < result["low"] < 0.5 < result["high"] < 1.0
    assert result["seeds"] == [0, 1, 2, 3]
    assert result["outcomes"] == [True, False, True, False]


def test_films_the_first_success_and_the_first_failure_of_every_task():
    tasks = [EvaluationTask("open"), EvaluationTask("close")]
    for result in evaluate(EchoPolicy(), CountingWorlds(4), tasks, range(4), filmed=1):
        assert [len(episode.frames) for episode in result.episodes] == [4, 6, 0, 0]


def test_an_error_of_the_policy_is_not_swallowed():
    with pytest.raises(ZeroDivisionError):
        evaluate(SimpleNamespace(act=lambda *_: 1 / 0), CountingWorlds(2), [EvaluationTask("open")], range(4))


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


@pytest.mark.slow
def test_default_policy_drives_the_real_world_the_same_every_time():
    from irevla_policy.model.config import ModelSettings, RobotFacts
    from irevla_policy.model.policy import VLAPolicy
    from irevla_trainer.rl.worlds import Worlds

    policy = VLAPolicy.create(ModelSettings(), RobotFacts.of(PROFILE))
    tasks, seeds = [EvaluationTask("drawer-open")], episode_seeds("test", 3)
    with Worlds(PROFILE, 2, max_steps=4) as worlds:
        first, again = (evaluate(policy, worlds, tasks, seeds, filmed=3)[0].episodes for _ in range(2))
    assert [episode.steps for episode in first] == [4, 4, 4]
    for one, other in zip(first, again, strict=True):
        assert len(one.frames) == 5
        assert all(np.array_equal(a, b) for a, b in zip(one.frames, other.frames, strict=True))
