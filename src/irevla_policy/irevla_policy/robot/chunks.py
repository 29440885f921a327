"""Action chunks one after the other, each blended into the next (pure).

A chunk is computed on an observation; its action k is for the k-th observation after it, k control periods later. When
it comes, some of these have been answered from the chunk before, because the model was still at work: the actions for
them are skipped. Observations that had no answer do not count, for the arm stood still meanwhile: after a hold the
motion goes on where it stopped, and the first actions of an episode are not lost. But whatever came in between, no
action goes out later than the time that the chunk spans: that would be acting on an old picture.

Raw actions are blended, in every action space: a mean of displacements or of velocities is one, and a mean of two joint
positions lies between them. The gripper is not blended: halfway between open and closed it drops what it holds. It
follows the chunk that has the larger share of the arm's motion.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from irevla_policy.robot.observation import Vector

# No chunk is longer (`chunk` of model/config.py), so that a later one never has to skip more observations.
_LONGEST = 256


@dataclass(eq=False)
class _Chunk:
    """A chunk under way.

    Attributes:
        actions: `[chunk, action_dim]`.
        expires: Stamp from which on it answers no observation, ns.
        next: Index of the action for the next observation.
        used: How many observations it has had a share in answering.
    """

    actions: npt.NDArray[np.float64]
    expires: int
    next: int
    used: int = 0

    def reaches(self, stamp: int) -> bool:
        """Whether it has an action for the next observation."""
        return self.next < len(self.actions) and stamp < self.expires


class Chunks:
    """Gives the action for each observation.

    Args:
        control_rate: Hz; how far apart the observations are meant to be.
        blend: Over how many observations a chunk goes over into the next; 0 switches.
        gripper: Whether the last value of an action commands a gripper.
    """

    def __init__(self, control_rate: float, blend: int, gripper: bool) -> None:
        self._period = 1e9 / control_rate
        self._blend = blend
        self._gripper = gripper
        self._chunks: list[_Chunk] = []
        self._answered: deque[int] = deque(maxlen=_LONGEST)

    @property
    def newest(self) -> int:
        """Number of actions of the chunk that came last; 0 when none has come since the start or since `clear`."""
        return len(self._chunks[-1].actions) if self._chunks else 0

    def clear(self) -> None:
        """Forget everything."""
        self._chunks.clear()
        self._answered.clear()

    def add(self, actions: npt.NDArray[np.float64], stamp: int) -> None:
        """A chunk has come; it takes over from the next observation on.

        Args:
            actions: `[chunk, action_dim]`.
            stamp: Of the observation that it was computed on, ns.
        """
        skipped = sum(answered >= stamp for answered in self._answered)
        # Stamps are not on an exact grid: half a period to either side.
        expires = stamp + round((len(actions) - 0.5) * self._period)
        self._chunks.append(_Chunk(actions, expires, skipped))

    def action_at(self, stamp: int) -> Vector | None:
        """The raw action `[action_dim]` for an observation; None when there is none, which leaves it unanswered.

        Args:
            stamp: Of the observation, ns; later than those that were answered.
        """
        reaching = [chunk for chunk in self._chunks if chunk.reaches(stamp)]
        if not reaching:
            del self._chunks[:-1]
            return None
        blended = reaching[0].actions[reaching[0].next].copy()
        kept = reaching[:1]
        for chunk in reaching[1:]:
            share = min(1.0, (chunk.used + 1) / (self._blend + 1))
            action = chunk.actions[chunk.next]
            if share == 1.0:
                blended, kept = action.copy(), []
            else:
                blended = self._mixed(blended, action, share)
            kept.append(chunk)
        for chunk in kept:
            chunk.next += 1
            chunk.used += 1
        self._chunks = kept
        self._answered.append(stamp)
        return blended

    def _mixed(self, before: Vector, after: Vector, share: float) -> Vector:
        mixed = (1.0 - share) * before + share * after
        if self._gripper:
            mixed[-1] = (after if share >= 0.5 else before)[-1]
        return mixed


def shortage(chunk: int, control_rate: float, forward_seconds: float) -> str:
    """What to say when a chunk was used up before the next one came.

    A pass begins on an observation that is up to a period old, and the chunk that it gives has to last until the end of
    the pass after it: a period and two passes from its observation on.

    Args:
        chunk: Number of its actions.
        control_rate: Hz.
        forward_seconds: Time of a forward pass, s.
    """
    enough = max(2 + math.floor(2.0 * forward_seconds * control_rate), chunk + 1)
    fast_enough = 0.5 * (chunk - 1) / control_rate
    return (
        f"the robot holds between action chunks: one of {chunk} actions lasts {chunk / control_rate:.2f} s at "
        f"{control_rate:g} Hz and a forward pass takes {forward_seconds:.2f} s; "
        f"expected a chunk of at least {enough} actions, or a pass below {fast_enough:.2f} s"
    )
