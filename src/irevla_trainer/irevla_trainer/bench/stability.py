"""How steady stage 1 is: heads on a frozen backbone (iRe-VLA) against other ways to learn, from the same checkpoint.

All get the same tasks, decisions and numbers of learning rates to choose from: those that an actor and a backbone
begin with, PPO then adapts them. The choice for each is made on a seed of its own by the mean success on the practised
task at the end of shorter runs; then every other seed runs with it. Success is measured without noise, on many
episodes: on the practised task at several points of each run, and at its end on the tasks that the policy knew before
and that the stage does not practise. A run's drawdown is the deepest fall of either below its start.

Every run depends on nothing but its way, task, learning rate and seed, so several can go on at a time.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from irevla_policy.durable import write_text
from irevla_policy.errors import RunError
from irevla_policy.model.checkpoint import check_fits, checkpoint_version, load_checkpoint, read_config
from irevla_policy.model.device import require_device
from irevla_policy.model.policy import VLAPolicy
from irevla_policy.paths import config_folder
from irevla_policy.robot.profile import load_profile
from irevla_policy.settings import SettingsError, load, setting, to_dict
from irevla_policy.sim.tasks import load_tasks
from irevla_trainer.bench.result import BenchResult, Target
from irevla_trainer.data.reader import Episode
from irevla_trainer.evaluate import EvaluationTask, evaluate
from irevla_trainer.learn.decisions import Decisions
from irevla_trainer.learn.settings import TRAINS
from irevla_trainer.loop.recorded import load_recorded
from irevla_trainer.loop.settings import Stage1Settings, TaskSets, TrainFile
from irevla_trainer.loop.stage1 import stage_1, take_last, validation_seeds
from irevla_trainer.report import Curve, Panel, Report
from irevla_trainer.rl.algorithm import DivergedError
from irevla_trainer.rl.settings import PpoSettings
from irevla_trainer.rl.worlds import Worlds
from irevla_trainer.seeds import episode_seeds

_SWEEP_SEED = 100
_OF_WAYS = ("algorithm", "trains", "ppo", "sacfd")
"""Settings of stage 1 that are not the study's."""
_SMALLEST = 0.01
"""Added to both sides of a ratio, success, so that it is finite where nothing falls; it pulls small ones towards 1."""


@dataclass(frozen=True)
class Way:
    """A way to learn on a task."""

    trains: str = setting("heads", "What learns: the heads on a frozen backbone, or the whole model", choices=TRAINS)
    ppo: PpoSettings = setting(factory=PpoSettings, doc="Settings of PPO")


@dataclass(frozen=True)
class Study:
    """What `config/presets/stability.yaml` holds."""

    tasks: tuple[str, ...] = setting(doc="Tasks, each TASK or TASK:VARIATION")
    known: tuple[str, ...] = setting(
        doc="Tasks that the checkpoint knows, looked at when a run ends; ways that rehearse do so with their "
        "demonstrations"
    )
    ways: dict[str, Way] = setting(doc="What is compared by name, the first with each of the others")
    seeds: int = setting(5, "Runs of each way on each task", at_least=2, at_most=_SWEEP_SEED)
    factors: tuple[float, ...] = setting(
        (0.3, 1.0, 3.0), "Learning rates of actor and backbone to choose from, relative to the way's own"
    )
    sweep_decisions: int = setting(6000, "Decisions of each run that a learning rate is chosen by", at_least=1)
    known_episodes: int = setting(10, "Episodes of each of them", at_least=1)
    stage1: Stage1Settings = setting(
        factory=lambda: Stage1Settings(validation_episodes=200, converged=2.0),
        doc="The stage; what learns and how is the ways' own",
    )
    robot: str = setting("sawyer", "Robot profile, name or file")
    worlds: int = setting(16, "Worlds, each in a process of its own", at_least=1)

    def __post_init__(self) -> None:
        for name in ("tasks", "known"):
            if not getattr(self, name):
                raise SettingsError(f"{name}: expected at least one task")
        if len(self.ways) < 2:
            raise SettingsError(f"ways: expected at least two to compare, found {', '.join(self.ways) or 'none'}")
        for name in _OF_WAYS:
            if getattr(self.stage1, name) != getattr(Stage1Settings(), name):
                raise SettingsError(f"stage1: {name}: leave it out, every way has its own PPO")
        if len({way.ppo.episodes for way in self.ways.values()}) > 1:
            raise SettingsError("ways: ppo: episodes must be the same for all, which are looked at equally often")
        strange = [name for name in self.ways if not name.isidentifier()]
        if strange:
            raise SettingsError(f"ways: expected names of letters, digits and underscores, found {strange[0]!r}")

    @property
    def rehearsing(self) -> list[str]:
        """Ways that rehearse demonstrations."""
        return [name for name, way in self.ways.items() if way.ppo.rehearsal_weight]


@dataclass(frozen=True)
class Planned:
    """A run of stage 1.

    Attributes:
        way: Name of one of the study's ways.
        task: That it practises.
        factor: Of the learning rates.
        seed: Of everything that is drawn.
    """

    way: str
    task: str
    factor: float
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.way}-{self.task.replace(':', '-')}-{self.factor:g}-{self.seed}"


@dataclass(frozen=True)
class Course:
    """How a run went.

    Attributes:
        success: On the practised task at every point, the start first.
        known: On the known tasks at the end; empty where it was not measured, else one value.
        device: It ran on: slices of a study may have different ones.
    """

    success: list[float]
    known: list[float]
    device: str = ""


def run(
    checkpoint: Path,
    out: Path = Path("runs/stability"),
    minutes: float = 60.0,
    device: str = "cpu",
    parallel: int = 1,
    bags: Path | None = None,
) -> BenchResult:
    """Run what is left of the study, or as much of it as the slice allows.

    Args:
        checkpoint: What all runs start from.
        out: Folder of the runs; the same one continues.
        minutes: Length of the slice; a run that has begun is finished.
        device: Torch device of the policies.
        parallel: Runs at a time, each with its own worlds and threads; more than one pays with two cores already.
        bags: Folder with demonstrations of the known tasks, for the ways that rehearse them.

    Raises:
        RunError: The slice ended before the study did; the same command goes on.
        SettingsError: The folder is that of another checkpoint, study or set of demonstrations; or a way rehearses and
            no bags are given, or bags without a demonstration of a known task.
        UserError: No such device, or no such bags.
    """
    study = load(Study, config_folder() / "presets" / "stability.yaml")
    require_device(device)
    _, robot, _ = read_config(checkpoint)
    check_fits(checkpoint, robot, load_profile(study.robot))
    if study.rehearsing and bags is None:
        way = study.rehearsing[0]
        raise SettingsError(f"--bags: expected a folder with demonstrations of the known tasks, which {way} rehearses")
    version = checkpoint_version(checkpoint)
    place = _Place(study, checkpoint, out, time.monotonic() + 60.0 * minutes, device, bags)
    _claim(out, _identity(study, version))
    demonstrations = place.demonstrations()
    _claim(out, _ways(study, demonstrations))
    with Worlds(load_profile(study.robot), study.worlds, load_tasks()) as worlds:
        runs = _Runs(place, worlds, demonstrations)
        for task in study.tasks:
            runs.start(task)
        if parallel == 1:
            result = analyse(study, runs.known, lambda plan: [runs.measured(one) for one in plan], version)
        else:
            with _pool(place, parallel) as pool, _ended_at_once():
                result = analyse(study, runs.known, lambda plan: list(pool.map(_measured, plan)), version)
    shutil.rmtree(place.cache, ignore_errors=True)
    write_report(out / "report.html", result)
    return result


def _identity(study: Study, version: str) -> dict[str, Any]:
    """What all runs depend on, beside their way, task, learning rate and seed."""
    plain = to_dict(study)
    for name in ("ways", "tasks", "seeds", "factors"):
        del plain[name]
    for name in _OF_WAYS:
        del plain["stage1"][name]
    return {"checkpoint": version} | plain


def _ways(study: Study, demonstrations: Sequence[Episode]) -> dict[str, Any]:
    """What the runs of each way depend on, its demonstrations among it where it rehearses them."""
    data = {"demonstrations (--bags)": Decisions(demonstrations, ()).fingerprint()}
    return {
        f"way {name}": to_dict(way) | (data if name in study.rehearsing else {}) for name, way in study.ways.items()
    }


def _claim(out: Path, identity: dict[str, Any]) -> None:
    """Say whose runs are in the folder, and refuse those of others; further ways may join."""
    file = out / "study.json"
    found = json.loads(file.read_text()) if file.is_file() else {}
    for key in identity:
        changed = _difference(found[key], identity[key]) if key in found else None
        if changed is not None:
            what = ": ".join((key, *changed))
            raise SettingsError(f"--out: {out} holds the runs of another study ({what}); choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(found | identity, indent=2) + "\n")


def _difference(found: Any, wanted: Any) -> tuple[str, ...] | None:
    """Keys that lead to the first difference; None where there is none."""
    if not (isinstance(found, dict) and isinstance(wanted, dict)):
        return None if found == wanted else ()
    for key in {**found, **wanted}:
        inner = _difference(found.get(key), wanted.get(key))
        if inner is not None:
            return (key, *inner)
    return None


@dataclass(frozen=True)
class _Place:
    """Where a study runs, for this process and others.

    Attributes:
        study: What is run.
        checkpoint: What all runs start from.
        out: Folder of the runs.
        end: Of the slice, s of the machine's monotonic clock, which all processes share.
        device: Torch device.
        bags: Folder with demonstrations.
    """

    study: Study
    checkpoint: Path
    out: Path
    end: float
    device: str
    bags: Path | None

    def policy(self) -> VLAPolicy:
        """What all runs start from."""
        return load_checkpoint(self.checkpoint).to(self.device)

    @property
    def cache(self) -> Path:
        """Folder of decoded demonstrations."""
        return self.out / "cache"

    def demonstrations(self) -> list[Episode]:
        """Of the known tasks, decoded once for all processes and slices; none where nobody rehearses."""
        study = self.study
        if self.bags is None or not study.rehearsing:
            return []
        bags = TrainFile(TaskSets(expert=study.known), bags=(str(self.bags),), robot=study.robot)
        return load_recorded(bags, load_profile(study.robot), self.cache).experts


_here: _Runs
"""Of a process of the pool."""


def _pool(place: _Place, processes: int) -> ProcessPoolExecutor:
    """Processes that each have worlds of their own and a share of the cores."""
    threads = max(torch.get_num_threads() // processes, 1)
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(processes, spawn, _settle_in, (place, threads))


@contextmanager
def _ended_at_once() -> Iterator[None]:
    """End the processes of the pool when this one is asked to stop, not once all their runs are done.

    What they have saved after every iteration, the next slice goes on from.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        for process in multiprocessing.active_children():
            process.terminate()
        raise


def _settle_in(place: _Place, threads: int) -> None:
    global _here
    torch.set_num_threads(threads)
    worlds = Worlds(load_profile(place.study.robot), place.study.worlds, load_tasks())
    _here = _Runs(place, worlds, place.demonstrations())


def _measured(planned: Planned) -> Course:
    return _here.measured(planned)


@dataclass(frozen=True)
class _Runs:
    """The runs of a study, each done once."""

    place: _Place
    worlds: Worlds
    demonstrations: list[Episode]

    def known(self) -> float:
        """Success of the checkpoint on the known tasks."""
        return self._once("start-known.json", lambda: Course([], self._known(self.place.policy()))).known[0]

    def start(self, task: str) -> float:
        """Success of the checkpoint on a task, where all runs on it start."""

        def measure() -> Course:
            seeds = validation_seeds(self.place.study.stage1)
            [result] = evaluate(self.place.policy(), self.worlds, [EvaluationTask.parse(task)], seeds)
            return Course([result.rate.value], [])

        return self._once(f"start-{task.replace(':', '-')}.json", measure).success[0]

    def measured(self, planned: Planned) -> Course:
        """One run, from the disk when it was run before."""
        return self._once(f"{planned.name}/success.json", lambda: self._run(planned))

    def _run(self, planned: Planned) -> Course:
        study, folder = self.place.study, self.place.out / planned.name
        way = study.ways[planned.way]
        ppo = dataclasses.replace(
            way.ppo,
            actor_learning_rate=way.ppo.actor_learning_rate * planned.factor,
            backbone_learning_rate=way.ppo.backbone_learning_rate * planned.factor,
        )
        settings = dataclasses.replace(study.stage1, trains=way.trains, ppo=ppo)
        if planned.seed == _SWEEP_SEED:
            # Only its end counts.
            settings = dataclasses.replace(settings, decisions=study.sweep_decisions, validate_every=10**6)
        policy, task = self.place.policy(), EvaluationTask.parse(planned.task)
        start = self.start(planned.task)
        rehearsed, diverged = self.demonstrations, False
        try:
            stage_1(policy, task, self.worlds, settings, planned.seed, folder, start=start, rehearsed=rehearsed)
        except RunError as error:
            if not isinstance(error.__cause__, DivergedError):
                raise
            diverged = True
        shutil.rmtree(folder / "successes")
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        success = [line["validation_success"] for line in lines if "validation_success" in line]
        if diverged:
            # Nothing that could act is left.
            return Course([*success, 0.0], [0.0])
        known = []
        if planned.seed != _SWEEP_SEED:
            take_last(policy, folder)  # the stage leaves the best
            known = self._known(policy)
        return Course(success, known)

    def _known(self, policy: VLAPolicy) -> list[float]:
        tasks = [EvaluationTask.parse(task) for task in self.place.study.known]
        seeds = episode_seeds("validation", self.place.study.known_episodes)
        return [float(np.mean([result.rate.value for result in evaluate(policy, self.worlds, tasks, seeds)]))]

    def _once(self, name: str, measure: Callable[[], Course]) -> Course:
        """What a file of the study holds, or what is measured now."""
        file = self.place.out / name
        if file.is_file():
            return Course(**json.loads(file.read_text()))
        if time.monotonic() > self.place.end:
            raise RunError(f"the slice is over before {name}; the same command goes on")
        file.parent.mkdir(parents=True, exist_ok=True)
        course = dataclasses.replace(measure(), device=self.place.device)
        write_text(file, json.dumps(dataclasses.asdict(course)) + "\n")
        values = " ".join(f"{value:.2f}" for value in course.success)
        known = "".join(f" known {value:.2f}" for value in course.known)
        print(f"{name}: {values}{known}", flush=True)
        return course


def analyse(
    study: Study, known: Callable[[], float], measured: Callable[[list[Planned]], list[Course]], version: str
) -> BenchResult:
    """Choose the learning rates, run every seed and compare.

    Args:
        study: What to run.
        known: Success on the known tasks at the start.
        measured: Runs to how they went, in their order.
        version: Of the checkpoint.

    Returns:
        Figures of every way and of every other way against the first. The targets are those of the second way: of the
        ratios of drawdowns, of all and of the practised task alone.
    """
    swept = _by_run(
        measured,
        [
            Planned(way, task, factor, _SWEEP_SEED)
            for way in study.ways
            for factor in study.factors
            for task in study.tasks
        ],
    )
    sweep = {
        way: {
            factor: [swept[Planned(way, task, factor, _SWEEP_SEED)].success for task in study.tasks]
            for factor in study.factors
        }
        for way in study.ways
    }
    chosen = {
        way: max(factors, key=lambda factor: float(np.mean([run[-1] for run in factors[factor]])))
        for way, factors in sweep.items()
    }
    start = known()
    plan = {
        way: [[Planned(way, task, chosen[way], seed) for seed in range(study.seeds)] for task in study.tasks]
        for way in study.ways
    }
    done = _by_run(measured, [one for tasks in plan.values() for runs in tasks for one in runs])
    courses = {way: [[done[one] for one in runs] for runs in tasks] for way, tasks in plan.items()}
    practised = {way: [[run.success for run in runs] for runs in tasks] for way, tasks in courses.items()}
    kept = {way: [[[start, *run.known] for run in runs] for runs in tasks] for way, tasks in courses.items()}
    figures: dict[str, float] = {"known_start": round(start, 4)}
    reference, *others = study.ways
    falls = {way: _falls(practised[way], kept[way]) for way in study.ways}
    of_practised = {way: _falls(practised[way]) for way in study.ways}
    of_known = {way: _falls(kept[way]) for way in study.ways}
    ends = {way: _ends(practised[way]) for way in study.ways}
    for way in study.ways:
        figures |= {
            f"{way}_worst_drawdown": round(max(fall for runs in falls[way] for fall in runs), 4),
            f"{way}_mean_drawdown": round(_mean(falls[way]), 4),
            f"{way}_practised_drawdown": round(_mean(of_practised[way]), 4),
            f"{way}_end_spread": round(_spread(ends[way]), 4),
            f"{way}_end_success": round(_mean(ends[way]), 4),
            f"{way}_known_worst_end": round(min(run[-1] for runs in kept[way] for run in runs), 4),
            f"{way}_known_end": round(_mean(_ends(kept[way])), 4),
        }
    for way in others:
        for name, value in (
            ("drawdown_ratio", ratio(falls[way], falls[reference])),
            ("drawdown_difference", difference(falls[way], falls[reference])),
            ("practised_drawdown_ratio", ratio(of_practised[way], of_practised[reference])),
            ("known_drawdown_ratio", ratio(of_known[way], of_known[reference])),
            ("end_spread_ratio", ratio(ends[way], ends[reference], _spread)),
        ):
            for end, number in zip(("", "_low", "_high"), value, strict=True):
                figures[f"{way}_{name}{end}"] = round(number, 3)
    details: dict[str, Any] = {
        "checkpoint": version,
        "chosen_factors": chosen,
        "sweep": {way: {f"{factor:g}": runs for factor, runs in factors.items()} for way, factors in sweep.items()},
        "success": {way: dict(zip(study.tasks, practised[way], strict=True)) for way in study.ways},
        "devices": dict(Counter(run.device for tasks in courses.values() for runs in tasks for run in runs)),
        "known_end": {
            way: {task: [run[-1] for run in runs] for task, runs in zip(study.tasks, kept[way], strict=True)}
            for way in study.ways
        },
        "study": to_dict(study),
        "goal": {f"{others[0]}_drawdown_ratio": 3.2},
    }
    names = (f"{others[0]}_drawdown_ratio_low", f"{others[0]}_practised_drawdown_ratio_low")
    return BenchResult("stability", figures, {name: Target(">=", 1.001) for name in names}, details)


def _by_run(measured: Callable[[list[Planned]], list[Course]], plan: list[Planned]) -> dict[Planned, Course]:
    return dict(zip(plan, measured(plan), strict=True))


def write_report(path: Path, result: BenchResult) -> None:
    """Every run's success and the figures, as `report.html`, and the chart beside it as `stability.svg`."""
    report = Report("Stability of stage 1", "Success without noise on validation seeds, a line per seed")
    panels = [
        Panel(f"{task}: {way}", [Curve("", [float(place) for place in range(len(run))], run) for run in runs], (0, 1))
        for way, tasks in result.details["success"].items()
        for task, runs in tasks.items()
    ]
    report.panels(panels, x="validation", columns=len(result.details["study"]["tasks"]))
    write_text(path.with_name("stability.svg"), report.charts[-1])
    report.table(["figure", "value"], [[name, f"{value:.3f}"] for name, value in result.figures.items()])
    report.write(path)


def drawdown(success: Sequence[float]) -> float:
    """How far success fell below its start at worst, in [0, 1]; 0 when it never did."""
    return max(0.0, success[0] - min(success))


_Curves = list[list[list[float]]]
"""Task, seed and point to success, the start first."""


def _falls(*curves: _Curves) -> list[list[float]]:
    """Task and seed to the deepest drawdown of all that was measured of the run."""
    return [[max(map(drawdown, run)) for run in zip(*runs, strict=True)] for runs in zip(*curves, strict=True)]


def _ends(curves: _Curves) -> list[list[float]]:
    return [[run[-1] for run in runs] for runs in curves]


def _mean(values: list[list[float]]) -> float:
    return float(np.mean(values))


def _spread(values: list[list[float]]) -> float:
    """Standard deviation over the seeds, mean over the tasks."""
    return float(np.mean([np.std(runs) for runs in values]))


def ratio(
    above: list[list[float]], below: list[list[float]], measure: Callable[[list[list[float]]], float] = _mean
) -> tuple[float, float, float]:
    """Ratio of a measure of two ways, with a 95 % bootstrap interval over the seeds.

    Args:
        above: Task and seed to a value of the run, of the numerator.
        below: The same of the denominator.
        measure: All values to a number of at least 0.
    """
    return _bootstrap(above, below, lambda one, two: (measure(one) + _SMALLEST) / (measure(two) + _SMALLEST))


def difference(above: list[list[float]], below: list[list[float]]) -> tuple[float, float, float]:
    """Difference of the means of two ways, with a 95 % bootstrap interval over the seeds; arguments as of `ratio`."""
    return _bootstrap(above, below, lambda one, two: _mean(one) - _mean(two))


def _bootstrap(
    one: list[list[float]],
    other: list[list[float]],
    statistic: Callable[[list[list[float]], list[list[float]]], float],
    resamples: int = 10_000,
) -> tuple[float, float, float]:
    """Value and percentiles; seeds are drawn anew within each task and way. With five seeds the interval is narrow."""
    random = np.random.default_rng(0)

    def drawn(values: list[list[float]]) -> list[list[float]]:
        return [[runs[place] for place in random.integers(0, len(runs), len(runs))] for runs in values]

    values = [statistic(drawn(one), drawn(other)) for _ in range(resamples)]
    low, high = np.quantile(values, [0.025, 0.975])
    return statistic(one, other), float(low), float(high)
