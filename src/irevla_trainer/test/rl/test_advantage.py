"""Advantages against those of stable-baselines3."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer

from irevla_trainer.rl.advantage import generalised_advantages

GAMMA, LAMBDA = 0.97, 0.9
SPACE = spaces.Box(-1.0, 1.0, (1,))


def reference(reward, value, next_value, terminated, ended):
    """Its way to treat an episode that was given up: the discounted value of its end is added to the reward."""
    buffer = RolloutBuffer(len(reward), SPACE, SPACE, gae_lambda=LAMBDA, gamma=GAMMA)
    given_up = ended & ~terminated
    starts = np.concatenate([[True], ended[:-1]])
    for step in range(len(reward)):
        whole = reward[step] + (GAMMA * next_value[step] if given_up[step] else 0.0)
        known = torch.tensor([value[step]])
        buffer.add(np.zeros(1), np.zeros(1), np.array([whole]), starts[step : step + 1], known, torch.zeros(1))
    buffer.compute_returns_and_advantage(torch.tensor([float(next_value[-1])]), ended[-1:])
    return buffer.advantages[:, 0], buffer.returns[:, 0]


@pytest.mark.parametrize("seed", range(5))
def test_equals_stable_baselines(seed):
    random = np.random.default_rng(seed)
    ended = random.random(60) < 0.15
    ended[-1] = True
    terminated = ended & (random.random(60) < 0.5)
    reward, value = terminated.astype(np.float32), random.normal(size=60).astype(np.float32)
    next_value = np.append(value[1:], 0.0).astype(np.float32)
    next_value[ended] = random.normal(size=int(ended.sum()))
    advantage, returns = generalised_advantages(reward, value, next_value, terminated, ended, GAMMA, LAMBDA)
    expected, expected_returns = reference(reward, value, next_value, terminated, ended)
    np.testing.assert_allclose(advantage, expected, atol=1e-5)
    np.testing.assert_allclose(returns, expected_returns, atol=1e-5)


def test_returns_of_known_episodes():
    """With lambda 1, a success counts discounted rewards, and an episode that was given up the value at its end."""
    ended = np.array([False, True, False, True])
    terminated = np.array([False, True, False, False])
    value, next_value = np.full(4, 7.0, np.float32), np.full(4, 0.5, np.float32)
    next_value[[0, 2]] = 7.0
    reward = terminated.astype(np.float32)
    _, returns = generalised_advantages(reward, value, next_value, terminated, ended, 0.9, 1.0)
    np.testing.assert_allclose(returns, [0.9, 1.0, 0.9 * 0.45, 0.45], rtol=1e-5)


def test_half_an_episode_is_refused():
    one = np.zeros(1, np.float32)
    with pytest.raises(ValueError, match="whole episodes"):
        generalised_advantages(one, one, one, np.array([False]), np.array([False]), 0.9, 0.9)
