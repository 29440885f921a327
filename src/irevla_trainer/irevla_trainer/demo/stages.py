"""The demo's way: experts are recorded, a policy is taught from the bags, acts, and is retrained while it does.

Real nodes in real processes over DDS throughout; only the teaching runs in process.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from irevla_msgs.msg import TrainingStatus
from irevla_policy.graph.registry import find_graph
from irevla_policy.graph.supervisor import Supervisor
from irevla_policy.model.checkpoint import save_checkpoint
from irevla_policy.model.config import RobotFacts
from irevla_policy.model.policy import VLAPolicy
from irevla_policy.robot.profile import load_profile
from irevla_policy.settings import to_dict
from irevla_trainer.data.dataset import load_dataset
from irevla_trainer.demo.robots import ROBOT, Robots, Wanted
from irevla_trainer.demo.settings import DemoSettings
from irevla_trainer.evaluate import EvaluationTask
from irevla_trainer.jobs.job import JobFolder
from irevla_trainer.learn import sft
from irevla_trainer.learn.decisions import Decisions, split
from irevla_trainer.learn.training_state import remove_state
from irevla_trainer.ros.collecting import Collected, Collection, collect
from irevla_trainer.ros.episodes import EndedEpisode, EpisodeRunner
from irevla_trainer.ros.training_client import TrainingClient
from irevla_trainer.seeds import episode_seeds

STAGES = ("record", "teach", "before", "retrain", "after", "report")

_EVERY = 30.0
"""s between two episodes of the robot while training runs: it keeps working, and most of the machine is left."""


@dataclass
class DemoRun:
    """What the stages have found so far.

    Attributes:
        settings: Of the demo.
        folder: Where everything is written.
        seconds: Stage to wall time.
        before: Task to its episodes with the taught policy, in order of the seeds.
        after: The same with the policy that serves in the end.
        metrics: Lines of the teaching's metrics.
        worked: Episodes of the robot while training ran.
        outcome: What came out of the retraining job.
        practice: Lines of metrics of the job's reinforcement learning.
    """

    settings: DemoSettings
    folder: Path
    seconds: dict[str, float] = field(default_factory=dict)
    before: dict[str, list[EndedEpisode]] = field(default_factory=dict)
    after: dict[str, list[EndedEpisode]] = field(default_factory=dict)
    metrics: list[dict[str, float]] = field(default_factory=list)
    worked: list[EndedEpisode] = field(default_factory=list)
    outcome: dict[str, Any] = field(default_factory=dict)
    practice: list[dict[str, float]] = field(default_factory=list)

    @property
    def taught(self) -> Path:
        """Checkpoint that was taught by demonstrations."""
        return self.folder / "checkpoint-taught"

    @property
    def checkpoint(self) -> Path:
        """Checkpoint that serves in the end."""
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
    "teach": "teaching a policy from the bags",
    "before": "evaluating the policy through the graph",
    "retrain": "/irevla/retrain: practising in simulation while the robot goes on",
    "after": "evaluating what serves now, through the same graph",
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


def teach(run: DemoRun) -> None:
    """Make a policy and train it from the recorded bags."""
    settings = run.settings
    profile = load_profile(ROBOT)
    dataset = load_dataset([run.bags / "expert"], profile)
    indices = split(dataset.episodes, settings.sft.validation_share, settings.sft.seed)
    cameras = [camera.name for camera in profile.cameras]
    training, validation = (
        Decisions([dataset.episodes[index] for index in part], cameras, settings.model.chunk) for part in indices
    )
    facts, normaliser = RobotFacts.of(profile), training.fit_normaliser()
    policy = VLAPolicy.create(settings.model, facts, normaliser, seed=settings.sft.seed)
    folder = run.folder / "teaching"
    with _bar(0, "update") as bar:

        def show(step: int, total: int, figures: dict[str, float]) -> None:
            bar.total = total
            bar.set_postfix_str(f"loss {figures['loss']:.4f}", refresh=False)
            bar.update(step - bar.n)

        result = sft.train(policy, training, validation, settings.sft, folder, show)
    run.metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    provenance = {
        "training": "supervised fine-tuning in the demo",
        "tasks": sorted({episode.info.task for episode in dataset.episodes}),
        "episodes": len(dataset.episodes),
        "decisions": dataset.decisions,
        "settings": to_dict(settings),
        "loss": result.loss,
        "validation_loss": result.validation_loss,
    }
    save_checkpoint(run.taught, policy, provenance)
    remove_state(folder)
    dataset.close()


def practise(run: DemoRun) -> None:
    """Let the policy act, have it retrained meanwhile, and see what serves then."""
    settings, logs = run.settings, run.folder / "logs"
    config = run.folder / "trainer.yaml"
    wanted = replace(settings.trainer, tasks=(settings.practice,))
    config.write_text(yaml.safe_dump(to_dict(wanted), sort_keys=False))
    trainer = find_graph("trainer").resolve(
        {"robot": ROBOT, "config": str(config), "folder": str(run.folder / "trainer")}
        | {"watch": str(run.bags / "expert"), "resume": "false"}
    )
    with Robots(run.taught, settings.tasks[0], run.bags / "policy", logs, settings.trainer.max_steps) as robots:
        with run.stage("before"):
            run.before = _episodes(run, robots, "before")
        with run.stage("retrain"), Supervisor(trainer, log_dir=logs) as training:

            def check() -> None:
                robots.check()
                training.check()

            with TrainingClient(check) as client:
                _retrain(run, robots.first, client)
        with run.stage("after"):
            robots.load_policy(run.checkpoint)
            run.after = _episodes(run, robots, "after")


def _retrain(run: DemoRun, runner: EpisodeRunner, client: TrainingClient) -> None:
    settings = run.settings
    job = client.retrain(len(settings.tasks) * settings.demonstrations // 2)
    practised = EvaluationTask.parse(settings.practice)
    seeds = iter(episode_seeds("train", 9_000, 1_000))
    last = time.monotonic()
    terminal = sys.stderr.isatty()
    with tqdm(total=100, ascii=not terminal, mininterval=0.2 if terminal else 15.0, bar_format=_JOB_BAR) as bar:

        def show(status: TrainingStatus) -> None:
            bar.set_description_str(f"{status.message}"[:60], refresh=False)
            bar.update(round(100 * status.progress) - bar.n)

        def work() -> None:
            nonlocal last
            if time.monotonic() - last > _EVERY:
                run.worked.append(
                    runner.run(practised.task, variation=practised.variation, seed=next(seeds), record=False)
                )
                last = time.monotonic()

        status = client.follow(job, show, work)
    if status.promoted_version:
        client.serves(status.promoted_version)
    folder = JobFolder(run.folder / "trainer" / "jobs" / job)
    run.outcome = folder.outcome or {}
    metrics = next(folder.run_path.glob("steps/01-stage1-*/metrics.jsonl"))
    run.practice = [json.loads(line) for line in metrics.read_text().splitlines()]
    served = Path(run.outcome["checkpoint"]) if status.promoted_version else run.taught
    run.checkpoint.symlink_to(served.resolve().relative_to(run.folder.resolve()))


def _episodes(run: DemoRun, robots: Robots, name: str) -> dict[str, list[EndedEpisode]]:
    """The test episodes of every evaluated task; the first ones of each are recorded."""
    settings = run.settings
    seeds = episode_seeds("test", settings.episodes)
    wanted = [
        Wanted(
            EvaluationTask.parse(text),
            seed,
            f"{name}_{text.replace(':', '-')}_{seed:07d}" if index < settings.recorded else "",
        )
        for text in settings.evaluated
        for index, seed in enumerate(seeds)
    ]
    successes: Counter[str] = Counter()
    done: Counter[str] = Counter()
    with _bar(len(wanted), "episode") as bar:

        def show(one: Wanted, ended: EndedEpisode) -> None:
            text = str(one.task)
            done[text] += 1
            successes[text] += ended.success
            counts = ", ".join(f"{text}: {successes[text]}/{done[text]}" for text in done)
            bar.set_postfix_str(f"{counts} successes", refresh=False)
            bar.update()

        ended = robots.run(wanted, show)
    count = len(seeds)
    return {text: ended[place * count : (place + 1) * count] for place, text in enumerate(settings.evaluated)}


_JOB_BAR = "{desc:<62}{percentage:3.0f}%|{bar:20}| {elapsed}"


def _bar(total: int, unit: str) -> tqdm:
    """A progress bar; a new line every quarter of a minute where the output is no terminal."""
    terminal = sys.stderr.isatty()
    return tqdm(total=total, unit=unit, mininterval=0.2 if terminal else 15.0, ascii=not terminal)
