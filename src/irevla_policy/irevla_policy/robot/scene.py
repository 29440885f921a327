"""What the arm may not touch, and who plans around it: the interface that Pinocchio and MoveIt stand behind."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from irevla_policy.errors import UserError

Array = npt.NDArray[np.float64]

Touch = tuple[str, str]
"""Names of two things that touch each other."""

_KEPT = 2048


class Scene(Protocol):
    """What the arm may not touch."""

    def touching(self, joints: Array) -> list[Touch]:
        """What touches what.

        Args:
            joints: Positions in the profile's order, rad, `[n]`.

        Returns:
            A pair for everything that touches; empty when nothing does.
        """
        ...


@dataclass(frozen=True, eq=False)
class Motion:
    """A motion in time.

    Attributes:
        positions: Joint positions at the end of every period, rad, `[k, n]`; the last is the goal.
        lifted: How far the hand is lifted first, m; 0 for the straight way.
    """

    positions: Array
    lifted: float = 0.0


class HomingError(UserError, RuntimeError):
    """There is no free way home."""


class Planner(Protocol):
    """Plans motions to the home position."""

    def plan(self, start: Array, period: float) -> Motion:
        """The way home from rest.

        Args:
            start: Measured joint positions, rad, `[n]`.
            period: Between the positions of the motion, s.

        Raises:
            HomingError: No way is free; says why.
        """
        ...


class MeasuredScene:
    """A scene that knows what asking it has cost.

    Args:
        scene: Is asked.
    """

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._spent = 0.0
        self._costs: deque[float] = deque(maxlen=_KEPT)

    def touching(self, joints: Array) -> list[Touch]:
        """See `Scene.touching`."""
        begin = time.perf_counter()
        try:
            return self._scene.touching(joints)
        finally:
            self._spent += time.perf_counter() - begin

    def command_sent(self) -> float:
        """Take what was asked since the last call as asked for one command.

        Returns:
            What that has cost, s; 0 when nothing was asked.
        """
        spent, self._spent = self._spent, 0.0
        if spent:
            self._costs.append(spent)
        return spent

    def cost(self) -> tuple[float, float]:
        """Median and 99th percentile of what a command has cost, s; 0 when none has been checked."""
        costs = list(self._costs)
        return (float(np.median(costs)), float(np.quantile(costs, 0.99))) if costs else (0.0, 0.0)
