"""`irevla_arm` with a planner that takes its time and keeps the interpreter, as MoveIt's does."""

from __future__ import annotations

import ctypes

from irevla_policy.robot.scene import Array, Motion, Planner
from irevla_policy.ros import arm_node

made = arm_node.planner


class SlowPlanner:
    """Longer than the guard follows an intervention for."""

    def __init__(self, *words: object) -> None:
        self._planner: Planner = made(*words)  # type: ignore[arg-type]

    def plan(self, start: Array, period: float) -> Motion:
        ctypes.PyDLL(None).usleep(800_000)
        return self._planner.plan(start, period)


if __name__ == "__main__":
    arm_node.planner = SlowPlanner
    arm_node.main()
