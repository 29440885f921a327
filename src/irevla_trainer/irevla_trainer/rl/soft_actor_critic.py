"""Losses of soft actor-critic (Haarnoja et al. 2018) with an ensemble of critics, and clipping of sampled actions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def soft_target(
    reward: Tensor, terminated: Tensor, next_q: Tensor, next_log_prob: Tensor, gamma: float, temperature: Tensor
) -> Tensor:
    """Target of the critics (Haarnoja et al. 2018, eq. 3), the minimum over target critics.

    Args:
        reward: `[B]`.
        terminated: `[B]`.
        next_q: Target critics at the next observation and action, `[K, B]`.
        next_log_prob: Log density of that action `[B]`.
        gamma: Discount factor.
        temperature: Weight of the entropy.

    Returns:
        `[B]`.
    """
    value = next_q.min(0).values - temperature * next_log_prob
    return reward + gamma * torch.where(terminated, 0.0, value)


def critics_loss(q: Tensor, target: Tensor) -> Tensor:
    """Half the squared error, summed over the critics so that each learns at its own rate; q `[E, B]`, target `[B]`."""
    return 0.5 * (q - target).square().mean(-1).sum()


def actor_loss(q: Tensor, log_prob: Tensor, temperature: Tensor) -> Tensor:
    """Negative soft value of sampled actions, the mean over critics as in RLPD; q `[E, B]`, log_prob `[B]`."""
    return (temperature * log_prob - q.mean(0)).mean()


def temperature_loss(log_temperature: Tensor, log_prob: Tensor, entropy: float) -> Tensor:
    """Raises the temperature while the policy's entropy is below `entropy`; log_prob `[B]`, without gradient."""
    return -(log_temperature * (log_prob + entropy)).mean()


def clipped(action: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Actions `[B, a]` as executed, between `low` and `high` `[a]`.

    The gradient of an action beyond a bound passes where it leads back (Hausknecht and Stone 2016), so that the actor
    can return from there.
    """
    return _Clip.apply(action, low, high)


class _Clip(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, action: Tensor, low: Tensor, high: Tensor) -> Tensor:
        ctx.save_for_backward(action > high, action < low)
        return action.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        above, below = ctx.saved_tensors
        outwards = (above & (gradient < 0)) | (below & (gradient > 0))
        return gradient.masked_fill(outwards, 0.0), None, None
