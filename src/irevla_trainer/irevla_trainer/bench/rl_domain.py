"""What `irevla bench rl` measures on: one task of a simulated world, with the world's arm."""

from __future__ import annotations

from dataclasses import dataclass

from irevla_policy.robot.profile import RobotProfile, load_profile
from irevla_policy.sim.tasks import KITCHEN, METAWORLD, TABLETOP, TaskFile, load_tasks


@dataclass(frozen=True)
class Domain:
    """A task of a world.

    Attributes:
        world: Name in `config/tasks`.
        task: Name of the task.
        max_steps: Decisions until an episode is given up; the task's own number when None.
    """

    world: str
    task: str
    max_steps: int | None = None

    @property
    def tasks(self) -> TaskFile:
        """The world's tasks."""
        return load_tasks(self.world)

    @property
    def profile(self) -> RobotProfile:
        """The world's arm."""
        return load_profile(self.tasks.robot)

    @property
    def steps(self) -> int:
        """Decisions until an episode is given up."""
        return self.max_steps or self.tasks.steps(self.task)

    def observations(self, episodes: int) -> int:
        """Most that a rollout stores: of every episode all decisions, and what is seen after the last."""
        return episodes * (self.steps + 1)


DOMAINS = {
    METAWORLD: Domain(METAWORLD, "drawer-open"),
    # The longest episodes of the benchmark, at 12.5 Hz; our task file gives up after 160.
    KITCHEN: Domain(KITCHEN, "microwave-open", max_steps=280),
    TABLETOP: Domain(TABLETOP, "pick-red-block"),
}
"""By world."""
