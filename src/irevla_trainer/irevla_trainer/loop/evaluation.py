"""Success in the three categories, and the choice of a checkpoint by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from irevla_policy.model.policy import VLAPolicy
from irevla_trainer.evaluate import EvaluationTask, TaskResult, evaluate
from irevla_trainer.loop.settings import TaskSets
from irevla_trainer.rl.worlds import RunsEpisodes
from irevla_trainer.seeds import episode_seeds
from irevla_trainer.statistics import Rate

CATEGORIES = ("expert", "rl", "unseen")


def tasks_of(sets: TaskSets) -> dict[str, list[EvaluationTask]]:
    """Category to its tasks; categories without tasks are left out."""
    found = {category: [EvaluationTask.parse(text) for text in getattr(sets, category)] for category in CATEGORIES}
    return {category: tasks for category, tasks in found.items() if tasks}


def evaluate_all(
    policy: VLAPolicy,
    worlds: RunsEpisodes,
    sets: TaskSets,
    purpose: str,
    episodes: int,
    filmed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, list[TaskResult]]:
    """Evaluate a policy on every task of every category.

    Args:
        policy: What to evaluate.
        worlds: Run the episodes.
        sets: The tasks.
        purpose: 'validation' or 'test': which seeds.
        episodes: Per task.
        filmed: Successes and failures per task whose frames are kept, of each.
        progress: Called after each episode with episodes done and in all.

    Returns:
        Category to one result per task.
    """
    categories = tasks_of(sets)
    # One that has a few demonstrations and is learnt online too belongs to two of them.
    tasks = list(dict.fromkeys(task for members in categories.values() for task in members))
    total, done = len(tasks) * episodes, 0

    def count(task: EvaluationTask, ended: int, successes: int) -> None:
        nonlocal done
        done += 1
        progress(done, total)

    results = evaluate(policy, worlds, tasks, episode_seeds(purpose, episodes), filmed=filmed, progress=count)
    found = dict(zip(tasks, results, strict=True))
    return {category: [found[task] for task in members] for category, members in categories.items()}


def summary(results: Mapping[str, list[TaskResult]]) -> dict[str, Any]:
    """Plain values: category to `success` with its interval over all its episodes, and `tasks`."""
    return {
        category: {
            **pooled(tasks).to_json(),
            "tasks": {str(result.task): result.to_json() for result in tasks},
        }
        for category, tasks in results.items()
    }


def pooled(results: list[TaskResult]) -> Rate:
    """Rate over all episodes of a category; all tasks have equally many."""
    rates = [result.rate for result in results]
    return Rate(sum(rate.successes for rate in rates), sum(rate.episodes for rate in rates))


def score(evaluation: Mapping[str, Any]) -> float:
    """What checkpoints are chosen by: mean success over the categories that are trained, in [0, 1].

    Unseen tasks do not count: choosing by them would make them seen.
    """
    return float(np.mean([evaluation[name]["success"] for name in ("expert", "rl") if name in evaluation]))
