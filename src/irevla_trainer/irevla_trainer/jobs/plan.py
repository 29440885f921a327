"""What an order means: which bags, which tasks, which settings. Fixed once, so that a resumed job stays the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from irevla_policy.durable import write_text
from irevla_policy.errors import UserError
from irevla_policy.robot.profile import load_profile
from irevla_policy.settings import SettingsError, from_dict, to_dict
from irevla_policy.sim.tasks import TaskFile, load_tasks
from irevla_trainer.data.index import EpisodeIndex, IndexedEpisode
from irevla_trainer.evaluate import EvaluationTask
from irevla_trainer.jobs.job import JobFolder, Order, all_jobs
from irevla_trainer.jobs.policies import store
from irevla_trainer.loop.settings import TrainFile


@dataclass(frozen=True)
class Plan:
    """A job's run and its gate.

    Attributes:
        settings: Of the run.
        trained: Tasks on which the candidate must be better.
        others: Tasks on which it must not be worse.
        serving: Checkpoint that the candidate must be better than.
        gate_seed: Offset of the gate's seeds.
        held_out: Bags with demonstrations that a candidate for trials is checked on.
        left_out: Tasks of episodes that no world knows, so that nothing of them can be evaluated.
        problems: Bags that cannot be used, each with the reason.
    """

    settings: TrainFile
    trained: tuple[str, ...]
    others: tuple[str, ...]
    serving: str
    gate_seed: int
    held_out: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def plan(job: JobFolder) -> Plan:
    """The plan of a job; made at the first call.

    Raises:
        SettingsError: There is nothing to learn from.
        UserError: The checkpoint to start from is none.
        OSError: The disk is full.
    """
    if not job.plan_path.is_file():
        made = _plan(job, job.order)
        write_text(job.plan_path, json.dumps(vars(made) | {"settings": to_dict(made.settings)}, indent=2) + "\n")
    values = json.loads(job.plan_path.read_text())
    lists = {name: tuple(values.get(name, ())) for name in ("trained", "others", "held_out", "left_out", "problems")}
    settings = from_dict(TrainFile, values["settings"], f"{job.name}: plan.json")
    return Plan(settings=settings, serving=values["serving"], gate_seed=values["gate_seed"], **lists)


def _plan(job: JobFolder, order: Order) -> Plan:
    profile = load_profile(order.robot)
    index = job.folder / "episodes.jsonl"
    if job.index_path.is_file():
        # The trainer goes on with its own.
        shutil.copyfile(job.index_path, index)
    tasks = load_tasks(order.settings.task_file)
    try:
        episodes = EpisodeIndex([Path(folder) for folder in order.folders], profile, index)
        episodes.refresh()
        found = usable(episodes.episodes, order, tasks)
    finally:
        index.unlink(missing_ok=True)
    demonstrations, successes = found.demonstrations, found.successes
    request, gate = order.request, order.settings.gate
    held_out: list[IndexedEpisode] = []
    if gate.mode == "trials" and gate.held_out > 0:
        held_out = _held_out(demonstrations, gate.held_out, all_jobs(job.folder.parent))
        demonstrations = [episode for episode in demonstrations if episode not in held_out]
    demonstrated = _tasks(demonstrations, tasks)
    collected = tuple(task for task in _tasks(successes, tasks) if task not in demonstrated)
    bags = [episode.bag for episode in (*demonstrations, *successes)]
    base, serving = (store(Path(checkpoint), job.policies, {}) for checkpoint in (order.base, order.serving))
    settings = order.settings.run_settings(request, demonstrated, collected, bags, order.robot, base)
    trained = (*demonstrated, *collected) if request.stage == "sft" else request.tasks
    others = tuple(task for task in found.tasks if task not in trained)
    # Every job has seeds of its own, as long as there are any.
    most = gate.episodes * gate.looks
    seed = (order.number - 1) % (1_000_000 // most) * most
    bags_held_out = tuple(str(episode.bag) for episode in held_out)
    return Plan(settings, trained, others, str(serving), seed, bags_held_out, found.left_out, found.problems)


def _held_out(
    demonstrations: Sequence[IndexedEpisode], share: float, jobs: Sequence[JobFolder]
) -> list[IndexedEpisode]:
    """What to check a candidate on: what was held out stays so, and what a policy may have learnt is no check of it."""
    earlier = [json.loads(job.plan_path.read_text()) for job in jobs if job.plan_path.is_file()]
    learnt = {bag for plan in earlier for bag in plan["settings"]["bags"]}
    kept = {bag for plan in earlier for bag in plan.get("held_out", ())} - learnt
    found = [episode for episode in demonstrations if str(episode.bag) in kept]
    new = [episode for episode in demonstrations if str(episode.bag) not in kept | learnt]
    more = min(max(int(share * len(demonstrations)) - len(found), 0), len(new))
    # Spread over all that are new, so that each task gives some.
    return found + [new[(number + 1) * len(new) // more - 1] for number in range(more)]


@dataclass(frozen=True)
class Usable:
    """What a job can learn from.

    Attributes:
        demonstrations: D_e.
        successes: The recorded part of D_RL.
        tasks: All tasks with successes, also those that the job does not learn from.
        left_out: Tasks that no world knows.
        problems: Bags that cannot be used, each with the reason.
    """

    demonstrations: list[IndexedEpisode]
    successes: list[IndexedEpisode]
    tasks: tuple[str, ...]
    left_out: tuple[str, ...]
    problems: tuple[str, ...]


def usable(episodes: list[IndexedEpisode], order: Order, tasks: TaskFile) -> Usable:
    """Of some episodes those that a job learns from.

    Args:
        episodes: All that are known.
        order: Of the job.
        tasks: What the job's worlds know.

    Raises:
        SettingsError: None for supervised learning, or no demonstration for a cycle; says what is wrong with the bags,
            if something is.
    """
    request = order.request
    successful = [episode for episode in episodes if episode.dataset]
    left_out: tuple[str, ...] = ()
    if order.settings.worlds_in != "none":
        # A person's recording of whatever the robot did: without a simulation of it nobody could say how it goes.
        left_out = tuple(task for task in _tasks(successful, tasks) if not _is_known(task, tasks))
        successful = [episode for episode in successful if _task(episode, tasks) not in left_out]
    wanted = request.tasks if request.stage == "sft" else ()
    learnt = [episode for episode in successful if not wanted or _task(episode, tasks) in wanted]
    demonstrations = [episode for episode in learnt if episode.dataset == "D_e"]
    successes = [episode for episode in learnt if episode.dataset == "D_RL"]
    where = ", ".join(order.folders)
    problems = tuple(f"{episode.bag}: {episode.problem}" for episode in episodes if episode.problem)
    unknown = f"; {order.settings.task_file} does not know {', '.join(map(repr, left_out))}" if left_out else ""
    bad = f"; {len(problems)} bags cannot be used, the first: {problems[0]}" if problems else ""
    if wanted and not learnt:
        raise SettingsError(f"no episode of {', '.join(wanted)} that is labelled as a success in {where}{unknown}{bad}")
    if request.stage == "sft" and not learnt:
        raise SettingsError(f"no episode that is labelled as a success in {where}{unknown}{bad}")
    if request.stage == "cycle" and not demonstrations:
        raise SettingsError(
            f"a cycle needs demonstrations: no successful episode of an expert or a person in {where}{unknown}; "
            f"record or label some, or ask for stage rl{bad}"
        )
    return Usable(demonstrations, successes, _tasks(successful, tasks), left_out, problems)


def _is_known(task: str, tasks: TaskFile) -> bool:
    try:
        parsed = EvaluationTask.parse(task)
        tasks.variation(parsed.task, parsed.variation)
    except UserError:
        return False
    return True


def _tasks(episodes: list[IndexedEpisode], tasks: TaskFile) -> tuple[str, ...]:
    return tuple(sorted({_task(episode, tasks) for episode in episodes}))


def _task(episode: IndexedEpisode, tasks: TaskFile) -> str:
    assert episode.info is not None
    return str(EvaluationTask(episode.info.task, episode.info.variation).named_in(tasks))
