"""Stage 1: online reinforcement learning of the heads on one task, the backbone frozen.

new critic
repeat
    run a rollout with exploration noise; its successes go into D_RL
    learn from it
    now and then validate without noise, and keep the best head
until the rollouts have converged or the decisions are spent

On a live robot (`loop.robot`) the next rollout runs while this one is learnt from, and nothing is validated: the
robot's time is for learning, and the last head is the result.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from irevla_policy.durable import write_text
from irevla_policy.errors import RunError
from irevla_policy.model.policy import VLAPolicy
from irevla_trainer.evaluate import EvaluationTask, evaluate
from irevla_trainer.learn.decisions import Decisions, EpisodeArrays
from irevla_trainer.learn.training_state import TrainingState, read_state, write_state
from irevla_trainer.loop.replay import Replay, Success
from irevla_trainer.loop.settings import Stage1Settings
from irevla_trainer.rl.algorithm import DivergedError, RlAlgorithm
from irevla_trainer.rl.asking import Noise
from irevla_trainer.rl.latents import AT_A_TIME, LatentStore, encode
from irevla_trainer.rl.ppo import Ppo
from irevla_trainer.rl.rollout import Rollout, collect, executed
from irevla_trainer.rl.sacfd import Sacfd
from irevla_trainer.rl.worlds import EpisodeRequest, RunsEpisodes
from irevla_trainer.seeds import RANGES, episode_seeds


class Rollouts(Protocol):
    """Whoever runs rollouts in another process."""

    def ask(self, number: int, requests: Sequence[EpisodeRequest], noise: Noise, weights: Mapping[str, Tensor]) -> None:
        """Begin a rollout with these weights, after those that were asked for before."""

    def take(self, number: int, store: LatentStore) -> Rollout:
        """Wait for a rollout."""

    def learnt(self, number: int) -> None:
        """A rollout has been learnt from, and the state that says so is on the disk."""


@dataclass(frozen=True)
class _Plan:
    """What an iteration draws. One stream of random numbers each: it does not depend on where a run was stopped."""

    requests: list[EpisodeRequest]
    noise: Noise
    learning_seed: int


_FIRST_SEED = 10_000
"""Training seeds below are those of demonstrations."""

_FIRST_VALIDATION_SEED = 1_000
"""Below are those by which the loop chooses among stages: the head that was best on them would look better there."""


@dataclass
class _Progress:
    """How far a stage is; plain values, stored with the weights."""

    iteration: int = 0
    decisions: int = 0
    episodes: int = 0
    successes: int = 0
    converged: int = 0
    best: float = -1.0
    validated: int = -1
    finished: str = ""
    history: list[dict[str, float]] = field(default_factory=list)


def make_algorithm(
    policy: VLAPolicy, settings: Stage1Settings, folder: Path, rehearsed: Sequence[EpisodeArrays] = ()
) -> RlAlgorithm:
    """The algorithm that the settings name, with a new critic.

    Args:
        policy: Learns in place.
        settings: Of the stage.
        folder: For what the algorithm keeps on disk.
        rehearsed: D_e and D_RL of earlier tasks.
    """
    if settings.algorithm == "sacfd":
        return Sacfd(policy, settings.sacfd, settings.latents, folder)
    decisions = Decisions(rehearsed, policy.robot.cameras)
    return Ppo(policy, settings.ppo, settings.trains == "model", settings.latents, folder, decisions)


def stage_1(
    policy: VLAPolicy,
    task: EvaluationTask,
    worlds: RunsEpisodes | Rollouts,
    settings: Stage1Settings,
    seed: int,
    folder: Path,
    report: Callable[[dict[str, float]], None] = lambda figures: None,
    start: float | None = None,
    rehearsed: Sequence[EpisodeArrays] = (),
) -> dict[str, Any]:
    """Improve a policy in place on one task; continues from the state in `folder`.

    Args:
        policy: pi_1, a copy of pi_2; left with the best head that was validated.
        task: T_i.
        worlds: Run the episodes; or who runs whole rollouts elsewhere.
        settings: Of the stage.
        seed: Of critic, noise, order and episodes.
        folder: Holds the state while the stage runs, `metrics.jsonl`, and D_RL of this task in `successes`.
        report: Called after each iteration with its figures.
        start: Success of the policy as it is on the validation seeds, where it is known; measured when left out. Of no
            use on a robot.
        rehearsed: D_e and D_RL of earlier tasks, for algorithms that imitate beside.

    Returns:
        decisions, episodes, successes, before and after (success on validation seeds; None on a robot), ended (why).

    Raises:
        RunError: A loss or a weight is not finite; the folder keeps the state before the iteration.
        KeyboardInterrupt: Stopped by SIGINT; the same call repeats the iteration at hand and goes on.
    """
    return _Stage1(policy, task, worlds, settings, seed, folder, report, rehearsed).run(start)


def validation_seeds(settings: Stage1Settings) -> range:
    """Seeds of the episodes that stage 1 validates on; the loop's own validation has others."""
    return episode_seeds("validation", settings.validation_episodes, _FIRST_VALIDATION_SEED)


def take_last(policy: VLAPolicy, folder: Path) -> None:
    """Give a policy, in place, the weights that a finished stage 1 ended with; `stage_1` itself leaves the best.

    Args:
        policy: Of the stage's form.
        folder: Of the stage.

    Raises:
        RunError: There is no stage 1 in the folder.
    """
    state = read_state(folder)
    if state is None:
        raise RunError(f"{folder}: no state of a stage 1")
    parameters = dict(policy.named_parameters())
    for name, tensor in _part(state, _WEIGHT).items():
        parameters[name].data.copy_(tensor)


_LONGEST = 1024
"""Observations that an episode has at most."""

_WEIGHT, _BEST, _ALGORITHM = "weight", "best", "algorithm"
"""Parts of the state."""


def _part(state: TrainingState, part: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(f"{part}/"): value for name, value in state.tensors.items() if name.startswith(f"{part}/")
    }


class _Stage1:
    def __init__(
        self,
        policy: VLAPolicy,
        task: EvaluationTask,
        worlds: RunsEpisodes | Rollouts,
        settings: Stage1Settings,
        seed: int,
        folder: Path,
        report: Callable[[dict[str, float]], None],
        rehearsed: Sequence[EpisodeArrays],
    ) -> None:
        self.policy, self.task, self.settings = policy, task, settings
        self.worlds = worlds if isinstance(worlds, RunsEpisodes) else None
        self.elsewhere = worlds if not isinstance(worlds, RunsEpisodes) else None
        self.seed, self.folder, self.report = seed, folder, report
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.algorithm = make_algorithm(policy, settings, folder / "algorithm", rehearsed)
        self.learnt = {name: p for name, p in policy.named_parameters() if p.requires_grad}
        self.best = self._weights()
        self.progress = _Progress()
        self.replay = Replay(folder / "successes", settings.successes, settings.imitate)

    def run(self, start: float | None) -> dict[str, Any]:
        self._resume()
        if self.progress.validated < 0 and self.worlds is not None:
            self._keep_best(self._validate(self.worlds) if start is None else start)
            self._save()
        # An iteration counts once it is saved, whatever ends the process before: it comes again, the same.
        while not self.progress.finished:
            self._iterate()
            self._save()
            if self.elsewhere is not None:
                self.elsewhere.learnt(self.progress.iteration - 1)
        if self.worlds is not None:
            self._take(self.best)
        if self.settings.imitate in ("final", "explored"):
            self.replay.relabel(self._act, noisy=self.settings.imitate == "explored")
        # Stored latents are of no use to the stages that follow, and large.
        shutil.rmtree(self.folder / "algorithm", ignore_errors=True)
        return {
            "task": str(self.task),
            "decisions": self.progress.decisions,
            "episodes": self.progress.episodes,
            "successes": self.progress.successes,
            "kept_successes": len(self.replay.episodes()),
            "before": self.progress.history[0].get("validation_success"),
            "after": self.progress.best if self.worlds is not None else None,
            "ended": self.progress.finished,
        }

    def _iterate(self) -> None:
        progress = self.progress
        plan = self._plan(progress.iteration)
        rollout = self._collect(self.worlds, plan) if self.worlds is not None else self._await(plan)
        self.replay.add(progress.iteration, rollout.trajectories)
        figures = self._learn(rollout, plan.learning_seed)
        self._count(rollout)
        figures |= {
            "iteration": float(progress.iteration),
            "decisions": float(progress.decisions),
            "rollout_success": rollout.success_rate,
        }
        progress.history.append(figures)
        if self.worlds is not None and (progress.finished or progress.iteration % self.settings.validate_every == 0):
            self._keep_best(self._validate(self.worlds))
        self.report(progress.history[-1])

    def _plan(self, iteration: int) -> _Plan:
        draw = np.random.default_rng([self.seed, iteration])
        requests = self._requests(draw)
        noise = Noise(self.algorithm.std, int(draw.integers(2**31)), self.algorithm.noise_correlation)
        return _Plan(requests, noise, int(draw.integers(2**31)))

    def _collect(self, worlds: RunsEpisodes, plan: _Plan) -> Rollout:
        """A rollout of the policy as it is."""
        store = self.algorithm.store(sum(worlds.steps(request.task) + 1 for request in plan.requests))
        noise = plan.noise
        return collect(worlds, plan.requests, self.policy, store, noise.std, noise.seed, noise.correlation)

    def _await(self, plan: _Plan) -> Rollout:
        """The rollout of this iteration, after which the next one begins with the weights as they are."""
        assert self.elsewhere is not None
        progress = self.progress
        self.elsewhere.ask(progress.iteration, plan.requests, plan.noise, self._weights())
        store = self.algorithm.store(len(plan.requests) * _LONGEST)
        if not isinstance(store, LatentStore):
            raise TypeError("rollouts of another process come as stored latents")
        rollout = self.elsewhere.take(progress.iteration, store)
        spent = progress.decisions + len(rollout) >= self.settings.decisions
        if not spent and progress.iteration + 1 != self.settings.iterations:
            following = self._plan(progress.iteration + 1)
            self.elsewhere.ask(progress.iteration + 1, following.requests, following.noise, self._weights())
        return rollout

    def _learn(self, rollout: Rollout, seed: int) -> dict[str, float]:
        try:
            figures = self.algorithm.learn(rollout, seed)
            broken = [name for name, p in self.learnt.items() if not math.isfinite(float(p.detach().sum()))]
            if broken:
                raise DivergedError(f"the weight {broken[0]} is not finite after the updates")
        except DivergedError as error:
            key = self.settings.algorithm
            rates = getattr(self.settings, key)
            raise RunError(
                f"stage 1 of {self.task}, iteration {self.progress.iteration + 1}: {error}; the last good state is in "
                f"{self.folder}; start another run with a lower stage1.{key}.actor_learning_rate (now "
                f"{rates.actor_learning_rate:g}) or critic_learning_rate (now {rates.critic_learning_rate:g})"
            ) from error
        return figures

    def _requests(self, draw: np.random.Generator) -> list[EpisodeRequest]:
        last = RANGES["validation"] - RANGES["train"]
        offsets = draw.integers(_FIRST_SEED, last, self.algorithm.episodes)
        seeds = [episode_seeds("train", 1, int(offset))[0] for offset in offsets]
        return [EpisodeRequest(self.task.task, self.task.variation, seed) for seed in seeds]

    def _count(self, rollout: Rollout) -> None:
        progress = self.progress
        progress.iteration += 1
        progress.decisions += len(rollout)
        progress.episodes += len(rollout.success)
        progress.successes += sum(rollout.success)
        good = rollout.success_rate >= self.settings.converged
        progress.converged = progress.converged + 1 if good else 0
        if progress.converged >= self.settings.patience:
            progress.finished = "converged"
        elif progress.decisions >= self.settings.decisions:
            progress.finished = "decisions spent"
        elif progress.iteration == self.settings.iterations:
            progress.finished = "iterations done"

    def _validate(self, worlds: RunsEpisodes) -> float:
        """Success without noise on validation seeds."""
        seeds = validation_seeds(self.settings)
        return evaluate(self.policy, worlds, [self.task], seeds)[0].rate.value

    def _keep_best(self, success: float) -> None:
        """Note a validation, and keep the head when it is the best so far."""
        progress = self.progress
        if not progress.history:
            progress.history.append({"iteration": 0.0, "decisions": 0.0})
        progress.history[-1]["validation_success"] = success
        progress.validated = progress.iteration
        # Of equals the later has learnt from more, if there was a success to learn from.
        if success > progress.best or (success == progress.best and progress.successes):
            progress.best, self.best = success, self._weights()

    def _weights(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.learnt.items()}

    def _take(self, weights: dict[str, Tensor]) -> None:
        for name, parameter in self.learnt.items():
            parameter.data.copy_(weights[name])

    def _act(self, episode: Success) -> npt.NDArray[np.float32]:
        """What the policy does now where an episode was, raw actions `[T, a]`."""
        means = []
        for first in range(0, len(episode.state), AT_A_TIME):
            part = slice(first, first + AT_A_TIME)
            images = {camera: frames[part] for camera, frames in episode.images.items()}
            with torch.no_grad():
                latent = encode(self.policy, images, episode.instructions[part], episode.state[part])
                means.append(self.policy.action_from_latent(latent)[:, 0].cpu().numpy())
        return executed(self.policy, np.concatenate(means))

    # -- the state on the disk --------------------------------------------------------------------------------------

    def _save(self) -> None:
        tensors = {f"{_WEIGHT}/{name}": value for name, value in self._weights().items()}
        tensors |= {f"{_BEST}/{name}": value for name, value in self.best.items()}
        if not self.progress.finished:
            tensors |= {f"{_ALGORITHM}/{name}": value for name, value in self.algorithm.tensors().items()}
        # First, so that they are complete once the state says that the stage has finished.
        lines = [json.dumps(figures) + "\n" for figures in self.progress.history]
        write_text(self.folder / "metrics.jsonl", "".join(lines))
        write_state(self.folder, TrainingState({"task": str(self.task)}, vars(self.progress).copy(), tensors))

    def _resume(self) -> None:
        state = read_state(self.folder)
        if state is None:
            self.replay.forget(0)
            return
        self.progress = _Progress(**state.progress)
        self._take(_part(state, _WEIGHT))
        self.best = {name: tensor.to(self.policy.device) for name, tensor in _part(state, _BEST).items()}
        if not self.progress.finished:
            self.algorithm.load(_part(state, _ALGORITHM))
        self.replay.forget(self.progress.iteration)
