"""PPO against that of stable-baselines3, and its state."""

from __future__ import annotations

import copy
import dataclasses

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from plain_policy import PlainPolicy, latent_of
from point_reaching import cloned_policy, roll
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger
from torch import nn

from irevla_trainer.rl.algorithm import DivergedError
from irevla_trainer.rl.ppo import Ppo, minibatches
from irevla_trainer.rl.rollout import Rollout
from irevla_trainer.rl.settings import PpoSettings

COUNT, STD = 64, 0.4
SETTINGS = PpoSettings(
    epochs=4, minibatch=COUNT, actor_learning_rate=3e-3, critic_learning_rate=3e-3, warmup=0, kl_stop=1e9,
    kl_target=0.0,
)  # fmt: skip


class Nothing(gymnasium.Env):
    """Stable-baselines3 wants an environment; nothing is asked of it."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,))
    action_space = spaces.Box(-9.0, 9.0, (2,))


@pytest.fixture
def reference() -> PPO:
    model = PPO(
        "MlpPolicy", Nothing(), learning_rate=SETTINGS.actor_learning_rate, n_steps=COUNT, batch_size=COUNT,
        n_epochs=SETTINGS.epochs, gamma=SETTINGS.gamma, gae_lambda=SETTINGS.gae_lambda, clip_range=SETTINGS.clip,
        vf_coef=SETTINGS.value_weight, max_grad_norm=SETTINGS.gradient_clip, seed=0, device="cpu",
    )  # fmt: skip
    model.policy.log_std.data.fill_(np.log(STD))
    model.policy.log_std.requires_grad_(False)
    model.set_logger(Logger(None, []))
    return model


def test_updates_equal_stable_baselines(reference):
    """Same weights, same decisions: after some epochs with clipped ratios and gradients, still the same weights."""
    parts = reference.policy.mlp_extractor
    actor = copy.deepcopy(nn.Sequential(parts.policy_net, reference.policy.action_net))
    critic = copy.deepcopy(nn.Sequential(parts.value_net, reference.policy.value_net))
    ppo = Ppo(PlainPolicy(actor, critic), SETTINGS)

    random = np.random.default_rng(0)
    state = random.normal(size=(COUNT + 1, 3)).astype(np.float32)
    ended = np.zeros(COUNT, bool)
    ended[[20, 41, COUNT - 1]] = True
    terminated = ended & (np.arange(COUNT) != 41)
    final = np.where(terminated, np.arange(COUNT), np.arange(COUNT) + 1)
    with torch.no_grad():
        mean = actor(torch.from_numpy(state[:COUNT])).numpy()
        value = critic(torch.from_numpy(state))[:, 0].numpy()
    action = mean + STD * random.standard_normal(mean.shape).astype(np.float32)
    store = ppo.store(COUNT + 1)
    store.add(latent_of(torch.from_numpy(state)))
    rollout = Rollout(
        store,
        np.arange(COUNT),
        final,
        action,
        mean,
        STD,
        terminated.astype(np.float32),
        terminated,
        ended,
        [],
        [],
        [],
        [],
    )

    starts = np.concatenate([[True], ended[:-1]])
    log_prob = torch.distributions.Normal(torch.from_numpy(mean), STD).log_prob(torch.from_numpy(action)).sum(-1)
    for step in range(COUNT):
        given_up = ended[step] and not terminated[step]
        reward = float(terminated[step]) + (SETTINGS.gamma * value[step + 1] if given_up else 0.0)
        reference.rollout_buffer.add(
            state[step : step + 1], action[step : step + 1], np.array([reward]), starts[step : step + 1],
            torch.tensor([value[step]]), log_prob[step : step + 1],
        )  # fmt: skip
    reference.rollout_buffer.compute_returns_and_advantage(torch.zeros(1), ended[-1:])

    figures = ppo.learn(rollout, seed=0)
    reference.train()

    logged = reference.logger.name_to_value
    assert figures["clipped"] == pytest.approx(logged["train/clip_fraction"], abs=1e-6)
    assert figures["clipped"] > 0.05, "the test should reach the clipped part of the loss"
    assert figures["policy_loss"] == pytest.approx(logged["train/policy_gradient_loss"], rel=1e-3)
    assert figures["value_loss"] == pytest.approx(logged["train/value_loss"], rel=1e-4)
    assert figures["explained_variance"] == pytest.approx(logged["train/explained_variance"], abs=1e-4)
    for one, other in (
        (actor, [*parts.policy_net.parameters(), *reference.policy.action_net.parameters()]),
        (critic, [*parts.value_net.parameters(), *reference.policy.value_net.parameters()]),
    ):
        for ours, theirs in zip(one.parameters(), other, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-5)


def points(settings, seed=0):
    policy = cloned_policy(seed)
    torch.manual_seed(seed)
    return policy, Ppo(policy, settings)


def iterate(policy, algorithm, seed):
    return algorithm.learn(roll(policy, algorithm.store(8 * 26), algorithm.std, 8, seed), seed)


def test_resumed_run_equals_uninterrupted():
    settings = PpoSettings(episodes=8, minibatch=64, epochs=2, warmup=1)
    policy, whole = points(settings)
    for seed in range(2):
        iterate(policy, whole, seed)
    weights = copy.deepcopy(policy.action_head.state_dict())
    tensors = {name: tensor.clone() for name, tensor in whole.tensors().items()}
    figures = [iterate(policy, whole, seed) for seed in (2, 3)]

    policy, resumed = points(settings, seed=5)
    policy.action_head.load_state_dict(weights)
    resumed.load(tensors)
    assert [iterate(policy, resumed, seed) for seed in (2, 3)] == figures


def test_warmup_and_divergence_leave_the_policy_alone():
    policy, ppo = points(PpoSettings(episodes=8, minibatch=64, epochs=2, warmup=1))
    before = copy.deepcopy(policy.action_head.state_dict())
    figures = iterate(policy, ppo, 0)
    assert figures["updates"] == 0 and figures["value_loss"] > 0
    rollout = roll(policy, ppo.store(8 * 26), ppo.std, 8, 1)
    with pytest.raises(DivergedError, match="loss of PPO is nan"):
        ppo.learn(dataclasses.replace(rollout, reward=np.full_like(rollout.reward, np.nan)), 1)
    assert all(torch.equal(value, before[name]) for name, value in policy.action_head.state_dict().items())


def test_policy_stops_when_it_has_moved_far_and_the_critic_goes_on():
    settings = PpoSettings(minibatch=16, epochs=8, warmup=0, actor_learning_rate=1e-4, kl_stop=0.05)
    policy, ppo = points(settings)
    rollout = roll(policy, ppo.store(8 * 26), ppo.std, 8, 0)
    critic = copy.deepcopy(ppo.critic.state_dict())
    stopped = ppo.learn(rollout, 0)
    assert 0 < stopped["updates"] < 8 * round(len(rollout) / 16)
    with torch.no_grad():
        mean = policy.action_from_latent(rollout.observations.latent(rollout.index))[:, 0].numpy()
    moved = ((mean - rollout.mean) ** 2).sum(1).mean() / (2 * ppo.std**2)
    assert 0.02 < moved < 0.2
    policy, short = points(dataclasses.replace(settings, epochs=1))
    short.critic.load_state_dict(critic)
    assert stopped["value_loss"] < short.learn(rollout, 0)["value_loss"]


def test_minibatches_take_every_decision_once_per_epoch():
    batches = minibatches(130, 50, 2, np.random.default_rng(0))
    assert [len(batch) for batch in batches] == [44, 43, 43] * 2
    assert sorted(np.concatenate(batches[:3])) == sorted(np.concatenate(batches[3:])) == list(range(130))
    assert not np.array_equal(batches[0], batches[3])
