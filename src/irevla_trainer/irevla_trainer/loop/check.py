"""What can be known to be wrong with a run before anything is done for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from irevla_policy.errors import UserError
from irevla_policy.model.checkpoint import check_fits, read_config
from irevla_policy.model.device import require_device
from irevla_policy.recording.storage import find_bags
from irevla_policy.robot.profile import RobotProfile, load_profile
from irevla_policy.settings import SettingsError
from irevla_policy.sim.environment import WorldEnvironment
from irevla_policy.sim.tasks import TaskFile, load_tasks
from irevla_policy.sim.worlds import make_world
from irevla_trainer.evaluate import EvaluationTask
from irevla_trainer.loop.evaluation import tasks_of
from irevla_trainer.loop.settings import TrainFile
from irevla_trainer.rl.world_process import make_environment
from irevla_trainer.rl.worlds import EpisodeRequest


def check(settings: TrainFile, file: Path, recorded: bool = True, started: bool = True) -> None:
    """Check that tasks, robot, device, bags and checkpoint are there and fit each other.

    Args:
        settings: Of the run.
        file: Where they come from, for the message.
        recorded: Whether the demonstrations are to be there already.
        started: Whether the checkpoint is to be.

    Raises:
        SettingsError: They do not; names the file, the key, and what there is instead.
    """
    with _of(file, "robot"):
        profile = load_profile(settings.robot)
    if settings.worlds_in != "none":
        _check_worlds(settings, profile, file)
    with _of(file, "device"):
        require_device(settings.device)
    if settings.init and started:
        with _of(file, "init"):
            model, robot, _ = read_config(settings.init)
            check_fits(settings.init, robot, profile)
            if settings.learns_online and model.chunk != 1:
                raise SettingsError(
                    f"{settings.init} decides {model.chunk} actions at a time, reinforcement learning takes a "
                    "checkpoint that was trained with chunk: 1"
                )
    if recorded and settings.reads_bags:
        with _of(file, "bags"):
            if not settings.bags:
                raise SettingsError("expected at least one folder with demonstrations of the expert tasks")
            for folder in settings.bags:
                find_bags(folder)


def _check_worlds(settings: TrainFile, profile: RobotProfile, file: Path) -> None:
    """Check that the worlds know all tasks and can simulate the robot."""
    with _of(file, "task_file"):
        tasks = load_tasks(settings.task_file)
    for category, members in tasks_of(settings.tasks).items():
        with _of(file, f"tasks.{category}"):
            for task in members:
                tasks.variation(task.task, task.variation)
    with _of(file, "tasks.unseen"):
        _check_unseen(settings, tasks)
    if settings.worlds_in == "robot":
        return  # nothing is simulated
    with _of(file, "robot"):
        environment = make_environment(profile, tasks, settings.max_steps)
        # The environment makes its world at the first reset only.
        make_world(profile, tasks, images=False).close()
    with closing(environment), _of(file, "task_file"):
        _check_scenes(settings, tasks, environment)


def _check_unseen(settings: TrainFile, tasks: TaskFile) -> None:
    """Refuse a learnt task among the unseen ones, under whichever of its names."""

    def plain(names: Sequence[str]) -> set[tuple[str, str]]:
        parsed = [EvaluationTask.parse(name) for name in names]
        return {(tasks.task_name(task.task), task.variation) for task in parsed}

    both = plain(settings.tasks.unseen) & plain((*settings.tasks.expert, *settings.tasks.rl))
    if both:
        raise SettingsError(f"{EvaluationTask(*min(both))} is learnt too, as one of the expert or rl tasks")


def _check_scenes(settings: TrainFile, tasks: TaskFile, environment: WorldEnvironment) -> None:
    """Make the scenes of variations that name bodies, which only a scene knows."""
    for task in (task for members in tasks_of(settings.tasks).values() for task in members):
        variation = tasks.variation(task.task, task.variation)
        if variation.bodies or variation.colours:
            environment.reset(**EpisodeRequest(task.task, task.variation, seed=0).reset())


@contextmanager
def _of(file: Path, key: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise SettingsError(f"{file}: {key}: {error}") from error
