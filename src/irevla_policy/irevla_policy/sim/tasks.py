"""Tasks of a simulated world: what they are called, how they are put in words, and how they can vary."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from irevla_policy.errors import UserError
from irevla_policy.paths import config_folder
from irevla_policy.settings import SettingsError, load, setting
from irevla_policy.sim.disturbance import DisturbanceSettings

METAWORLD, KITCHEN, TABLETOP = WORLDS = ("metaworld", "kitchen", "tabletop")
"""Names of the simulated worlds."""

NO_VARIATION = ""
"""Name of the task as it is."""


class TaskError(UserError, ValueError):
    """No such task or variation, or a seed or instruction that cannot be; names what there is."""


@dataclass(frozen=True)
class CameraPose:
    """A camera of the simulated scene."""

    position: tuple[float, float, float] = setting(doc="Where the camera is", unit="m")
    look_at: tuple[float, float, float] = setting(doc="Point in the middle of the image", unit="m")
    fovy: float = setting(45.0, "Vertical field of view", unit="deg", above=0.0, at_most=150.0)
    up: tuple[float, float, float] = setting((0.0, 0.0, 1.0), "Direction that is upward in the image")
    body: str = setting("", "MuJoCo body that carries it, in whose frame the points are; empty for none")


@dataclass(frozen=True)
class Variation:
    """A change of a task's objects; what is left out stays as it is.

    Axes are those of the scene: x across the table, y away from the robot, z up.
    """

    shift: tuple[float, float, float] = setting(
        (0.0, 0.0, 0.0), "Shift of the range of object positions", unit="m", at_least=-0.5, at_most=0.5
    )
    turn: float = setting(
        0.0, "Turn of the scene about the robot's base; kitchen only", unit="rad", at_least=-0.5, at_most=0.5
    )
    spread: float = setting(
        1.0, "Size of the range of object positions about its middle, relative to Meta-World's", at_least=0.0, at_most=3
    )
    rgba: tuple[float, float, float, float] | None = setting(
        None, "Colour of the objects, red, green, blue and opacity", at_least=0.0, at_most=1.0
    )
    colours: dict[str, tuple[float, float, float, float]] = setting(
        factory=dict,
        doc="Colours of single MuJoCo bodies and what they carry, by name, in this order and after `rgba`",
        at_least=0.0,
        at_most=1.0,
    )
    table_rgba: tuple[float, float, float, float] | None = setting(
        None, "Colour of the table", at_least=0.0, at_most=1.0
    )
    scale: float | tuple[float, float, float] = setting(
        1.0,
        "Size of the objects, relative to Meta-World's; three numbers, along x, y and z, change their shape",
        at_least=0.5,
        at_most=2.0,
    )
    bodies: tuple[str, ...] = setting(
        (), "MuJoCo bodies that `rgba` and `scale` apply to, with what they carry; empty for all objects of the task"
    )
    instructions: tuple[str, ...] = setting((), "Instructions instead of the task's own")

    @property
    def factors(self) -> tuple[float, float, float]:
        """`scale` along x, y and z."""
        return self.scale if isinstance(self.scale, tuple) else (self.scale, self.scale, self.scale)

    @property
    def height_factor(self) -> float:
        """What the heights of the objects' origins above the table are multiplied by: objects stay on the table."""
        return 1.0 if self.bodies else self.factors[2]


@dataclass(frozen=True)
class Task:
    """One task."""

    instructions: tuple[str, ...] = setting(doc="Ways to ask for it; the seed of an episode picks one")
    max_steps: int | None = setting(
        None, "Decisions until an episode is given up; the world's default when left out", at_least=1, at_most=1000
    )
    variations: dict[str, Variation] = setting(factory=dict, doc="Variations of this task only, by name")

    def __post_init__(self) -> None:
        if not self.instructions:
            raise SettingsError("instructions: expected at least one")
        if self.max_steps is not None and self.max_steps < 1:
            raise SettingsError(f"max_steps: must be at least 1, found {self.max_steps}")


@dataclass(frozen=True)
class TaskFile:
    """Everything that `config/tasks/WORLD.yaml` says."""

    world: str = setting(doc="World that they are in", choices=WORLDS)
    tasks: dict[str, Task] = setting(doc="The tasks by name")
    max_steps: int = setting(60, "Decisions until an episode is given up", at_least=1, at_most=1000)
    mesh_cell: float = setting(
        0.0,
        "Vertices of visual meshes this close together are drawn as one, which software renders faster; 0 draws all",
        unit="m",
        at_least=0.0,
        at_most=0.1,
    )
    facets: int = setting(
        0,
        "Sides that round shapes are drawn with, and flat ones in one piece; 0 for the scene's own 28",
        at_least=0,
        at_most=256,
    )
    full_quality: bool = setting(
        False,
        "Draw scenes as they are, with all meshes and textures, shadows, reflections and multisampling: for a GPU",
    )
    cameras: dict[str, CameraPose] = setting(
        factory=dict, doc="Poses of cameras by name; the others are the model's own"
    )
    variations: dict[str, Variation] = setting(factory=dict, doc="Variations of every task, by name")
    disturbance: DisturbanceSettings = setting(
        factory=DisturbanceSettings, doc="What the sensors get wrong, in training and evaluation alike"
    )
    robot: str = setting("sawyer", "Robot profile of the world's arm")
    first: str = setting("", "Task that a simulator starts with; the first of all when left out")

    def __post_init__(self) -> None:
        if 0 < self.facets < 3:
            raise SettingsError(f"facets: must be 0 or at least 3, found {self.facets}")

    @property
    def first_task(self) -> str:
        """Task that a simulator starts with."""
        return self.first or next(iter(self.tasks))

    def task(self, name: str) -> Task:
        """The task of a name.

        Raises:
            TaskError: There is none.
        """
        return self.tasks[self.task_name(name)]

    def task_name(self, name: str) -> str:
        """The name as it is written here: Meta-World's version suffix (`drawer-open-v3`) is taken off.

        Raises:
            TaskError: There is no such task.
        """
        bare = name[:-3] if name.endswith(("-v3", "-v2")) else name
        if bare not in self.tasks:
            raise TaskError(f"no task {name!r} in world {self.world!r}; {_suggest(bare, list(self.tasks))}")
        return bare

    def variation_names(self, task: str) -> list[str]:
        """Names of the variations of a task, without the task as it is."""
        return sorted({*self.variations, *self.task(task).variations})

    def variation(self, task: str, name: str) -> Variation:
        """A variation of a task; one of the task's own hides one of every task.

        Raises:
            TaskError: There is no such task or variation.
        """
        own = self.task(task).variations
        if name == NO_VARIATION:
            return Variation()
        if name in own:
            return own[name]
        if name in self.variations:
            return self.variations[name]
        raise TaskError(f"no variation {name!r} of task {task!r}; {_suggest(name, self.variation_names(task))}")

    def instruction(self, task: str, variation: str, seed: int, index: int | None = None) -> str:
        """What to do, in words.

        Args:
            task: Name of the task.
            variation: Name of the variation; empty for the task as it is.
            seed: Seed of the episode; picks one of the instructions.
            index: Which instruction, instead of the seed's choice.

        Raises:
            TaskError: No such task, variation or instruction.
        """
        known = self.variation(task, variation).instructions or self.task(task).instructions
        if index is None:
            return known[seed % len(known)]
        if not 0 <= index < len(known):
            raise TaskError(f"instruction_index of task {task!r}: must be in [0, {len(known) - 1}], found {index}")
        return known[index]

    def steps(self, task: str) -> int:
        """Decisions until an episode of the task is given up."""
        return self.task(task).max_steps or self.max_steps


def load_tasks(name_or_path: str | Path = "metaworld") -> TaskFile:
    """Load the tasks of a world.

    Args:
        name_or_path: Name of a world with a file in `config/tasks`, or path of such a file.

    Raises:
        SettingsError: No such file, or its content is wrong.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        folder = config_folder() / "tasks"
        path = folder / f"{name_or_path}.yaml"
        if not path.is_file():
            known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
            raise SettingsError(f"no tasks of world {str(name_or_path)!r} in {folder}; known: {known}")
    return load(TaskFile, path)


def _suggest(name: str, known: list[str]) -> str:
    listed = ", ".join(sorted(known)) or "none"
    close = difflib.get_close_matches(name, known, n=1)
    return (f"did you mean {close[0]!r}? " if close else "") + f"known: {listed}"
