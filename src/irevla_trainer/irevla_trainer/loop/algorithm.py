"""Algorithm 1 of iRe-VLA.

    pi_2 <- stage 0: supervised fine-tuning on D_e
    D_RL <- {}
    for each task T_i, `visits` times in a row:
        pi_1 <- stage 1: reinforcement learning of the heads of pi_2 on T_i, successes into D_RL
        pi_2 <- stage 2: supervised fine-tuning of pi_1 on D_e and D_RL

After every stage all categories are evaluated on validation seeds; the checkpoint that does best there is the run's
result, and its success is reported on test seeds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from irevla_policy.errors import RunError, UserError
from irevla_policy.model.checkpoint import check_fits, checkpoint_version, load_checkpoint, save_checkpoint
from irevla_policy.model.config import RobotFacts
from irevla_policy.model.device import require_device
from irevla_policy.model.policy import VLAPolicy
from irevla_policy.robot.profile import load_profile
from irevla_policy.settings import to_dict
from irevla_policy.sim.tasks import load_tasks
from irevla_trainer.evaluate import EvaluationTask
from irevla_trainer.learn.decisions import Decisions, EpisodeArrays
from irevla_trainer.learn.sft import TrainingError
from irevla_trainer.loop.display import Display
from irevla_trainer.loop.evaluation import evaluate_all, score, summary
from irevla_trainer.loop.recorded import load_recorded
from irevla_trainer.loop.replay import Replay
from irevla_trainer.loop.report import write_report
from irevla_trainer.loop.robot import RobotRollouts
from irevla_trainer.loop.run import RunFolder
from irevla_trainer.loop.settings import TrainFile, title_of_visit
from irevla_trainer.loop.stage1 import Rollouts, stage_1
from irevla_trainer.loop.supervised import stage_0, stage_2
from irevla_trainer.provenance import origin
from irevla_trainer.rl.asking import Role
from irevla_trainer.rl.worlds import RunsEpisodes, Worlds
from irevla_trainer.video import Clip, side_by_side, write_video


def train(run: RunFolder, settings: TrainFile, display: Display) -> dict[str, Any]:
    """Carry out the loop in a run's folder, or what is left of it.

    Args:
        run: Its folder.
        settings: Of the run.
        display: Shows progress.

    Returns:
        The content of `result.json`: selected (step, version, checkpoint), test (categories), validation (step to
        categories), steps (step to its account).

    Raises:
        UserError: The settings, the bags or a checkpoint do not fit.
        RunError: A loss is not finite, or the disk is full.
        KeyboardInterrupt: Stopped by SIGINT; the run can be resumed.
    """
    with Loop(run, settings, display) as loop:
        loop.learn()
        selected = loop.selected()
        return loop.test(selected) if settings.evaluates else loop.finish(selected, {})


Found = dict[str, list[Path]]
"""Task to the successes of its stages 1, a folder each, oldest first."""

_CACHE = "cache"
"""Folder of decoded demonstrations, which a finished run has no more use for."""


class Loop:
    """The loop with what its stages share: `learn`, and then use what was `selected`.

    Args:
        run: Its folder.
        settings: Of the run.
        display: Shows progress.

    Attributes:
        accounts: Step to what came out of it.
        evaluations: Step to category to success on validation seeds.
        experts: D_e.
        recorded: Of D_RL what earlier policies have left in bags.
    """

    def __init__(self, run: RunFolder, settings: TrainFile, display: Display) -> None:
        self.folder, self.settings, self.display = run, settings, display
        self.profile = load_profile(settings.robot)
        self.device = require_device(settings.device)
        self.accounts: dict[str, Any] = {}
        self.evaluations: dict[str, Any] = {}
        self._open = contextlib.ExitStack()
        self._worlds: RunsEpisodes | None = None
        self.experts: list[EpisodeArrays] = []
        self.recorded: list[EpisodeArrays] = []

    def __enter__(self) -> Loop:
        if self.settings.threads:
            torch.set_num_threads(self.settings.threads)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def learn(self) -> None:
        """Algorithm 1; without reinforcement learning its stage 0, or stage 2 from a given checkpoint."""
        if self.settings.reads_bags:
            # What is missing in them would else be found out after hours.
            self._read_bags()
        current = self._stage_0()
        self._evaluate(current)
        if self.settings.fine_tunes:
            self._evaluate(self._stage_2(1, None, current, {}))
        found: Found = {}
        for number, text in enumerate(self.settings.learnt_tasks, start=1):
            task = EvaluationTask.parse(text)
            # Of the same task an earlier stage 1 has only done what this one shall do better.
            others = {other: folders for other, folders in found.items() if other != text}
            learnt = self._stage_1(number, task, current, others)
            found.setdefault(text, []).append(self.folder.path(learnt) / "successes")
            self._evaluate(learnt)
            current = learnt
            if self.settings.stage2.enabled:
                current = self._stage_2(number, task, learnt, found)
                self._evaluate(current)

    def selected(self) -> str:
        """The step whose checkpoint did best on validation seeds; the last one where nothing is evaluated."""
        if not self.settings.evaluates:
            return list(self.accounts)[-1]
        # Of equals the latest: it has learnt from more.
        steps = list(self.evaluations)
        return max(steps, key=lambda step: (score(self.evaluations[step]), steps.index(step)))

    def checkpoint(self, step: str) -> Path:
        """The checkpoint that a step has left."""
        return self.folder.path(step) / "checkpoint"

    # -- stages -----------------------------------------------------------------------------------------------------

    def _stage_0(self) -> str:
        def work(folder: Path) -> dict[str, Any]:
            if self.settings.init:
                policy = load_checkpoint(Path(self.settings.init))
                check_fits(Path(self.settings.init), policy.robot, self.profile)
                self._keep(folder, policy)
                return {"init": checkpoint_version(Path(self.settings.init))}
            if self.settings.from_scratch:
                self._keep(folder, VLAPolicy.create(self.settings.model, facts, seed=self.settings.seed))
                return {"from_scratch": True}
            normaliser = Decisions(self.experts, facts.cameras).fit_normaliser()
            policy = VLAPolicy.create(self.settings.model, facts, normaliser, self.settings.seed).to(self.device)
            settings = dataclasses.replace(self.settings.stage0, seed=self.settings.seed)
            with self.display.updates("stage 0") as progress, _named("stage 0 (settings stage0)"):
                account = stage_0(policy, self.experts, settings, folder, progress)
            self._keep(folder, policy)
            return account

        facts = RobotFacts.of(self.profile)
        step = self._step("00-stage0", work)
        self._check_start(self.accounts[step].get("init"))
        return step

    def _check_start(self, start: str | None) -> None:
        """Refuse to go on as what the settings say, with a run that began from what `init` held earlier."""
        if start is None:
            return
        now = checkpoint_version(Path(self.settings.init))
        if now != start:
            raise UserError(
                f"{self.folder.folder} began from checkpoint {start}, init: {self.settings.init} is {now} now; put "
                "the former back, or start another run"
            )

    def _stage_1(self, number: int, task: EvaluationTask, before: str, others: Found) -> str:
        title = f"stage 1 {title_of_visit(self.settings.learnt_tasks, number)}"

        def work(folder: Path) -> dict[str, Any]:
            policy = self._load(before)
            with (
                self.display.iterations(title, str(task), self.settings.stage1) as report,
                self._stage_1_worlds(folder, policy) as worlds,
            ):
                account = stage_1(
                    policy,
                    task,
                    worlds,
                    self.settings.stage1,
                    self.settings.seed * 1000 + number,
                    folder,
                    report,
                    rehearsed=[*self.experts, *self._d_rl(others)],
                )
            if not account["successes"]:
                self.display.say(
                    f"{title}: no success in {account['episodes']} episodes; goes on with the policy as it was"
                )
            self._keep(folder, policy)
            return account

        return self._step(f"{number:02d}-stage1-{_plain(task)}", work)

    def _stage_2(self, number: int, task: EvaluationTask | None, before: str, found: Found) -> str:
        def work(folder: Path) -> dict[str, Any]:
            policy = self._load(before)
            successes = self._d_rl(found)
            title = f"stage 2 {title_of_visit(self.settings.learnt_tasks, number)}" if task else "stage 2"
            if task and not successes:
                self.display.say(f"{title}: no success so far to learn from; goes on with the policy as it was")
                self._keep(folder, policy)
                return {"steps": 0, "success_episodes": 0}
            shown = self.display.updates(title, str(task or ""))
            with shown as progress, _named(f"{title} (settings stage2.sft)"):
                account = stage_2(
                    policy,
                    self.experts,
                    successes,
                    self.settings.stage2,
                    # Alone it draws what `irevla sft` draws from the same bags with nothing held out.
                    self.settings.seed * 1000 + number if task else self.settings.seed,
                    folder,
                    progress,
                )
            self._keep(folder, policy)
            return account | {"success_episodes": len(successes)}

        return self._step(f"{number:02d}-stage2" + (f"-{_plain(task)}" if task else ""), work)

    def _d_rl(self, found: Found) -> list[EpisodeArrays]:
        """D_RL: what was recorded, and the newest of what stages 1 have found of each task."""
        stage1 = self.settings.stage1
        episodes: list[EpisodeArrays] = [*self.recorded]
        for folders in found.values():
            replays = [Replay(path, stage1.successes, stage1.imitate) for path in folders]
            episodes += [episode for replay in replays for episode in replay.episodes()][-stage1.successes :]
        return episodes

    def _step(self, name: str, work: Callable[[Path], dict[str, Any]]) -> str:
        self.accounts[name] = self.folder.step(name, work)
        return name

    # -- evaluation ---------------------------------------------------------------------------------------------------

    def _evaluate(self, step: str) -> None:
        def work(folder: Path) -> dict[str, Any]:
            with self.display.episodes(f"validation after {step}") as progress:
                results = evaluate_all(
                    self._load(step),
                    self.worlds,
                    self.settings.tasks,
                    "validation",
                    self.settings.evaluation.validation_episodes,
                    progress=progress,
                )
            return {"categories": summary(results)}

        if not self.settings.evaluates:
            return
        name = f"{step}-validation"
        known = self.folder.is_done(name)
        self.evaluations[step] = self.folder.step(name, work)["categories"]
        if not known:
            write_report(self.folder.folder)
        decisions = sum(account["decisions"] for done, account in self.accounts.items() if "-stage1-" in done)
        self.display.evaluation(step, self.evaluations[step], None if known else decisions)

    def test(self, selected: str) -> dict[str, Any]:
        """Finish the run with a step's success on test seeds; returns the content of `result.json`."""

        def work(folder: Path) -> dict[str, Any]:
            evaluation = self.settings.evaluation
            with self.display.episodes(f"test of {selected}") as progress:
                results = evaluate_all(
                    self._load(selected),
                    self.worlds,
                    self.settings.tasks,
                    "test",
                    evaluation.test_episodes,
                    evaluation.filmed,
                    progress,
                )
            films = {}
            for result in (result for members in results.values() for result in members):
                for number, outcome in enumerate(outcome for outcome in result.episodes if outcome.frames):
                    path = folder / f"{_plain(result.task)}-{number}.mp4"
                    clip = Clip(str(result.task), outcome.frames, outcome.success)
                    write_video(path, side_by_side([clip]), self.profile.control_rate)
                    films[str(path.relative_to(self.folder.folder))] = outcome.success
            return {"categories": summary(results), "films": films}

        test = self.folder.step("99-test", work)
        return self.finish(selected, {"test": test["categories"], "films": test["films"]})

    def finish(self, selected: str, found: dict[str, Any]) -> dict[str, Any]:
        """Put the run's checkpoint, result and report in place.

        Args:
            selected: The step whose checkpoint it is.
            found: What is known of it.

        Returns:
            The content of `result.json`.
        """
        checkpoint = self.checkpoint(selected)
        result = {
            "selected": {"step": selected, "version": checkpoint_version(checkpoint), "checkpoint": "checkpoint"},
            **found,
            "validation": self.evaluations,
            "steps": self.accounts,
            "settings": to_dict(self.settings),
        }
        self.folder.finish(result, checkpoint)
        shutil.rmtree(self.folder.folder / _CACHE, ignore_errors=True)
        write_report(self.folder.folder)
        return result

    # -- what the stages share ----------------------------------------------------------------------------------------

    @property
    def worlds(self) -> RunsEpisodes:
        """Where episodes run, started when it is first needed."""
        if self._worlds is None:
            self._worlds = self._open.enter_context(self._make_worlds())
        return self._worlds

    @contextlib.contextmanager
    def _stage_1_worlds(self, folder: Path, policy: VLAPolicy) -> Iterator[RunsEpisodes | Rollouts]:
        """What stage 1 learns from: the loop's worlds, or a live robot."""
        settings = self.settings
        if settings.worlds_in != "robot":
            yield self.worlds
            return
        role = Role(
            settings.robot, settings.task_file, settings.max_steps, settings.stage1.latents.dtype, settings.device
        )
        with RobotRollouts(folder / "robot", policy, role) as rollouts:
            yield rollouts
        shutil.rmtree(folder / "robot")

    def _make_worlds(self) -> contextlib.AbstractContextManager[RunsEpisodes]:
        settings = self.settings
        if settings.worlds_in == "graph":
            # Here, not above: learning in process needs no ROS.
            from irevla_trainer.ros.graph_worlds import GraphWorlds

            return GraphWorlds(settings.robot, settings.task_file, settings.max_steps, self.folder.folder / "nodes")
        tasks = load_tasks(settings.task_file)
        return Worlds(self.profile, settings.worlds, tasks, settings.max_steps, settings.deciding_threads)

    def _read_bags(self) -> None:
        """D_e, and the recorded part of D_RL."""
        with self.display.bags() as progress:
            read = load_recorded(self.settings, self.profile, self.folder.folder / _CACHE, progress)
        self._open.callback(read.close)
        self.experts, self.recorded = list(read.experts), list(read.successes)

    def _keep(self, folder: Path, policy: VLAPolicy) -> None:
        provenance = {"made_by": "irevla train", "origin": origin(), "settings": to_dict(self.settings)}
        save_checkpoint(folder / "checkpoint", policy, provenance)

    def _load(self, step: str) -> VLAPolicy:
        return load_checkpoint(self.checkpoint(step)).to(self.device)


@contextlib.contextmanager
def _named(stage: str) -> Iterator[None]:
    """Say which stage did not learn."""
    try:
        yield
    except TrainingError as error:
        raise RunError(f"{stage}: {error}") from error


def _plain(task: EvaluationTask) -> str:
    return str(task).replace(":", "-")
