"""The scripted experts, and that they keep their success through the joint path."""

from __future__ import annotations

import numpy as np
import pytest

from irevla_policy.robot.profile import load_profile
from irevla_policy.sim.expert_check import TASKS, check_experts, share_kept, table
from irevla_policy.sim.experts import expert_for
from irevla_policy.sim.metaworld import MetaWorld
from irevla_policy.sim.tasks import TaskError

PROFILE = load_profile("sawyer")


def test_noise_is_seeded_and_leaves_the_gripper_alone() -> None:
    with MetaWorld(PROFILE, images=False) as world:
        world.reset("push", seed=0)
        state = world.state
    plain = expert_for("push-v3").act(state)
    assert plain.shape == (4,)
    assert np.abs(plain).max() <= 1.0
    noisy = expert_for("push", noise=0.2, seed=1)
    first = [noisy.act(state) for _ in range(200)]
    again = expert_for("push", noise=0.2, seed=1)
    assert np.array_equal(first, [again.act(state) for _ in range(200)])
    assert not np.array_equal(first[0], expert_for("push", noise=0.2, seed=2).act(state))
    assert (np.array(first)[:, 3] == plain[3]).all()
    inside = np.abs(plain[:3]) < 0.3
    assert np.std(np.array(first)[:, :3][:, inside], axis=0) == pytest.approx(0.2, rel=0.25)


def test_wrong_experts_are_named() -> None:
    with pytest.raises(TaskError, match="no task 'pull'"):
        expert_for("pull")
    with pytest.raises(ValueError, match=r"noise: must be at least 0, found -0\.1"):
        expert_for("push", noise=-0.1)


def test_experts_keep_their_success_on_a_few_episodes() -> None:
    results = check_experts(PROFILE, ["button-press-topdown", "drawer-open", "window-open"], range(3))
    assert share_kept(results) >= 0.95, table(results)
    assert all(result.direct == 3 for result in results)


@pytest.mark.slow
def test_experts_keep_95_percent_of_their_direct_success() -> None:
    results = check_experts(PROFILE, TASKS, range(20))
    print(table(results))
    assert share_kept(results) >= 0.95, table(results)
