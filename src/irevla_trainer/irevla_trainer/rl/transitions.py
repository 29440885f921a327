"""Replay buffer of transitions whose observations are stored latents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from irevla_trainer.rl.latents import Indices, LatentStore
from irevla_trainer.rl.rollout import Float, Rollout

_COPIED = 512
"""Latents that are copied at a time."""


class Transitions:
    """Observations, episode after episode, and what was done; the oldest make room once the capacity is reached.

    The observation after a decision is the next one of its episode, so that each is stored once. An episode that was
    given up ends in an observation without a decision.

    Args:
        capacity: Observations to keep; at least those of one episode.
        action_dim: Length of an action.
        folder: Keep the latents in a file there instead of in memory.
        device: Where latents are handed out.
        dtype: Number type of the latents.
    """

    def __init__(
        self,
        capacity: int,
        action_dim: int,
        folder: Path | None,
        device: torch.device,
        dtype: torch.dtype = torch.float16,
    ) -> None:
        self.observations = LatentStore(capacity, dtype, folder, device)
        self.capacity = capacity
        self.action = np.zeros((capacity, action_dim), np.float32)
        self.reward = np.zeros(capacity, np.float32)
        self.terminated = np.zeros(capacity, bool)
        self._decided = np.zeros(capacity, bool)
        self._rows = np.zeros(0, np.int64)

    def __len__(self) -> int:
        """Transitions, that is decisions."""
        return len(self._rows)

    def add(self, rollout: Rollout, episodes: npt.NDArray[np.int64], executed: Float) -> None:
        """Add episodes of a rollout.

        Args:
            rollout: The rollout.
            episodes: Which of its episodes, in ascending order.
            executed: Normalised actions that were executed in all of its decisions, `[N, a]`.
        """
        ends = np.flatnonzero(rollout.ended)
        for episode in episodes:
            first, last = (ends[episode - 1] + 1 if episode else 0), ends[episode]
            steps = np.arange(first, last + 1)
            seen = rollout.index[steps]
            given_up = not rollout.terminated[last]
            if given_up:
                seen = np.append(seen, rollout.next_index[last])
            rows = np.concatenate(
                [
                    self.observations.add(rollout.observations.latent(seen[part : part + _COPIED]))
                    for part in range(0, len(seen), _COPIED)
                ]
            )
            self._decided[rows] = True
            if given_up:
                self._decided[rows[-1]] = False
                rows = rows[:-1]
            self.action[rows], self.reward[rows] = executed[steps], rollout.reward[steps]
            self.terminated[rows] = rollout.terminated[steps]
        self._find_rows()

    def sample(self, count: int, random: np.random.Generator) -> Indices:
        """Random transitions, with replacement, `[count]`."""
        return self._rows[random.integers(len(self._rows), size=count)]

    def next(self, index: Indices) -> Indices:
        """The observations after decisions; their own where the episode ended in success."""
        return np.where(self.terminated[index], index, (index + 1) % self.capacity)

    def tensors(self) -> dict[str, Tensor]:
        """All that `load` needs; see `LatentStore.tensors` for what a folder changes."""
        count = len(self.observations)
        arrays = {
            "action": self.action,
            "reward": self.reward,
            "terminated": self.terminated,
            "decided": self._decided,
        }
        tensors = {name: torch.from_numpy(array[:count].copy()) for name, array in arrays.items()}
        return tensors | {f"observations/{name}": value for name, value in self.observations.tensors().items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Continue from what `tensors` gave.

        Raises:
            RunError: The file of the latents is missing, or of another size.
        """
        prefix = "observations/"
        self.observations.load({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        count = len(self.observations)
        self.action[:count], self.reward[:count] = tensors["action"].numpy(), tensors["reward"].numpy()
        self.terminated[:count], self._decided[:count] = tensors["terminated"].numpy(), tensors["decided"].numpy()
        self._find_rows()

    def _find_rows(self) -> None:
        # The oldest go first, so that a decision never outlives the observation after it.
        self._rows = np.flatnonzero(self._decided[: len(self.observations)])
