"""The promotion gate: a candidate replaces the serving policy only when it is shown to be better.

Both run the same fresh episodes. The candidate is promoted when, with the wanted confidence,

    it is better on the tasks that it was trained on, and
    not worse by more than a margin on the others, all together,

and it is not shown that on one of the others by itself it is worse by more than the margin. When that is open, more
episodes are run, up to a number; what is open then is not promoted. Every look at the figures is a chance to be wrong,
so that each takes its share of the risk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from irevla_policy.model.policy import VLAPolicy
from irevla_trainer.evaluate import EvaluationTask, evaluate
from irevla_trainer.jobs.settings import GateSettings
from irevla_trainer.rl.worlds import RunsEpisodes
from irevla_trainer.seeds import episode_seeds
from irevla_trainer.statistics import Rate, least_difference


@dataclass(frozen=True)
class Comparison:
    """Two policies on some tasks.

    Attributes:
        tasks: The tasks.
        before: Success of the serving policy.
        after: Success of the candidate on the same seeds.
        least: What the difference is at least, with the confidence of the look.
    """

    tasks: tuple[str, ...]
    before: Rate
    after: Rate
    least: float

    def to_json(self) -> dict[str, Any]:
        """Plain values; keys as the attributes."""
        return {
            "tasks": list(self.tasks),
            "before": self.before.to_json(),
            "after": self.after.to_json(),
            "least": round(self.least, 4),
        }

    def __str__(self) -> str:
        return f"{self.before.value:.2f} -> {self.after.value:.2f} ({self.before.episodes} episodes each)"


@dataclass(frozen=True)
class Verdict:
    """What the gate says.

    Attributes:
        promoted: Whether the candidate is to serve.
        reason: Why, in one sentence with the figures.
        trained: On the tasks that the candidate was trained on.
        others: On the others; None when there are none.
        looks: How often the figures were looked at.
        outcomes: Task to success of the serving policy and of the candidate, seed by seed.
    """

    promoted: bool
    reason: str
    trained: Comparison
    others: Comparison | None
    looks: int
    outcomes: dict[str, tuple[list[bool], list[bool]]] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Plain values; keys as the attributes."""
        return {
            "promoted": self.promoted,
            "reason": self.reason,
            "trained": self.trained.to_json(),
            "others": self.others.to_json() if self.others else None,
            "looks": self.looks,
            "outcomes": {task: {"before": b, "after": a} for task, (b, a) in self.outcomes.items()},
        }


def judge(
    before: VLAPolicy,
    after: VLAPolicy,
    worlds: RunsEpisodes,
    trained: Sequence[str],
    others: Sequence[str],
    settings: GateSettings,
    first_seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Verdict:
    """Compare a candidate with the serving policy in simulation.

    Args:
        before: The serving policy.
        after: The candidate.
        worlds: Run the episodes.
        trained: Tasks that the candidate was trained on, TASK or TASK:VARIATION; at least one.
        others: Tasks on which it must not have become worse.
        settings: Of the gate.
        first_seed: Offset of the episodes' seeds among those of gates: every job has its own.
        progress: Called after each episode with episodes done and how many there will be at most.
    """
    tasks = [*trained, *(task for task in others if task not in trained)]
    outcomes: dict[str, tuple[list[bool], list[bool]]] = {task: ([], []) for task in tasks}
    total, done = 2 * len(tasks) * settings.episodes * settings.looks, 0

    def count(task: EvaluationTask, ended: int, successes: int) -> None:
        nonlocal done
        done += 1
        progress(done, total)

    for look in range(1, settings.looks + 1):
        seeds = episode_seeds("gate", settings.episodes, first_seed + (look - 1) * settings.episodes)
        for place, policy in enumerate((before, after)):
            asked = [EvaluationTask.parse(task) for task in tasks]
            for task, result in zip(tasks, evaluate(policy, worlds, asked, seeds, progress=count), strict=True):
                outcomes[task][place].extend(episode.success for episode in result.episodes)
        verdict = decide(outcomes, trained, settings, look)
        if verdict is not None:
            return verdict
    raise AssertionError("the last look decides")


def too_few(settings: GateSettings, others: int) -> str:
    """Why nothing can ever be promoted beside so many other tasks, in one sentence; empty where something can be."""
    if settings.mode != "simulation" or not others:
        return ""
    most, confidence = settings.episodes * settings.looks * others, _confidence(settings)
    possible = -least_difference([True] * most, [True] * most, confidence)
    if possible < settings.margin:
        return ""
    return (
        f"gate: {most} episodes of other tasks ({settings.episodes} of each at {settings.looks} looks) can at best "
        f"show that a candidate is less than {possible:.3f} worse, margin is {settings.margin:g}: nothing can be "
        "promoted; set more episodes or a wider margin"
    )


def _confidence(settings: GateSettings) -> float:
    """Of every single look."""
    return 1 - (1 - settings.confidence) / settings.looks


def decide(
    outcomes: dict[str, tuple[list[bool], list[bool]]], trained: Sequence[str], settings: GateSettings, look: int
) -> Verdict | None:
    """What the outcomes say at a look; None when more episodes are to be run.

    Args:
        outcomes: Task to success of the serving policy and of the candidate, seed by seed.
        trained: Which of the tasks the candidate was trained on.
        settings: Of the gate.
        look: Number of the look, from 1.
    """
    confidence = _confidence(settings)
    there = _compare(outcomes, tuple(trained), confidence)
    elsewhere = tuple(task for task in outcomes if task not in trained)
    others = _compare(outcomes, elsewhere, confidence) if elsewhere else None
    # Trained tasks that rise do not make up for one that is lost.
    fallen = [task for task in outcomes if _has_fallen(*outcomes[task], confidence, settings.margin)]
    better = there.least > 0.0
    kept = not fallen and (others is None or others.least > -settings.margin)
    hopeless = bool(fallen) or _hopeless(there, others, settings)
    if not (better and kept) and look < settings.looks and not hopeless:
        return None
    figures = f"trained tasks {there}" + (f", others {others}" if others else "")
    if better and kept:
        reason = f"better: {figures}"
    elif not better:
        reason = f"not shown to be better on the trained tasks: {figures}"
    elif fallen:
        worst = ", ".join(f"{task} {_compare(outcomes, (task,), confidence)}" for task in fallen)
        reason = f"worse by more than {settings.margin:g} on {worst}: {figures}"
    else:
        reason = f"not shown to be at most {settings.margin:g} worse on the other tasks: {figures}"
    return Verdict(better and kept, reason, there, others, look, outcomes)


def _has_fallen(before: list[bool], after: list[bool], confidence: float, margin: float) -> bool:
    """Whether a task is shown to be worse by more than a margin: whatever the others are like."""
    return least_difference(after, before, confidence) > margin


def _hopeless(there: Comparison, others: Comparison | None, settings: GateSettings) -> bool:
    """Whether more episodes are not worth their time: the figures point the other way."""
    lost = others is not None and others.after.value < others.before.value - 2 * settings.margin
    return there.after.value < there.before.value or lost


def _compare(
    outcomes: dict[str, tuple[list[bool], list[bool]]], tasks: tuple[str, ...], confidence: float
) -> Comparison:
    before, after = ([success for task in tasks for success in outcomes[task][place]] for place in (0, 1))
    least = least_difference(before, after, confidence)
    return Comparison(tasks, Rate(sum(before), len(before)), Rate(sum(after), len(after)), least)
