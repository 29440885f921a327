"""What the guard decides and says (pure values)."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from irevla_policy.robot.limits import Setpoint


class Source(enum.IntEnum):
    """Who decided (irevla_msgs/Command.source)."""

    POLICY = 0
    INTERVENTION = 1
    HOLD = 2


class State(enum.IntEnum):
    """What drives the robot (irevla_msgs/PolicyStatus.state)."""

    INACTIVE = 0
    RUNNING = 1
    INTERVENED = 2
    HOLDING = 3
    ESTOPPED = 4


@dataclass(frozen=True)
class Reason:
    """Why the policy is not followed: a code for machines, a sentence for people."""

    code: str
    sentence: str


@dataclass(frozen=True, eq=False)
class Decision:
    """What is sent to the robot now.

    Attributes:
        source: Who decided.
        stamp: Stamp of the observation that is answered, ns; for a hold that of the newest one.
        setpoints: One in real time, one per substep in lock-step.
        gripper: Command in [-1, 1].
        values: Raw action that is carried out; empty when holding.
        limited: LIMITED_* bits.
        reason: Why it differs from the target, or why the robot holds; empty when it does not.
        policy_version: Checkpoint that decided; empty otherwise.
        is_first: Whether this is the first tick of an action, or of a hold.
    """

    source: Source
    stamp: int
    setpoints: list[Setpoint]
    gripper: float
    values: tuple[float, ...] = ()
    limited: int = 0
    reason: str = ""
    policy_version: str = ""
    is_first: bool = True


@dataclass(frozen=True)
class Status:
    """Account of the guard (irevla_msgs/PolicyStatus)."""

    state: State
    reasons: tuple[Reason, ...]
    policy_version: str
    instruction: str
    actions_total: int
    actions_limited: int
    actions_refused: int
