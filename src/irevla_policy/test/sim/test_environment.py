"""The world as a gymnasium environment."""

from __future__ import annotations

import warnings
from functools import partial

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from irevla_policy.robot.profile import load_profile
from irevla_policy.sim.environment import WorldEnvironment
from irevla_policy.sim.experts import expert_for
from irevla_policy.sim.metaworld import MetaWorld
from irevla_policy.sim.tasks import TaskError

PROFILE = load_profile("sawyer")


def test_gymnasium_finds_nothing_wrong() -> None:
    environment = WorldEnvironment(PROFILE, ["drawer-open", "push"])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        check_env(environment, skip_render_check=True)
    environment.close()


def test_an_episode_is_that_of_the_world() -> None:
    environment = WorldEnvironment(PROFILE, ["reach"], render_mode="rgb_array")
    observed, info = environment.reset(seed=5, options={"task": "drawer-open", "instruction_index": 1})
    with MetaWorld(PROFILE) as world:
        observation = world.reset("drawer-open", seed=5, instruction_index=1)
        assert np.array_equal(observed["corner"], observation.images["corner"])
        assert info["instruction"] == observation.instruction
        assert (info["task"], info["seed"], info["step"]) == ("drawer-open", 5, 0)
        assert np.array_equal(info["privileged"], world.state)
        expert = expert_for("drawer-open")
        terminated = False
        while not terminated:
            action = expert.act(info["privileged"]).astype(np.float32)
            observed, reward, terminated, truncated, info = environment.step(action)
            result = world.step(action.astype(np.float64))
            assert np.array_equal(observed["corner"], result.observation.images["corner"])
            assert not truncated
    assert reward == 1.0
    assert info["success"]
    assert np.array_equal(environment.render(), observed["corner"])
    environment.close()


def test_tasks_and_seeds_are_drawn_from_the_first_seed() -> None:
    def draws() -> list[tuple[str, int]]:
        environment = WorldEnvironment(PROFILE, ["reach", "push", "drawer-open"], images=False)
        infos = [environment.reset(seed=11)[1]] + [environment.reset()[1] for _ in range(5)]
        environment.close()
        return [(info["task"], info["seed"]) for info in infos]

    first = draws()
    assert first == draws()
    assert len({seed for _, seed in first}) == 6
    assert len({task for task, _ in first}) > 1


def test_unknown_options_and_too_early_steps_are_named() -> None:
    environment = WorldEnvironment(PROFILE, ["reach"], images=False)
    with pytest.raises(gymnasium.error.ResetNeeded):
        environment.step(np.zeros(4, dtype=np.float32))
    with pytest.raises(TaskError, match="unknown key 'taks'"):
        environment.reset(options={"taks": "push"})
    with pytest.raises(ValueError, match="at least one"):
        WorldEnvironment(PROFILE, [])


@pytest.mark.slow
def test_worker_processes_see_what_one_process_sees() -> None:
    make = [partial(WorldEnvironment, PROFILE, ["drawer-open"])] * 2
    workers = gymnasium.vector.AsyncVectorEnv(make, context="spawn")
    try:
        observed, info = workers.reset(seed=[1, 2])
        observed, *_ = workers.step(np.zeros((2, 4), dtype=np.float32))
    finally:
        workers.close()
    assert list(info["seed"]) == [1, 2]
    environment = WorldEnvironment(PROFILE, ["drawer-open"])
    environment.reset(seed=2)
    alone, *_ = environment.step(np.zeros(4, dtype=np.float32))
    environment.close()
    assert np.array_equal(observed["corner"][1], alone["corner"])
