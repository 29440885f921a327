"""What an order means: which bags, which tasks, which settings. Fixed once, so that a resumed job stays the same."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from irevla_policy.durable import write_text
from irevla_policy.recording.episode import EpisodeInfo
from irevla_policy.robot.profile import load_profile
from irevla_policy.settings import SettingsError, from_dict, to_dict
from irevla_trainer.data.index import EpisodeIndex, IndexedEpisode
from irevla_trainer.evaluate import EvaluationTask
from irevla_trainer.jobs.job import JobFolder, Order
from irevla_trainer.jobs.policies import store
from irevla_trainer.loop.settings import TrainFile


@dataclass(frozen=True)
class Plan:
    """A job's run and its gate.

    Attributes:
        settings: Of the run.
        trained: Tasks on which the candidate must be better.
        others: Tasks on which it must not be worse.
        gate_seed: Offset of the gate's seeds.
        held_out: Bags with demonstrations that a candidate for trials is checked on.
    """

    settings: TrainFile
    trained: tuple[str, ...]
    others: tuple[str, ...]
    gate_seed: int
    held_out: tuple[str, ...] = ()


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
    lists = {name: tuple(values[name]) for name in ("trained", "others", "held_out")}
    settings = from_dict(TrainFile, values["settings"], f"{job.name}: plan.json")
    return Plan(settings=settings, gate_seed=values["gate_seed"], **lists)


def _plan(job: JobFolder, order: Order) -> Plan:
    profile = load_profile(order.robot)
    index = job.folder / "episodes.jsonl"
    if job.index_path.is_file():
        # The trainer goes on with its own.
        shutil.copyfile(job.index_path, index)
    episodes = EpisodeIndex([Path(folder) for folder in order.folders], profile, index)
    episodes.refresh()
    demonstrations, successes = usable(episodes.episodes, order)
    index.unlink(missing_ok=True)
    request, gate = order.request, order.settings.gate
    held_out: list[IndexedEpisode] = []
    if gate.mode == "trials" and gate.held_out > 0:
        # Every so many-th, so that each task gives some.
        held_out = demonstrations[round(1 / gate.held_out) - 1 :: round(1 / gate.held_out)]
        demonstrations = [episode for episode in demonstrations if episode not in held_out]
    demonstrated = _tasks(demonstrations)
    collected = tuple(task for task in _tasks(successes) if task not in demonstrated)
    bags = [episode.bag for episode in (*demonstrations, *successes)]
    base = store(Path(order.base), job.policies, {})
    settings = order.settings.run_settings(request, demonstrated, collected, bags, order.robot, base)
    trained = (*demonstrated, *collected) if request.stage == "sft" else request.tasks
    others = tuple(task for task in demonstrated if task not in trained)
    # Every job has seeds of its own, as long as there are any.
    most = gate.episodes * gate.looks
    seed = (order.number - 1) % (1_000_000 // most) * most
    return Plan(settings, trained, others, seed, tuple(str(episode.bag) for episode in held_out))


def usable(episodes: list[IndexedEpisode], order: Order) -> tuple[list[IndexedEpisode], list[IndexedEpisode]]:
    """Of some episodes D_e and D_RL, as far as a job learns from them.

    Raises:
        SettingsError: Neither for supervised learning, or no demonstration for a cycle.
    """
    wanted = order.request.tasks if order.request.stage == "sft" else ()
    known = [e for e in episodes if e.info is not None and (not wanted or _task(e.info) in wanted)]
    demonstrations = [episode for episode in known if episode.dataset == "D_e"]
    successes = [episode for episode in known if episode.dataset == "D_RL"]
    where = ", ".join(order.folders)
    if wanted and not (demonstrations or successes):
        raise SettingsError(f"no episode of {', '.join(wanted)} that is labelled as a success in {where}")
    if order.request.stage == "sft" and not (demonstrations or successes):
        raise SettingsError(f"no episode that is labelled as a success in {where}")
    if order.request.stage == "cycle" and not demonstrations:
        raise SettingsError(
            f"a cycle needs demonstrations: no successful episode of an expert or a person in {where}; "
            "record or label some, or ask for stage rl"
        )
    return demonstrations, successes


def _tasks(episodes: list[IndexedEpisode]) -> tuple[str, ...]:
    return tuple(sorted({_task(episode.info) for episode in episodes if episode.info is not None}))


def _task(info: EpisodeInfo) -> str:
    return str(EvaluationTask(info.task, info.variation))
