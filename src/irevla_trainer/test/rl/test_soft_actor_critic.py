"""Losses of SACfD against those of stable-baselines3, and the gradient of clipped actions."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.logger import Logger

from irevla_trainer.rl.soft_actor_critic import actor_loss, clipped, critics_loss, soft_target, temperature_loss

BATCH = 32


class Nothing(gymnasium.Env):
    """Stable-baselines3 wants an environment; nothing is asked of it."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,))
    action_space = spaces.Box(-1.0, 1.0, (2,))


# Its actor takes the minimum over critics where RLPD takes the mean: one critic shows the rest to be the same.
@pytest.mark.parametrize("critics", [1, 3])
def test_losses_equal_stable_baselines(critics):
    model = SAC(
        "MlpPolicy", Nothing(), learning_rate=1e-3, buffer_size=BATCH, batch_size=BATCH, ent_coef="auto_0.3",
        gamma=0.9, policy_kwargs={"n_critics": critics, "net_arch": [16, 16]}, seed=0, device="cpu",
    )  # fmt: skip
    model.set_logger(Logger(None, []))
    random = np.random.default_rng(0)
    for _ in range(BATCH):
        seen, after = random.normal(size=(2, 1, 3)).astype(np.float32)
        action = random.uniform(-1, 1, (1, 2)).astype(np.float32)
        done = random.random(1) < 0.3
        model.replay_buffer.add(seen, after, action, done.astype(np.float32), done, [{}])

    # What it draws: the order of the batch from numpy, then noise for the batch, then for what comes after it.
    np.random.seed(1)
    data = model.replay_buffer.sample(BATCH)
    torch.manual_seed(1)
    with torch.no_grad():
        action, log_prob = model.actor.action_log_prob(data.observations)
        next_action, next_log_prob = model.actor.action_log_prob(data.next_observations)
        next_q = torch.cat(model.critic_target(data.next_observations, next_action), dim=1).T
        q = torch.cat(model.critic(data.observations, data.actions), dim=1).T
    log_temperature = model.log_ent_coef.detach().clone()
    np.random.seed(1)
    torch.manual_seed(1)
    model.train(gradient_steps=1, batch_size=BATCH)
    logged = model.logger.name_to_value

    temperature = log_temperature.exp()
    reward, done = data.rewards[:, 0], data.dones[:, 0].bool()
    target = soft_target(reward, done, next_q, next_log_prob, 0.9, temperature)
    assert float(critics_loss(q, target)) == pytest.approx(logged["train/critic_loss"], rel=1e-4)
    # The temperature is tuned towards entropy -|A|.
    assert float(temperature_loss(log_temperature, log_prob, -2.0)) == pytest.approx(
        logged["train/ent_coef_loss"], rel=1e-4
    )
    if critics == 1:
        with torch.no_grad():  # its actor answers to the critics after their step
            value = torch.cat(model.critic(data.observations, action), dim=1).T
        assert float(actor_loss(value, log_prob, temperature)) == pytest.approx(logged["train/actor_loss"], rel=1e-4)


def test_target_of_a_success_is_its_reward():
    next_q = torch.tensor([[5.0, 2.0], [4.0, 3.0]])
    target = soft_target(
        torch.tensor([1.0, 0.0]), torch.tensor([True, False]), next_q, torch.tensor([9.0, 1.0]), 0.5, torch.tensor(0.1)
    )
    torch.testing.assert_close(target, torch.tensor([1.0, 0.5 * (2.0 - 0.1)]))


def test_clipped_actions_can_come_back():
    """Descent moves against the gradient: outwards beyond a bound it stops, back inside it passes."""
    low, high = torch.tensor([-1.0]), torch.tensor([1.0])
    action = torch.tensor([[2.0], [2.0], [-2.0], [-2.0], [0.5]], requires_grad=True)
    out = clipped(action, low, high)
    assert out[:, 0].tolist() == [1.0, 1.0, -1.0, -1.0, 0.5]
    out.backward(torch.tensor([[1.0], [-1.0], [1.0], [-1.0], [3.0]]))
    assert action.grad is not None
    assert action.grad[:, 0].tolist() == [1.0, 0.0, 0.0, -1.0, 3.0]
