"""The demo's way: record experts through the graph, train from the bags, close the loop through the graph again.

Real nodes in real processes over DDS throughout; training and the curve of success while training run in process.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from irevla_policy.graph.registry import find_graph
from irevla_policy.graph.supervisor import Supervisor
from irevla_policy.model.checkpoint import save_checkpoint
from irevla_policy.model.config import RobotFacts
from irevla_policy.model.policy import VLAPolicy
from irevla_policy.robot.profile import load_profile
from irevla_policy.settings import to_dict
from irevla_trainer.data.dataset import load_dataset
from irevla_trainer.demo.settings import DemoSettings
from irevla_trainer.evaluate import EvaluationTask, evaluate
from irevla_trainer.learn import sft
from irevla_trainer.learn.decisions import Decisions, split
from irevla_trainer.learn.training_state import remove_state
from irevla_trainer.rl.worlds import Worlds
from irevla_trainer.ros.collecting import Collected, Collection, collect
from irevla_trainer.ros.episodes import EndedEpisode, EpisodeRunner
from irevla_trainer.seeds import episode_seeds
from irevla_trainer.statistics import Rate

ROBOT = "sawyer"
STAGES = ("record", "prepare", "before", "train", "after", "report")


@dataclass
class DemoRun:
    """What the stages have found so far.

    Attributes:
        settings: Of the demo.
        folder: Where everything is written.
        seconds: Stage to wall time.
        before: Task to its episodes with the untrained policy, in order of the seeds.
        after: The same with the trained policy.
        curve: (epoch, task to success rate) while training.
        metrics: Lines of the training's metrics.
        version: Content hash of the trained checkpoint.
    """

    settings: DemoSettings
    folder: Path
    seconds: dict[str, float] = field(default_factory=dict)
    before: dict[str, list[EndedEpisode]] = field(default_factory=dict)
    after: dict[str, list[EndedEpisode]] = field(default_factory=dict)
    curve: list[tuple[float, dict[str, Rate]]] = field(default_factory=list)
    metrics: list[dict[str, float]] = field(default_factory=list)
    version: str = ""

    @property
    def untrained(self) -> Path:
        """Checkpoint before training."""
        return self.folder / "checkpoint-untrained"

    @property
    def checkpoint(self) -> Path:
        """Checkpoint after training."""
        return self.folder / "checkpoint"

    @property
    def bags(self) -> Path:
        """Folder of all bags."""
        return self.folder / "bags"

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Announce a stage and time it."""
        print(f"[{STAGES.index(name) + 1}/{len(STAGES)}] {_ANNOUNCEMENTS[name]}", file=sys.stderr, flush=True)
        start = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - start, 1)


_ANNOUNCEMENTS = {
    "record": "recording expert episodes through the graph",
    "prepare": "reading the bags, making an untrained policy",
    "before": "evaluating the untrained policy through the graph",
    "train": "training from the bags",
    "after": "evaluating the trained policy through the graph",
    "report": "writing the report",
}


def record(run: DemoRun) -> None:
    """Record the expert on every task."""
    settings = run.settings
    wanted = Collection(settings.tasks, settings.demonstrations, run.bags / "expert", robot=ROBOT, noise=settings.noise)
    successes = 0
    with _bar(len(settings.tasks) * settings.demonstrations, "episode") as bar:

        def show(done: int, total: int, episode: Collected) -> None:
            nonlocal successes
            successes += episode.success
            bar.set_postfix_str(f"{episode.task}: {successes} of {done} episodes are successes", refresh=False)
            bar.update()

        collect(wanted, show, run.folder / "logs" / "record")


def train(run: DemoRun) -> None:
    """Make an untrained policy, evaluate it, and train it from the recorded bags."""
    settings = run.settings
    profile = load_profile(ROBOT)
    with run.stage("prepare"):
        dataset = load_dataset([run.bags / "expert"], profile)
        training, validation = split(dataset.episodes, settings.sft.validation_share, settings.sft.seed)
        cameras = [camera.name for camera in profile.cameras]
        parts = [
            Decisions([dataset.episodes[index] for index in indices], cameras, settings.model.chunk)
            for indices in (training, validation)
        ]
        policy = VLAPolicy.create(
            settings.model, RobotFacts.of(profile), parts[0].fit_normaliser(), seed=settings.sft.seed
        )
        save_checkpoint(run.untrained, policy, {"training": "none"})
    with run.stage("before"):
        run.before = evaluate_on_graph(run, run.untrained, "before")
    with run.stage("train"), _Progress(run, policy) as progress:
        result = sft.train(policy, parts[0], parts[1], settings.sft, run.folder / "training", progress)
    lines = (run.folder / "training" / "metrics.jsonl").read_text().splitlines()
    run.metrics = [json.loads(line) for line in lines]
    provenance = {
        "training": "supervised fine-tuning in the demo",
        "bags": sorted({episode.info.task for episode in dataset.episodes}),
        "episodes": len(dataset.episodes),
        "decisions": dataset.decisions,
        "settings": to_dict(settings),
        "loss": result.loss,
        "validation_loss": result.validation_loss,
    }
    run.version = save_checkpoint(run.checkpoint, policy, provenance)
    remove_state(run.folder / "training")
    dataset.close()


def evaluate_on_graph(run: DemoRun, checkpoint: Path, name: str) -> dict[str, list[EndedEpisode]]:
    """Run the test episodes of every task through the graph; the first ones of each task are recorded."""
    settings = run.settings
    graph = find_graph("sim").resolve(
        {"mode": "lock_step", "robot": ROBOT, "task": settings.tasks[0], "checkpoint": str(checkpoint)}
        | {"expert": "false", "record": str(run.bags / name)}
    )
    with Supervisor(graph, log_dir=run.folder / "logs" / name) as nodes, EpisodeRunner(True, nodes.check) as runner:
        seeds = episode_seeds("test", settings.episodes)
        return _run_episodes(runner, settings.tasks, seeds, settings.filmed)


def _run_episodes(
    runner: EpisodeRunner, tasks: Sequence[str], seeds: Sequence[int], filmed: int
) -> dict[str, list[EndedEpisode]]:
    ended: dict[str, list[EndedEpisode]] = {task: [] for task in tasks}
    with _bar(len(tasks) * len(seeds), "episode") as bar:
        for task in tasks:
            for index, seed in enumerate(seeds):
                episode = runner.run(task, seed=seed, record=index < filmed, name=f"{task}_{seed:07d}")
                ended[task].append(episode)
                successes = sum(one.success for one in ended[task])
                bar.set_postfix_str(f"{task}: {successes}/{len(ended[task])} successes", refresh=False)
                bar.update()
    return ended


def _bar(total: int, unit: str) -> tqdm:
    """A progress bar; a new line every quarter of a minute where the output is no terminal."""
    terminal = sys.stderr.isatty()
    return tqdm(total=total, unit=unit, mininterval=0.2 if terminal else 15.0, ascii=not terminal)


class _Progress:
    """Shows the training's progress and measures success on the way, on validation seeds."""

    def __init__(self, run: DemoRun, policy: VLAPolicy) -> None:
        self._run, self._policy = run, policy
        self._bar: tqdm | None = None

    def __enter__(self) -> _Progress:
        if self._run.settings.curve_points:
            self._measure(0)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, step: int, total: int, figures: dict[str, float]) -> None:
        if self._bar is None:
            self._bar = _bar(total, "update")
        self._bar.set_postfix_str(f"loss {figures['loss']:.4f}", refresh=False)
        self._bar.update(step - self._bar.n)
        points = self._run.settings.curve_points
        if points and step * points // total > (step - 1) * points // total:
            self._measure(step)

    def _measure(self, step: int) -> None:
        settings = self._run.settings
        self._policy.eval()
        tasks = [EvaluationTask(task) for task in settings.tasks]
        with Worlds(load_profile(ROBOT), 2) as worlds:
            results = evaluate(self._policy, worlds, tasks, episode_seeds("validation", settings.curve_episodes))
        self._policy.train()
        self._run.curve.append((float(step), {str(result.task): result.rate for result in results}))
