"""What stage 1 asks of a reinforcement learning algorithm."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from irevla_policy.errors import RunError
from irevla_trainer.rl.latents import ImageStore, LatentStore
from irevla_trainer.rl.rollout import Rollout


class DivergedError(RunError):
    """A loss is not finite."""


class RlAlgorithm(Protocol):
    """Improves a policy in place, from rollout to rollout.

    while not converged:
        noise = algorithm.std, seed, algorithm.noise_correlation
        rollout = collect(worlds, requests, policy, algorithm.store(decisions), *noise)
        algorithm.learn(rollout, seed)
    """

    @property
    def episodes(self) -> int:
        """Episodes that a rollout should have."""

    @property
    def std(self) -> float:
        """Standard deviation of the exploration noise on normalised actions."""

    @property
    def noise_correlation(self) -> float:
        """Correlation of the noise of two decisions in a row."""

    def store(self, decisions: int) -> LatentStore | ImageStore:
        """Where the next rollout puts what it sees; `decisions` bounds how much that is."""

    def learn(self, rollout: Rollout, seed: int) -> dict[str, float]:
        """Learn from a rollout of the policy as it is now.

        Args:
            rollout: Made with a store of this algorithm.
            seed: Of every random draw.

        Returns:
            Figures to watch, by name.

        Raises:
            DivergedError: A loss is not finite; the policy is as before that update.
        """

    def tensors(self) -> dict[str, Tensor]:
        """All that `load` needs to go on, the policy's own weights left out."""

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Continue from what `tensors` gave, once the policy's weights are those of that moment."""
