"""SACfD: critics, buffers, state."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from point_reaching import PointPolicy, cloned_policy, latent_of, roll, situations

from irevla_policy.settings import SettingsError
from irevla_trainer.rl.algorithm import DivergedError
from irevla_trainer.rl.critics import CriticEnsemble
from irevla_trainer.rl.latents import LatentStore
from irevla_trainer.rl.sacfd import Sacfd
from irevla_trainer.rl.settings import SacfdSettings
from irevla_trainer.rl.transitions import Transitions

SMALL = SacfdSettings(
    demonstrations=4, batch_size=16, critic_width=16, warmup=10, updates_per_decision=0.1, capacity=2048
)


def points(settings=SMALL, folder=None, seed=0):
    policy = cloned_policy(seed)
    torch.manual_seed(seed)
    return policy, Sacfd(policy, settings, folder=folder)


def iterate(policy, algorithm, seed):
    return algorithm.learn(roll(policy, algorithm.store(8 * 26), algorithm.std, 8, seed), seed)


def test_ensemble_equals_its_members_one_by_one():
    torch.manual_seed(0)
    critics = CriticEnsemble.like(PointPolicy().action_head, 3, 16, 2)
    for parameter in critics.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    place, goal = situations(7, np.random.default_rng(0))
    latent, action = latent_of(place, goal), torch.randn(7, 2)
    q = critics(latent, action)
    assert q.shape == (3, 7)
    pooled = critics.norm(critics.learner(latent.hidden, latent.mask, latent.state))
    for member in range(3):
        hidden = torch.cat([pooled, latent.state, action], dim=1)
        for weight, bias in zip(critics.weights, critics.biases, strict=True):
            out = hidden @ weight[member] + bias[member]
            mean, deviation = out.mean(1, keepdim=True), out.var(1, correction=0, keepdim=True).add(1e-5).sqrt()
            hidden = ((out - mean) / deviation).clamp(min=0)
        torch.testing.assert_close(q[member], (hidden @ critics.last[member] + critics.last_bias[member])[:, 0])
    torch.testing.assert_close(critics(latent, action, torch.tensor([2, 0])), q[[2, 0]])


@pytest.mark.parametrize("capacity", [1000, 60])
def test_transitions_are_those_of_the_rollout(capacity):
    """Also once the oldest were overwritten: what is sampled is always a whole transition of some rollout."""
    policy = cloned_policy()
    transitions = Transitions(capacity, 2, None, torch.device("cpu"))
    known = {}
    for seed in range(4):
        rollout = roll(policy, LatentStore(6 * 26), 0.3, 6, seed)
        transitions.add(rollout, np.array([1, 2, 5]), rollout.action)
        seen, after = (rollout.observations.latent(index) for index in (rollout.index, rollout.next_index))
        for step in range(len(rollout)):
            known[rollout.action[step].tobytes()] = (
                seen.hidden[step], after.hidden[step], rollout.reward[step], rollout.terminated[step]
            )  # fmt: skip
    assert len(transitions) <= capacity
    index = transitions.sample(300, np.random.default_rng(0))
    seen = transitions.observations.latent(index)
    after = transitions.observations.latent(transitions.next(index))
    assert transitions.terminated[index].any()
    for row, place in enumerate(index):
        hidden, next_hidden, reward, terminated = known[transitions.action[place].tobytes()]
        assert torch.equal(seen.hidden[row], hidden)
        assert torch.equal(after.hidden[row], next_hidden)
        assert (transitions.reward[place], transitions.terminated[place]) == (reward, terminated)


def test_first_successes_are_the_demonstrations_and_nothing_learns_before():
    policy, sacfd = points(dataclasses.replace(SMALL, demonstrations=6))
    before = copy.deepcopy(policy.action_head.state_dict())
    successes, seed = 0, 0
    while sacfd.filling:
        rollout = roll(policy, sacfd.store(5 * 26), sacfd.std, 5, seed)
        successes, seed = successes + sum(rollout.success), seed + 1
        assert all(torch.equal(value, before[name]) for name, value in policy.action_head.state_dict().items())
        figures = sacfd.learn(rollout, seed)
        assert figures["demonstrations"] == min(successes, 6)
    assert figures["updates"] >= 10
    assert sacfd.demonstrations.reward.sum() == 6
    assert sacfd.online.reward.sum() == successes - 6
    batch = sacfd._batch(np.random.default_rng(0))
    assert batch.demonstrated == 8
    held = {row.tobytes() for row in sacfd.demonstrations.action}
    assert all(row.tobytes() in held for row in batch.action[:8].numpy())
    assert not any(row.tobytes() in held for row in batch.action[8:].numpy())


def test_successes_that_somebody_helped_are_demonstrations_too():
    policy, sacfd = points(dataclasses.replace(SMALL, demonstrations=0))
    rollout = roll(policy, sacfd.store(8 * 26), 4.0, 8, 0)
    assert sum(rollout.success) >= 2 and not all(rollout.success)
    helped = [False] * 8
    helped[rollout.success.index(True)] = helped[rollout.success.index(False)] = True
    sacfd.learn(dataclasses.replace(rollout, intervened=helped), 0)
    assert sacfd.counts["demonstrations"] == 1 and sacfd.demonstrations.reward.sum() == 1
    assert sacfd.online.reward.sum() == sum(rollout.success) - 1
    assert len(sacfd.demonstrations) + len(sacfd.online) == len(rollout)


def test_learning_starts_without_demonstrations_in_the_end():
    policy, sacfd = points(dataclasses.replace(SMALL, demonstrations=1000, demonstration_attempts=16))
    assert "critic_loss" not in iterate(policy, sacfd, 0)
    assert iterate(policy, sacfd, 1)["critic_loss"] > 0


def test_critics_learn_from_actions_as_executed():
    policy, sacfd = points(dataclasses.replace(SMALL, demonstrations=0))
    rollout = roll(policy, sacfd.store(8 * 26), 3.0, 8, 0)
    sacfd.learn(rollout, 0)
    stored = sacfd.online.action[: len(sacfd.online.observations)]
    raw = policy.normaliser.denormalise_action(stored)
    assert np.abs(policy.normaliser.denormalise_action(rollout.action)).max() > 1.5
    assert np.abs(raw).max() == pytest.approx(1.0)


@pytest.mark.parametrize("settings", [SMALL, dataclasses.replace(SMALL, temperature=0.01, target_noise=0.2)])
@pytest.mark.parametrize("spilled", [False, True])
def test_resumed_run_equals_uninterrupted(tmp_path, settings, spilled):
    """Even when the process died after it had written the latents of the next iteration."""
    folder = tmp_path if spilled else None
    policy, whole = points(settings, folder)
    for seed in range(3):
        iterate(policy, whole, seed)
    weights = copy.deepcopy(policy.action_head.state_dict())
    tensors = {name: tensor.clone() for name, tensor in whole.tensors().items()}
    figures = [iterate(policy, whole, seed) for seed in (3, 4)]

    policy, resumed = points(settings, folder, seed=5)
    policy.action_head.load_state_dict(weights)
    resumed.load(tensors)
    assert [iterate(policy, resumed, seed) for seed in (3, 4)] == figures


@pytest.mark.parametrize(("target", "rises"), [(0.6, True), (0.1, False)])
def test_temperature_is_tuned_towards_the_noise_that_is_wanted(target, rises):
    settings = dataclasses.replace(
        SMALL, demonstrations=0, warmup=0, temperature=0.1, target_noise=target, entropy_learning_rate=1e-3
    )
    figures = iterate(*points(settings), 0)
    assert (figures["temperature"] > 0.1) is rises


def test_entropy_raises_the_noise_only_where_it_has_a_weight():
    plain = dataclasses.replace(SMALL, demonstrations=0, warmup=0)
    assert iterate(*points(plain), 0)["noise"] == pytest.approx(0.3)
    assert iterate(*points(dataclasses.replace(plain, temperature=0.1)), 0)["noise"] > 0.3002


def test_divergence_leaves_the_policy_alone():
    policy, sacfd = points(dataclasses.replace(SMALL, demonstrations=0, warmup=0))
    rollout = roll(policy, sacfd.store(8 * 26), sacfd.std, 8, 0)
    before = copy.deepcopy(policy.action_head.state_dict())
    with pytest.raises(DivergedError, match="SACfD: the critics' loss is nan in update 0"):
        sacfd.learn(dataclasses.replace(rollout, reward=np.full_like(rollout.reward, np.nan)), 1)
    assert all(torch.equal(value, before[name]) for name, value in policy.action_head.state_dict().items())


def test_settings_that_do_not_fit():
    with pytest.raises(SettingsError, match="target_critics: at most critics = 1, found 2"):
        SacfdSettings(critics=1)
    with pytest.raises(SettingsError, match="target_noise"):
        SacfdSettings(target_noise=0.2)
