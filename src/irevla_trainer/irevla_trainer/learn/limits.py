"""What of an action a robot carries out: raw actions are clipped to [-1, 1], and learning knows it.

A policy whose mean lies beyond a limit acts as one whose mean is the limit. So imitation does not pull it back to a
demonstration that was clipped itself, and the gradient of a policy does not ask how far beyond a sample fell, only that
it fell there (Fujita and Maeda 2018): the rest would be noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from irevla_policy.model.policy import VLAPolicy

_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)
_NEAR = 1e-4
"""Normalised units within which an action lies on a limit: what came through raw actions has been rounded."""


@dataclass(frozen=True)
class ActionLimits:
    """Limits of normalised actions.

    Attributes:
        low: `[a]`.
        high: `[a]`.
    """

    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, policy: VLAPolicy) -> ActionLimits:
        """Those of a policy's robot, on the policy's device."""
        normaliser = policy.normaliser
        ends = [normaliser.normalise_action(np.full(normaliser.action.size, end)) for end in (-1.0, 1.0)]
        low, high = (torch.from_numpy(end).to(policy.device) for end in ends)
        return cls(low, high)

    def clip(self, action: Tensor) -> Tensor:
        """Actions `[..., a]` as executed.

        The gradient of an action beyond a limit passes where it leads back (Hausknecht and Stone 2016), so that what
        learns can return from there.
        """
        clipped: Tensor = _Clip.apply(action, self.low, self.high)
        return clipped

    def log_prob(self, action: Tensor, mean: Tensor, std: float) -> Tensor:
        """Log density of N(mean, std^2 I), clipped: on a limit the log of all the probability beyond it.

        Args:
            action: As sampled or as executed, `[B, a]`.
            mean: `[B, a]`.
            std: Of every dimension.

        Returns:
            `[B]`.
        """
        at_low, at_high = action <= self.low + _NEAR, action >= self.high - _NEAR
        inside = -((action - mean) / std).square() / 2 - math.log(std) - _LOG_SQRT_2PI
        # Where it is not asked for, the tail is that at 0: far out its gradient is not finite.
        below = torch.special.log_ndtr(torch.where(at_low, self.low - mean, 0.0) / std)
        above = torch.special.log_ndtr(torch.where(at_high, mean - self.high, 0.0) / std)
        return torch.where(at_low, below, torch.where(at_high, above, inside)).sum(-1)

    def kl(self, mean: Tensor, other: Tensor, std: float) -> Tensor:
        """Divergence of N(other, std^2 I) from N(mean, std^2 I), both clipped; `[B, a]` to `[B]`.

        P log(P / P') below and above the limits; between them E[(m - m') (2 x - m - m')] / (2 std^2).
        """
        low, high = (self.low - mean) / std, (self.high - mean) / std
        shift = (mean - other) / std
        below, above = torch.special.ndtr(low), torch.special.ndtr(-high)
        inside = 1 - below - above
        # E[(x - m) / std; inside]
        first = ((-low.square() / 2).exp() - (-high.square() / 2).exp()) / math.sqrt(2 * math.pi)
        kl = below * (torch.special.log_ndtr(low) - torch.special.log_ndtr(low + shift))
        kl = kl + above * (torch.special.log_ndtr(-high) - torch.special.log_ndtr(-high - shift))
        kl = kl + shift * first + shift.square() / 2 * inside
        return kl.sum(-1)


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
