"""Four methods from one stage 0, as in the paper's tables: what each of them is, and their runs, some at a time.

    sft         stage 0 alone
    ppo_replay  stage 1 trains the whole model, stage 2 as in iRe-VLA
    frozen      the backbone is frozen in stage 1 and in stage 2
    ire_vla     the backbone is frozen in stage 1 and learns in stage 2

Every method starts from the checkpoint that `sft` ends with and gets per task the same decisions and updates of stage 2
at most, and the same evaluation. PPO-Replay has settings of its own for PPO; a method may share out what it gets per
task among several visits.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from irevla_policy.paths import config_folder
from irevla_policy.settings import SettingsError, load, setting, to_dict
from irevla_policy.sim.tasks import load_tasks
from irevla_trainer.bench.comparison import CATEGORY_COLUMNS, METHODS, Column, Results, write_report
from irevla_trainer.bench.result import BenchResult
from irevla_trainer.bench.slices import Slice
from irevla_trainer.loop.check import check
from irevla_trainer.loop.settings import TrainFile, changed_settings
from irevla_trainer.rl.settings import PpoSettings


@dataclass(frozen=True)
class Preset:
    """What `config/presets/BENCHMARK-NAME.yaml` holds."""

    train: TrainFile = setting(doc="The run of iRe-VLA; the other methods are variations of it")
    demonstrations: int = setting(50, "Expert episodes per task", at_least=1)
    few: dict[str, int] = setting(factory=dict, doc="Expert tasks with another number of episodes, to that number")
    ppo_replay: PpoSettings = setting(
        factory=PpoSettings, doc="PPO of PPO-Replay's stage 1, which trains the whole model"
    )
    visits: dict[str, int] = setting(
        factory=dict,
        doc="Methods that learn every RL task so often in a row, each time with its part of the decisions and of the "
        "updates of stage 2",
    )
    seeds: int = setting(1, "Runs of every method, whose test episodes are pooled", at_least=1)
    parallel: int = setting(
        1, "Runs at a time, each with its part of the cores unless train.threads is set", at_least=1
    )
    hours: float = setting(
        0.0,
        "Target for the wall time of all slices, h, with as many seeds as the preset has; 0 for none",
        at_least=0.0,
    )

    def __post_init__(self) -> None:
        for task, episodes in self.few.items():
            if task not in self.train.tasks.expert:
                raise SettingsError(f"few: {task!r} is none of train.tasks.expert")
            if episodes < 1:
                raise SettingsError(f"few: {task}: must be at least 1, found {episodes}")
        for method, visits in self.visits.items():
            if method not in METHODS[1:]:
                raise SettingsError(f"visits: expected one of {', '.join(METHODS[1:])}, found {method!r}")
            decisions = self.train.stage1.decisions
            most = min(decisions, self.train.stage2.sft.steps or decisions)
            if not 1 <= visits <= most:
                raise SettingsError(
                    f"visits: {method}: must be in [1, {most}], one decision and one update each, found {visits}"
                )
            if visits > 1 and self.train.stage1.iterations:
                raise SettingsError(f"visits: {method}: share out decisions; leave train.stage1.iterations out")


_COLLECT = "collect"
"""What recording demonstrations is called in the account of time."""


@dataclass(frozen=True)
class Comparison:
    """All methods' runs.

    Attributes:
        preset: What was run.
        out: Where.
        results: Method to the `result.json` of its runs.
        seconds: What of it to its share of the wall time of all slices.
    """

    preset: Preset
    out: Path
    results: Results
    seconds: Mapping[str, float]


def preset_path(benchmark: str, name: str) -> Path:
    """The file of a preset of a benchmark: one by its name, or a YAML file itself."""
    path = Path(name)
    return path if path.suffix in (".yaml", ".yml") else config_folder() / "presets" / f"{benchmark}-{name}.yaml"


def load_preset(benchmark: str, name: str) -> Preset:
    """A preset of a benchmark by its name, or a YAML file."""
    return load(Preset, preset_path(benchmark, name))


def settings_of(method: str, preset: Preset, bags: Path, stage0: Path, seed: int = 0) -> TrainFile:
    """A method's run.

    Args:
        method: One of `METHODS`.
        preset: The preset.
        bags: Folder with the demonstrations.
        stage0: Checkpoint of stage 0, which all methods but `sft` start from.
        seed: Of the run.
    """
    base = dataclasses.replace(preset.train, bags=(str(bags),), seed=seed)
    stage1, stage2 = base.stage1, base.stage2
    if method == "sft":
        return dataclasses.replace(base, stage1=dataclasses.replace(stage1, enabled=False))
    visits = preset.visits.get(method, 1)
    stage1 = dataclasses.replace(stage1, decisions=stage1.decisions // visits)
    sft = dataclasses.replace(stage2.sft, steps=stage2.sft.steps // visits, epochs=stage2.sft.epochs / visits)
    stage2 = dataclasses.replace(stage2, sft=sft)
    base = dataclasses.replace(base, init=str(stage0), stage1=stage1, stage2=stage2, visits=base.visits * visits)
    if method == "frozen":
        sft = dataclasses.replace(stage2.sft, trains="heads")
        return dataclasses.replace(base, stage2=dataclasses.replace(stage2, sft=sft))
    if method == "ppo_replay":
        return dataclasses.replace(base, stage1=dataclasses.replace(stage1, trains="model", ppo=preset.ppo_replay))
    return base


def compare(
    benchmark: str,
    preset: str,
    out: Path | None,
    minutes: float,
    seeds: int | None,
    device: str | None,
    parallel: int | None,
    methods: Sequence[str] = METHODS,
    columns: Sequence[Column] = CATEGORY_COLUMNS,
) -> Comparison:
    """Run what is left of a benchmark, or as much of it as the slice allows.

    Args:
        benchmark: Its name, which begins those of its presets.
        preset: Name of the preset, or a YAML file.
        out: Folder of bags and runs, runs/BENCHMARK-PRESET by default; the same one continues.
        minutes: Length of the slice.
        seeds: Runs of every method instead of the preset's.
        device: Torch device instead of the preset's.
        parallel: Runs at a time instead of the preset's.
        methods: Which, `sft` first.
        columns: Of the table, which the preset must have tasks for.

    Raises:
        RunError: The slice ended before the benchmark did (run it again), or a method failed.
        SettingsError: No such preset, one that does not fit the table or this machine, or the folder holds results of
            other settings.
    """
    wanted = load_preset(benchmark, preset)
    if device is not None:
        wanted = dataclasses.replace(wanted, train=dataclasses.replace(wanted.train, device=device))
    _check_columns(wanted.train, columns, preset)
    out = out or Path("runs") / f"{benchmark}-{Path(preset).stem.removeprefix(f'{benchmark}-')}"
    out.mkdir(parents=True, exist_ok=True)
    slices = Slice(out, minutes, parallel or wanted.parallel)
    runs = [_Run(out, method, wanted, seed) for seed in range(seeds or wanted.seeds) for method in methods]
    found = {run.name: run.result() for run in runs if run.finished}
    left = [run.settings() for run in runs if run.name not in found]
    if left:  # all have the same tasks, worlds and device
        check(left[0], preset_path(benchmark, preset), recorded=False, started=False)
    for number, words in enumerate(_collecting(wanted, out / "bags")):
        slices.run({_COLLECT if number == 0 else f"{_COLLECT} {number + 1}": words})
    _check_bags(wanted, out / "bags")
    # All others start from what stage 0 of their seed comes to.
    for together in ([run for run in runs if run.method == "sft"], [run for run in runs if run.method != "sft"]):
        slices.run({run.name: run.words() for run in together if run.name not in found})
        found |= {run.name: run.result() for run in runs if run.finished}
    results = {method: [found[run.name] for run in runs if run.method == method] for method in methods}
    names = {run.name for run in runs}
    spent = {name: value for name, value in slices.seconds.items() if name in names or name.startswith(_COLLECT)}
    return Comparison(wanted, out, results, spent)


@dataclass(frozen=True)
class _Run:
    """A method's run with a seed, in a folder of its own."""

    out: Path
    method: str
    preset: Preset
    seed: int

    @property
    def name(self) -> str:
        return f"{self.method}, seed {self.seed}"

    @property
    def folder(self) -> Path:
        return self.out / f"seed-{self.seed}" / self.method

    @property
    def finished(self) -> bool:
        return (self.folder / "result.json").is_file()

    def settings(self) -> TrainFile:
        stage0 = self.folder.with_name("sft") / "checkpoint"
        return settings_of(self.method, self.preset, self.out / "bags", stage0, self.seed)

    def words(self) -> list[str]:
        """The command that runs it, or what is left of it; writes the file that it reads."""
        file = self.folder.with_suffix(".yaml")
        file.parent.mkdir(exist_ok=True)
        file.write_text(yaml.safe_dump(to_dict(self.settings()), sort_keys=False))
        started = (self.folder / "config.yaml").is_file()
        return ["train", "--config", str(file), "--out", str(self.folder)] + (["--resume"] if started else [])

    def result(self) -> dict[str, Any]:
        """What it came to.

        Raises:
            SettingsError: It is of other settings, or started from another stage 0.
        """
        found: dict[str, Any] = json.loads((self.folder / "result.json").read_text())
        settings = self.settings()
        unused = () if settings.stage1.enabled else ("stage1", "stage2", "visits", "rounds")
        differing = changed_settings(found["settings"], settings, str(self.folder / "result.json"))
        changed = [key for key in differing if key not in unused]
        if changed:
            raise SettingsError(
                f"--out: {self.folder} was run with other settings ({', '.join(changed)}); choose another folder"
            )
        stage0 = self.folder.with_name("sft") / "result.json"
        if self.method != "sft" and stage0.is_file():
            start = found["steps"]["00-stage0"]["init"]
            now = json.loads(stage0.read_text())["selected"]["version"]
            if start != now:
                raise SettingsError(
                    f"--out: {self.folder} started from checkpoint {start}, stage 0 is now {now}; choose another folder"
                )
        return found


def tabulate(
    found: Comparison,
    table: Callable[[Results, Mapping[str, float], float], BenchResult],
    title: str,
    columns: Sequence[Column],
    paper: Mapping[str, Mapping[str, float]],
) -> BenchResult:
    """The result of all methods' runs, with the report beside them.

    Args:
        found: The runs.
        table: Results, seconds and the target for all of them in hours (0 for none) to figures and targets.
        title: Of the report.
        columns: What it shows in bars.
        paper: Method to column to the paper's success rate, where it has one.
    """
    # Asked for more seeds than the preset has, it may take as much longer.
    hours = found.preset.hours * len(found.results["sft"]) / found.preset.seeds
    result = table(found.results, found.seconds, hours)
    result.details["preset"] = to_dict(found.preset)
    write_report(found.out / "report.html", title, found.results, result, columns, paper)
    return result


def _numbers(preset: Preset) -> dict[str, int]:
    """Expert task to how many demonstrations of it are learnt from."""
    return {task: preset.few.get(task, preset.demonstrations) for task in preset.train.tasks.expert}


def _check_columns(train: TrainFile, columns: Sequence[Column], preset: str) -> None:
    """Refuse a preset that leaves a column of the table empty."""
    if not train.evaluates:
        raise SettingsError(f"{preset}: train: a table needs worlds to evaluate in, found worlds_in: {train.worlds_in}")
    for column in columns:
        members = getattr(train.tasks, column.category)
        if not members or column.task not in ("", *members):
            wanted = repr(column.task) if column.task else "a task"
            raise SettingsError(
                f"{preset}: train.tasks.{column.category}: expected {wanted}, which the table has a column for; found "
                f"{', '.join(members) or 'none'}"
            )


def _check_bags(preset: Preset, bags: Path) -> None:
    """Refuse demonstrations that an earlier preset wanted: a run learns from all that lie there."""
    for task, number in _numbers(preset).items():
        # Longer names are recordings that were interrupted and set aside.
        found = len(list(bags.glob(f"{task}_{'[0-9]' * 6}")))
        if found > number:
            raise SettingsError(
                f"--out: {bags} has {found} demonstrations of {task}, the preset wants {number}; choose another folder"
            )


def _collecting(preset: Preset, bags: Path) -> list[list[str]]:
    """Commands that record the demonstrations, one for each number of episodes; bags that are there are kept."""
    numbers = _numbers(preset)
    world = load_tasks(preset.train.task_file).world
    return [
        ["collect", "--world", world, "--task", ",".join(task for task in numbers if numbers[task] == number),
         "--episodes", str(number), "--robot", preset.train.robot, "--out", str(bags)]
        for number in dict.fromkeys(numbers.values())
    ]  # fmt: skip
