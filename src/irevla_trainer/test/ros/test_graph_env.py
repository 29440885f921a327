"""The environment on the graph is that in process: same seed and actions, same images, states and rewards."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest

from irevla_policy.errors import RunError
from irevla_policy.graph.environment import default_environment
from irevla_policy.graph.registry import find_graph
from irevla_policy.graph.supervisor import Supervisor
from irevla_policy.robot.profile import load_profile
from irevla_policy.sim.environment import WorldEnvironment
from irevla_policy.sim.experts import expert_for
from irevla_trainer.rl.worlds import EpisodeRequest, Worlds
from irevla_trainer.ros.graph_env import GraphEnvironment
from irevla_trainer.ros.graph_worlds import GraphWorlds

PROFILE = load_profile("sawyer")


@pytest.fixture(autouse=True)
def private(monkeypatch) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    for name, value in default_environment().items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def graph(tmp_path) -> Iterator[GraphEnvironment]:
    arguments = {"mode": "lock_step", "expert": "false", "record": "", "task": "drawer-open"}
    with (
        Supervisor(find_graph("sim").resolve(arguments), log_dir=tmp_path) as nodes,
        GraphEnvironment(PROFILE, "drawer-open", lock_step=True, version="0123", check=nodes.check) as environment,
    ):
        yield environment


def in_process(actions, task: str, variation: str, seed: int) -> list:
    environment = WorldEnvironment(PROFILE, [task], variation)
    try:
        found = [(*environment.reset(seed=seed)[:1], 0.0, False)]
        for action in actions:
            observed, reward, terminated, _, _ = environment.step(action)
            found.append((observed, reward, terminated))
        return found
    finally:
        environment.close()


def expert_actions(task: str, seed: int) -> list[np.ndarray]:
    """A successful episode of the expert, noise included so that it is not a straight line."""
    environment = WorldEnvironment(PROFILE, [task], images=False)
    try:
        expert, actions = expert_for(task, 0.1, seed), []
        _, info = environment.reset(seed=seed)
        while True:
            actions.append(np.clip(expert.act(info["privileged"]), -1, 1).astype(np.float32))
            _, _, terminated, truncated, info = environment.step(actions[-1])
            assert not truncated
            if terminated:
                return actions
    finally:
        environment.close()


def test_episodes_are_those_of_the_world_in_process(graph):
    actions = expert_actions("drawer-open", 3)
    for task, variation, seed in (("drawer-open", "", 3), ("window-open", "blue", 5), ("drawer-open", "", 3)):
        chosen = actions if task == "drawer-open" else actions[:5]
        expected = in_process(chosen, task, variation, seed)
        observed, info = graph.reset(seed=seed, options={"task": task, "variation": variation})
        assert (info["seed"], info["task"], info["step"]) == (seed, task, 0)
        assert graph.observation_space.contains(observed)
        found = [(observed, 0.0, False)]
        for action in chosen:
            observed, reward, terminated, _, info = graph.step(action)
            found.append((observed, reward, terminated))
            assert info["source"] == "policy"
            np.testing.assert_allclose(info["executed"], action)
        assert len(found) == len(expected)
        for (ours, reward, terminated), (theirs, expected_reward, expected_end) in zip(found, expected, strict=True):
            assert (reward, terminated) == (expected_reward, expected_end)
            for name in theirs:
                assert np.array_equal(ours[name], theirs[name]), name
        assert found[-1][1:] == ((1.0, True) if task == "drawer-open" else (0.0, False))


def test_a_reset_that_is_refused_and_a_broken_graph_are_errors(graph):
    with pytest.raises(RunError, match="no task 'drawer-opne'"):
        graph.reset(seed=1, options={"task": "drawer-opne"})
    observed, _ = graph.reset(seed=1)
    assert graph.observation_space.contains(observed)


def test_the_loop_gets_the_same_episodes_as_from_its_own_worlds(tmp_path):
    requests = [EpisodeRequest("drawer-open", "", 1), EpisodeRequest("window-close", "blue", 2)]
    weights = np.random.default_rng(0).normal(size=(PROFILE.state_dim, 4)) * 0.3

    def run(worlds) -> list:
        seen: dict[int, list] = {0: [], 1: []}

        def decide(now):
            for row, index in enumerate(now.index):
                seen[index].append((now.step[row], now.instructions[row], now.state[row].copy()))
            # By hand: how a matrix product rounds depends on where its operands lie in memory.
            return np.stack(
                [np.tanh(sum(one * row for one, row in zip(state, weights, strict=True))) for state in now.state]
            )

        ends = {}
        for stepped in worlds.episodes(requests, decide):
            if stepped.last is not None:
                for row, index in enumerate(stepped.last.index):
                    image = next(iter(stepped.last.images.values()))[row]
                    ends[index] = (stepped.last.step[row], image.copy())
        return [seen, ends]

    with GraphWorlds("sawyer", max_steps=4, log_dir=tmp_path) as worlds:
        graph_seen, graph_ends = run(worlds)
    with Worlds(PROFILE, 2, max_steps=4) as worlds:
        own_seen, own_ends = run(worlds)
    for index in (0, 1):
        assert graph_ends[index][0] == own_ends[index][0] == 4
        assert np.array_equal(graph_ends[index][1], own_ends[index][1])
        for ours, theirs in zip(graph_seen[index], own_seen[index], strict=True):
            assert ours[:2] == theirs[:2]
            assert np.array_equal(ours[2], theirs[2]), (ours[0], ours[2] - theirs[2])
