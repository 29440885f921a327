"""Quality of service of every kind of topic."""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy


def sensor(lock_step: bool = False, depth: int = 5) -> QoSProfile:
    """Cameras, joint states and step information.

    Best effort in real time: a late image is of no use and must not hold up the next one. Reliable in lock-step, where
    the world waits for the answer to every observation.

    Args:
        lock_step: Whether the world waits.
        depth: Messages that are kept for a slow reader.
    """
    reliability = ReliabilityPolicy.RELIABLE if lock_step else ReliabilityPolicy.BEST_EFFORT
    return QoSProfile(reliability=reliability, history=HistoryPolicy.KEEP_LAST, depth=depth)


def command(lock_step: bool = False) -> QoSProfile:
    """Actions, interventions and commands: reliable; of two that wait only the newer one counts.

    Args:
        lock_step: Whether the world waits; then none may be replaced by a newer one.
    """
    return QoSProfile(
        reliability=ReliabilityPolicy.RELIABLE, history=HistoryPolicy.KEEP_LAST, depth=10 if lock_step else 1
    )


def recorded(depth: int = 100) -> QoSProfile:
    """Actions and commands as a recorder subscribes to them: reliable and deep, none may be missed."""
    return QoSProfile(reliability=ReliabilityPolicy.RELIABLE, history=HistoryPolicy.KEEP_LAST, depth=depth)


def latched(depth: int = 1) -> QoSProfile:
    """States (instruction, status, episode): reliable, and who comes late gets the newest.

    Args:
        depth: How many a subscriber keeps until it has time for them.
    """
    return QoSProfile(
        reliability=ReliabilityPolicy.RELIABLE,
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        durability=DurabilityPolicy.TRANSIENT_LOCAL,
    )


def event() -> QoSProfile:
    """Heartbeats and diagnostics: reliable, a few kept."""
    return QoSProfile(reliability=ReliabilityPolicy.RELIABLE, history=HistoryPolicy.KEEP_LAST, depth=10)
