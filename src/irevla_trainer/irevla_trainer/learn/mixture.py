"""Expert data and collected successes, mixed in a fixed proportion (stage 2 of iRe-VLA: D_e and D_RL)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from irevla_trainer.learn.decisions import Decisions, EpisodeArrays


class Mixture(Decisions):
    """Decisions of two sources; every pass takes all of the first, and the second's share is drawn to fit.

    However many successes reinforcement learning brings, the expert data keeps its weight, and a few successes count
    as much as many.

    Args:
        experts: D_e; may be empty, then a pass takes all of D_RL.
        successes: D_RL; may be empty.
        cameras: Which images to take.
        share: Share of D_RL among the decisions that are drawn, in [0, 1).
        chunk: Actions per decision.
    """

    def __init__(
        self,
        experts: Sequence[EpisodeArrays],
        successes: Sequence[EpisodeArrays],
        cameras: Sequence[str],
        share: float,
        chunk: int = 1,
    ) -> None:
        if not 0.0 <= share < 1.0:
            raise ValueError(f"share: expected a number in [0, 1), found {share}")
        super().__init__([*experts, *successes], cameras, chunk)
        self._experts = sum(len(episode.action) for episode in experts)
        drawn = round(self._experts * share / (1.0 - share))
        available = len(self) - self._experts
        self._drawn = 0 if not available else drawn if self._experts else available

    @property
    def epoch_length(self) -> int:
        """Decisions that one pass over the data draws."""
        return self._experts + self._drawn

    def order(self, random: np.random.Generator) -> npt.NDArray[np.int64]:
        """All expert decisions and the share of collected ones, each as often as any other, in random order."""
        available = len(self) - self._experts
        rounds = -(-self._drawn // available) if self._drawn else 0
        drawn = [self._experts + random.permutation(available) for _ in range(rounds)]
        successes = np.concatenate(drawn)[: self._drawn] if drawn else np.zeros(0, dtype=np.int64)
        return random.permutation(np.concatenate([np.arange(self._experts), successes]))
