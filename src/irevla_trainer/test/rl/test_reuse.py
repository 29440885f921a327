"""Earlier rollouts beside the newest: what a batch of them holds, and what its decisions weigh."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from point_reaching import cloned_policy, roll

from irevla_trainer.rl.advantage import generalised_advantages
from irevla_trainer.rl.latents import LatentStore
from irevla_trainer.rl.ppo import Ppo, clipped_policy_loss
from irevla_trainer.rl.reuse import RecentRollouts
from irevla_trainer.rl.settings import LatentSettings, PpoSettings

STD = 0.3


def recent(policy, number: int) -> RecentRollouts:
    return RecentRollouts(
        number,
        lambda decisions, name: LatentStore(decisions),
        lambda latent: policy.action_from_latent(latent)[:, 0].detach(),
    )


def rollout_of(policy, kept: RecentRollouts, seed: int):
    return roll(policy, kept.store(8 * 26), STD, 8, seed)


def moved(policy) -> None:
    with torch.no_grad():
        for parameter in policy.action_head.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))


def test_a_batch_is_the_newest_rollouts_seen_by_the_policy_of_now():
    torch.manual_seed(0)
    policy = cloned_policy()
    kept = recent(policy, 3)
    rollouts, policies = [], []
    for seed in range(4):
        rollouts.append(rollout_of(policy, kept, seed))
        policies.append(copy.deepcopy(policy))
        batch = kept.join(rollouts[-1], 100)
        moved(policy)
    newest = rollouts[1:]
    assert len(batch) == sum(map(len, newest))
    np.testing.assert_array_equal(batch.action, np.concatenate([one.action for one in newest]))
    np.testing.assert_array_equal(batch.ended, np.concatenate([one.ended for one in newest]))
    for index, name in ((batch.index, "index"), (batch.next_index, "next_index")):
        found = batch.observations.latent(index)
        expected = [one.observations.latent(getattr(one, name)) for one in newest]
        assert torch.equal(found.hidden, torch.cat([latent.hidden for latent in expected]))
        assert torch.equal(found.state, torch.cat([latent.state for latent in expected]))
    # In any order, as minibatches take them.
    drawn = np.random.default_rng(0).permutation(len(batch))[:50]
    expected = batch.observations.latent(batch.index).hidden[drawn]
    assert torch.equal(batch.observations.latent(batch.index[drawn]).hidden, expected)
    with torch.no_grad():
        now = policies[-1].action_from_latent(batch.observations.latent(batch.index))[:, 0]
    np.testing.assert_allclose(batch.mean, now.numpy(), atol=1e-5)
    action = torch.from_numpy(batch.action)
    then = torch.from_numpy(np.concatenate([one.mean for one in newest]))
    log_ratio = sum(
        sign * torch.distributions.Normal(mean, STD).log_prob(action).sum(-1) for sign, mean in ((1, now), (-1, then))
    )
    np.testing.assert_allclose(batch.importance, log_ratio.exp().clamp(max=1.0).numpy(), rtol=1e-3, atol=1e-4)
    assert (batch.importance[-len(newest[-1]) :] == 1.0).all()
    assert (batch.importance[: len(newest[0])] < 0.99).mean() > 0.1


def test_one_rollout_is_itself():
    policy = cloned_policy()
    kept = recent(policy, 1)
    for seed in range(2):
        rollout = rollout_of(policy, kept, seed)
        batch = kept.join(rollout, 100)
    assert batch.observations is rollout.observations and batch.mean is rollout.mean
    assert (batch.importance == 1.0).all() and len(batch) == len(rollout)


def test_what_follows_counts_by_its_importance():
    """Against the sum that the recursion stands for."""
    random = np.random.default_rng(1)
    gamma, factor, count = 0.9, 0.8, 12
    ended = np.isin(np.arange(count), [4, 11])
    terminated = np.arange(count) == 4
    reward, value = terminated.astype(np.float32), random.normal(size=count).astype(np.float32)
    next_value, rho = (random.random(count).astype(np.float32) for _ in range(2))
    advantage, returns = generalised_advantages(
        reward, value, next_value, terminated, ended, gamma, factor, importance=rho
    )
    delta = reward + gamma * next_value * ~terminated - value
    for first, last in ((0, 4), (5, 11)):
        for step in range(first, last + 1):
            expected = sum(
                (gamma * factor) ** (later - step) * np.prod(rho[step + 1 : later + 1]) * delta[later]
                for later in range(step, last + 1)
            )
            assert advantage[step] == pytest.approx(expected, rel=1e-4)
            assert returns[step] == pytest.approx(value[step] + rho[step] * expected, rel=1e-4)


def test_the_critic_does_not_learn_from_what_the_policy_would_not_do_any_more():
    """Two stages that differ in what their first rollout was rewarded for, all of it improbable by now."""
    results = []
    for reward in (0.0, 1.0):
        policy = cloned_policy()
        torch.manual_seed(0)
        ppo = Ppo(policy, PpoSettings(episodes=8, minibatch=64, epochs=1, warmup=2, reuse=2))
        critic = copy.deepcopy(ppo.critic.state_dict())
        first = roll(policy, ppo.store(8 * 26), STD, 8, 0)
        # Of a policy that did something else altogether.
        elsewhere = {name: getattr(first, name) + 30 * STD for name in ("action", "mean")}
        far = dataclasses.replace(first, reward=np.full_like(first.reward, reward), **elsewhere)
        ppo.learn(far, 0)
        # As if nothing had been learnt from it so far.
        ppo.critic.load_state_dict(critic)
        ppo.optimizer.state.clear()
        moved(policy)
        ppo.learn(roll(policy, ppo.store(8 * 26), STD, 8, 1), 1)
        results.append(ppo.critic.state_dict())
    assert all(torch.allclose(value, results[1][name], atol=1e-6) for name, value in results[0].items())
    assert not all(torch.equal(value, critic[name]) for name, value in results[0].items())


def test_the_loss_is_a_mean_weighted_by_importance():
    ratio, advantage = torch.tensor([1.0, 1.1, 0.9, 1.0]), torch.tensor([1.0, -1.0, 2.0, -2.0])
    importance = torch.tensor([1.0, 0.5, 0.0, 1.0])
    scaled = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    expected = -(scaled[0] + 0.5 * 1.1 * scaled[1] + scaled[3]) / 2.5
    assert float(clipped_policy_loss(ratio, advantage, 0.2, importance)) == pytest.approx(float(expected))


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_run_that_learns_again_from_earlier_rollouts_resumes(tmp_path, on_disk):
    settings = PpoSettings(episodes=8, minibatch=64, epochs=2, warmup=1, reuse=3)
    latents = LatentSettings(on_disk=on_disk)

    def start(folder, seed=0):
        policy = cloned_policy(seed)
        torch.manual_seed(seed)
        return policy, Ppo(policy, settings, latents=latents, folder=folder)

    def iterate(policy, algorithm, seed):
        return algorithm.learn(roll(policy, algorithm.store(8 * 26), algorithm.std, 8, seed), seed)

    folder = tmp_path / "run"
    policy, whole = start(folder)
    for seed in range(4):
        iterate(policy, whole, seed)
    weights = copy.deepcopy(policy.action_head.state_dict())
    tensors = {name: tensor.clone() for name, tensor in whole.tensors().items()}
    # The iteration that a crash undoes has already written over the oldest.
    roll(policy, whole.store(8 * 26), STD, 8, 4)

    policy, resumed = start(folder, seed=5)
    policy.action_head.load_state_dict(weights)
    resumed.load(tensors)
    again = [iterate(policy, resumed, seed) for seed in (4, 5, 6, 7)]
    uninterrupted, whole = start(tmp_path / "second")
    for seed in range(4):
        iterate(uninterrupted, whole, seed)
    assert again == [iterate(uninterrupted, whole, seed) for seed in (4, 5, 6, 7)]
