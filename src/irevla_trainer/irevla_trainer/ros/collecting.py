"""Expert episodes through the whole graph, one bag each; interrupted collections go on where they were."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from irevla_policy.errors import RunError, UserError
from irevla_policy.graph.description import Graph
from irevla_policy.graph.environment import adopt_environment
from irevla_policy.graph.registry import find_graph
from irevla_policy.graph.supervisor import Supervisor
from irevla_policy.recording.episode import EpisodeInfo
from irevla_policy.recording.storage import BagError, BagReader, open_reader
from irevla_policy.recording.topics import EPISODE_INFO, STEP_INFO, compressed_name
from irevla_policy.robot.profile import RobotProfile, load_profile
from irevla_trainer.data.description import labelled
from irevla_trainer.ros.episodes import EpisodeRunner
from irevla_trainer.seeds import episode_seeds

# Recordings of one episode until it is given up.
_TRIALS = 3


@dataclass(frozen=True)
class Collection:
    """What to collect.

    Attributes:
        tasks: Tasks, each of which gets all episodes.
        episodes: Episodes a task.
        folder: Folder of the bags.
        seed: First seed within the training seeds.
        variation: Variation of the tasks; empty for the tasks as they are.
        robot: Robot profile.
        world: Simulated world.
        noise: Standard deviation of the noise on the expert's actions, in units of actions.
        image_format: How images are recorded.
    """

    tasks: Sequence[str]
    episodes: int
    folder: Path
    seed: int = 0
    variation: str = ""
    robot: str = "sawyer"
    world: str = "metaworld"
    noise: float = 0.0
    image_format: str = "raw"

    def names(self) -> list[tuple[str, int, str]]:
        """Task, seed and name of every episode, in order.

        Raises:
            SeedError: More episodes than there are training seeds.
        """
        seeds = episode_seeds("train", self.episodes, self.seed)
        suffix = (f"-{self.variation}" if self.variation else "") + (f"-noise{self.noise:g}" if self.noise else "")
        return [(task, seed, f"{task}{suffix}_{seed:06d}") for task in self.tasks for seed in seeds]


@dataclass(frozen=True)
class Collected:
    """One episode of a collection.

    Attributes:
        task: Its task.
        seed: Seed of the reset.
        success: Whether the expert succeeded.
        steps: Decisions.
        bag: Its bag.
        new: Whether it was recorded now; it was there already otherwise.
    """

    task: str
    seed: int
    success: bool
    steps: int
    bag: Path
    new: bool


def collect(
    wanted: Collection,
    progress: Callable[[int, int, Collected], None] = lambda done, total, episode: None,
    log_dir: Path | None = None,
) -> list[Collected]:
    """Bring the graph up in lock-step, run the scripted expert and record every episode, failures too.

    Episodes that lie whole in the folder already are kept and not recorded again; what an interrupted recording left
    is set aside as `NAME_aborted`.

    Args:
        wanted: What to collect.
        progress: Called after every episode with the number done and the number of all.
        log_dir: Folder for the nodes' output.

    Returns:
        All episodes, in order.

    Raises:
        UserError: Unknown task or variation, too many episodes, or the folder holds episodes of another robot or world.
        RunError: A node ended, or an episode did not go on.
    """
    names = wanted.names()
    profile = load_profile(wanted.robot)
    found = {name: _existing(wanted.folder / name, task, seed, profile, wanted.world) for task, seed, name in names}
    done = [episode for episode in found.values() if episode is not None]
    if len(done) == len(names):
        return done
    graph = _graph(wanted)
    adopt_environment(private=True)
    done = []
    with (
        Supervisor(graph, log_dir=log_dir) as running,
        EpisodeRunner(lock_step=True, check=running.check, world=wanted.world) as runner,
    ):
        for number, (task, seed, name) in enumerate(names, start=1):
            episode = found[name]
            if episode is None:
                episode = _record(runner, wanted, task, seed, wanted.folder / name, profile)
            done.append(episode)
            progress(number, len(names), episode)
    return done


def _record(
    runner: EpisodeRunner, wanted: Collection, task: str, seed: int, bag: Path, profile: RobotProfile
) -> Collected:
    for _ in range(_TRIALS):
        _set_aside(bag)
        ended = runner.run(task, seed=seed, variation=wanted.variation, source="expert", name=bag.name)
        # On a busy machine nodes may still be connecting while the first episode runs, and what they send is lost.
        recorded = _existing(bag, task, seed, profile, wanted.world)
        if recorded is not None and recorded.steps == ended.steps:
            return replace(recorded, new=True)
    raise RunError(f"{bag}: {_TRIALS} recordings in a row miss messages; see the log of irevla_recorder")


def _graph(wanted: Collection) -> Graph:
    from irevla_policy.sim.tasks import load_tasks

    known = load_tasks(wanted.world)
    for task in wanted.tasks:
        known.variation(task, wanted.variation)
    arguments = {
        "robot": wanted.robot,
        "world": wanted.world,
        "task": wanted.tasks[0],
        "mode": "lock_step",
        "expert": "true",
        "noise": str(wanted.noise),
        "record": str(wanted.folder),
        "image_format": wanted.image_format,
    }
    return find_graph("sim").resolve(arguments)


def _existing(bag: Path, task: str, seed: int, profile: RobotProfile, world: str) -> Collected | None:
    """The episode that lies there already; None when it has to be recorded.

    Raises:
        UserError: It is another robot's, or of another world.
    """
    if not bag.is_dir():
        return None
    try:
        with closing(open_reader(bag)) as reader:
            infos = [EpisodeInfo.from_message(reader.deserialize(m)) for m in reader.messages([EPISODE_INFO])]
            observations = _observations(reader, profile)
    except BagError:
        return None
    if not infos or infos[-1].state != "finished" or infos[-1].seed != seed:
        return None
    for what, theirs, ours in (
        ("robot", infos[-1].robot, profile.name),
        ("training hash of the robot's profile", infos[-1].profile_hash, profile.training_hash),
        ("world", infos[-1].world, world),
    ):
        if theirs != ours:
            raise UserError(
                f"{bag}: recorded with another {what}, {theirs!r} instead of {ours!r}; choose another --out"
            )
    # One observation more than decisions: the one that ends the episode.
    if observations <= infos[-1].steps:
        return None
    info = labelled(bag, infos)
    return Collected(task, seed, info.success == "yes", info.steps, bag, new=False)


def _observations(reader: BagReader, profile: RobotProfile) -> int:
    """Observations of which the bag can hold every part: the smallest number of messages of any sensor."""
    counts = {name: topic.count for name, topic in reader.topics.items()}
    cameras = [
        max(counts.get(camera.topic, 0), counts.get(compressed_name(camera.topic), 0)) for camera in profile.cameras
    ]
    return min(*cameras, counts.get(profile.joint_states_topic, 0), counts.get(STEP_INFO, 0))


def _set_aside(bag: Path) -> None:
    if bag.exists():
        number, target = 0, bag.with_name(f"{bag.name}_aborted")
        while target.exists():
            number += 1
            target = bag.with_name(f"{bag.name}_aborted{number}")
        bag.rename(target)
