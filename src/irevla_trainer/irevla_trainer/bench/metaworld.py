"""The paper's Table I on this machine: four methods on Meta-World, from the same stage 0, in resumable slices.

    sft         stage 0 alone
    ppo_replay  stage 1 trains the whole model, stage 2 as in iRe-VLA
    frozen      the backbone is frozen in stage 1 and in stage 2
    ire_vla     the backbone is frozen in stage 1 and learns in stage 2

Every method starts from the checkpoint that `sft` ends with and gets the same decisions per task at most, the same
stage 2 and the same evaluation. PPO-Replay has settings of its own for PPO.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from irevla_policy.durable import write_text
from irevla_policy.errors import RunError
from irevla_policy.paths import config_folder
from irevla_policy.settings import SettingsError, from_dict, load, setting, to_dict
from irevla_trainer.bench.result import BenchResult, Target
from irevla_trainer.loop.evaluation import CATEGORIES
from irevla_trainer.loop.paper import PAPER
from irevla_trainer.loop.settings import TrainFile
from irevla_trainer.report import Report
from irevla_trainer.rl.settings import PpoSettings
from irevla_trainer.statistics import Rate, paired_difference

METHODS = ("sft", "ire_vla", "frozen", "ppo_replay")
"""In the order in which they run."""

GOAL = {"ire_vla_expert": 0.90, "ire_vla_rl": 0.95, "ire_vla_unseen": 0.85}
"""What is aimed at beyond the targets."""

Results = Mapping[str, Sequence[Mapping[str, Any]]]
"""Method to the `result.json` of its runs, one for every seed."""

_TIME_TO_STOP = 120.0
"""s that an interrupted method gets to finish its iteration and save."""


@dataclass(frozen=True)
class Preset:
    """What `config/presets/metaworld-NAME.yaml` holds."""

    train: TrainFile = setting(doc="The run of iRe-VLA; the other methods are variations of it")
    demonstrations: int = setting(50, "Expert episodes per task", at_least=1)
    ppo_replay: PpoSettings = setting(
        factory=PpoSettings, doc="PPO of PPO-Replay's stage 1, which trains the whole model"
    )
    seeds: int = setting(1, "Runs of every method, whose test episodes are pooled", at_least=1)
    hours: float = setting(0.0, "Target for the wall time of all slices, h; 0 for none", at_least=0.0)


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
    base = dataclasses.replace(base, init=str(stage0))
    if method == "frozen":
        sft = dataclasses.replace(stage2.sft, trains="heads")
        return dataclasses.replace(base, stage2=dataclasses.replace(stage2, sft=sft))
    if method == "ppo_replay":
        return dataclasses.replace(base, stage1=dataclasses.replace(stage1, trains="model", ppo=preset.ppo_replay))
    return base


def run(
    preset: str = "cpu",
    out: Path | None = None,
    minutes: float = 60.0,
    seeds: int | None = None,
    device: str | None = None,
) -> BenchResult:
    """Run what is left of the benchmark, or as much of it as the slice allows.

    Args:
        preset: 'cpu' or 'full', or a YAML file.
        out: Folder of bags, runs and the report, runs/metaworld-PRESET by default; the same one continues.
        minutes: Length of the slice.
        seeds: Runs of every method instead of the preset's.
        device: Torch device instead of the preset's.

    Raises:
        RunError: The slice ended before the benchmark did (run it again), or a method failed.
        SettingsError: No such preset, or the folder holds results of other settings.
    """
    path = Path(preset)
    path = path if path.suffix in (".yaml", ".yml") else config_folder() / "presets" / f"metaworld-{preset}.yaml"
    wanted = load(Preset, path)
    if device is not None:
        wanted = dataclasses.replace(wanted, train=dataclasses.replace(wanted.train, device=device))
    runs = [(seed, method) for seed in range(seeds or wanted.seeds) for method in METHODS]
    out = out or Path("runs") / f"metaworld-{path.stem.removeprefix('metaworld-')}"
    out.mkdir(parents=True, exist_ok=True)
    slices = _Slice(out, minutes)
    bags = out / "bags"
    tasks = ",".join(wanted.train.tasks.expert)
    episodes = str(wanted.demonstrations)
    words = ["collect", "--task", tasks, "--episodes", episodes, "--robot", wanted.train.robot, "--out", str(bags)]
    # Bags that are there already are only looked at.
    slices.work("collect", words)
    results: dict[str, list[Any]] = {method: [] for method in METHODS}
    for seed, method in runs:
        folder = out / f"seed-{seed}" / method
        settings = settings_of(method, wanted, bags, folder.with_name("sft") / "checkpoint", seed)
        if not (folder / "result.json").is_file():
            file = folder.with_suffix(".yaml")
            file.parent.mkdir(exist_ok=True)
            file.write_text(yaml.safe_dump(to_dict(settings), sort_keys=False))
            words = ["train", "--config", str(file), "--out", str(folder)]
            started = (folder / "config.yaml").is_file()
            slices.work(f"{method}, seed {seed}", words + (["--resume"] if started else []))
        results[method].append(_result(folder, settings))
        _check_start(folder, results[method][-1], results["sft"][-1])
    result = table(results, slices.seconds, wanted.hours)
    result.details["preset"] = to_dict(wanted)
    write_report(out / "report.html", results, result)
    return result


def _result(folder: Path, settings: TrainFile) -> dict[str, Any]:
    """The result of a finished run, if it is one of these settings."""
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    # Settings that came up since then are at their defaults in it.
    wanted, had = to_dict(settings), to_dict(from_dict(TrainFile, found["settings"], str(folder / "result.json")))
    changed = sorted(key for key in wanted if wanted[key] != had[key])
    if changed:
        raise SettingsError(
            f"--out: {folder} was run with other settings ({', '.join(changed)}); choose another folder"
        )
    return found


def _check_start(folder: Path, result: Mapping[str, Any], sft: Mapping[str, Any]) -> None:
    """Refuse a run that did not start from this stage 0."""
    start = result["steps"]["00-stage0"].get("init", sft["selected"]["version"])
    if start != sft["selected"]["version"]:
        raise SettingsError(
            f"--out: {folder} started from checkpoint {start}, stage 0 is now {sft['selected']['version']}; "
            "choose another folder"
        )


class _Slice:
    """Runs commands one after the other until the slice is over; remembers what they took in all slices."""

    def __init__(self, out: Path, minutes: float) -> None:
        self._file = out / "seconds.json"
        self._end = time.monotonic() + 60.0 * minutes
        self._minutes = minutes
        self.seconds: dict[str, float] = json.loads(self._file.read_text()) if self._file.is_file() else {}

    def work(self, name: str, words: list[str]) -> None:
        """Run a command of `irevla`, or what is left of it.

        Raises:
            RunError: The slice is over, or the command failed.
        """
        started = time.monotonic()
        process = subprocess.Popen([sys.executable, "-m", "irevla_trainer.cli", *words])
        over = False
        try:
            process.wait(max(self._end - started, 0.1))
        except subprocess.TimeoutExpired:
            over = True
            process.send_signal(signal.SIGINT)
            try:
                process.wait(_TIME_TO_STOP)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        except BaseException:
            process.send_signal(signal.SIGINT)
            process.wait()
            raise
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started
            write_text(self._file, json.dumps(self.seconds, indent=2) + "\n")
        if process.returncode != 0 and over:
            raise RunError(f"the slice of {self._minutes:g} minutes is over in {name!r}; the same command goes on")
        if process.returncode != 0:
            raise RunError(f"{name!r} failed with exit code {process.returncode}: irevla {' '.join(words)}")


def table(results: Results, seconds: Mapping[str, float], hours: float = 0.0) -> BenchResult:
    """Figures and targets of the methods' results.

    METHOD_CATEGORY is the success rate over all test episodes of the category; ire_vla_minus_METHOD_CATEGORY the
    difference on the same seeds, with `_low` and `_high` its paired 95 % interval.

    Args:
        results: Method to the `result.json` of its runs.
        seconds: What to the wall time that it took.
        hours: Target for all of it; 0 for none.
    """
    figures: dict[str, float] = {}
    details: dict[str, Any] = {"intervals": {}, "tasks": {}, "paper": PAPER, "goal": GOAL}
    for method in METHODS:
        details["tasks"][method] = {}
        for category in CATEGORIES:
            pooled = rate(outcomes(results[method], category))
            figures[f"{method}_{category}"] = round(pooled.value, 4)
            details["intervals"][f"{method}_{category}"] = [round(bound, 4) for bound in pooled.interval()]
            for task in results[method][0]["test"][category]["tasks"]:
                details["tasks"][method][task] = rate(outcomes(results[method], category, task)).to_json()
    for other in ("sft", "ppo_replay", "frozen"):
        lows = []
        for category in CATEGORIES:
            difference, low, high = paired_difference(
                outcomes(results[other], category), outcomes(results["ire_vla"], category)
            )
            name = f"ire_vla_minus_{other}_{category}"
            figures |= {name: round(difference, 4), f"{name}_low": round(low, 4), f"{name}_high": round(high, 4)}
            lows.append(low)
        figures[f"ire_vla_minus_{other}_best_low"] = round(max(lows), 4)
    figures["hours"] = round(sum(seconds.values()) / 3600, 3)
    details["seconds"] = {name: round(value, 1) for name, value in seconds.items()}
    details["selected"] = {method: [run["selected"]["step"] for run in results[method]] for method in METHODS}
    details["decisions"] = {method: [_decisions(run) for run in results[method]] for method in METHODS}
    details["validation"] = {method: [_validation(run) for run in results[method]] for method in METHODS}
    return BenchResult("metaworld", figures, _targets(hours), details)


def outcomes(runs: Sequence[Mapping[str, Any]], category: str, task: str = "") -> list[bool]:
    """Success of every test episode of a category or of one of its tasks, in the order of runs, tasks and seeds."""
    return [
        bool(ended)
        for run in runs
        for name, values in run["test"][category]["tasks"].items()
        if task in ("", name)
        for ended in values["outcomes"]
    ]


def rate(ended: Sequence[bool]) -> Rate:
    """Success over episodes."""
    return Rate(sum(ended), len(ended))


def _decisions(run: Mapping[str, Any]) -> int:
    """Decisions of reinforcement learning."""
    return sum(step.get("decisions", 0) for name, step in run["steps"].items() if "stage1" in name)


def _validation(run: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Step to success per category on validation seeds: how the run went."""
    return {
        step: {category: round(values["success"], 4) for category, values in categories.items()}
        for step, categories in run["validation"].items()
    }


def _targets(hours: float) -> dict[str, Target]:
    targets = {
        "sft_expert": Target(">=", 0.80),
        "ire_vla_rl": Target(">=", 0.85),
        "ire_vla_minus_sft_rl": Target(">=", 0.30),
        "ire_vla_minus_sft_unseen": Target(">=", 0.15),
        "ire_vla_minus_sft_expert_high": Target(">=", 0.0),
    }
    if hours:
        targets["hours"] = Target("<=", hours)
    for other in ("ppo_replay", "frozen"):
        # Not below in any category, and above in at least one, as far as the paired intervals tell.
        targets |= {f"ire_vla_minus_{other}_{category}_high": Target(">=", 0.0) for category in CATEGORIES}
        targets[f"ire_vla_minus_{other}_best_low"] = Target(">=", 0.001)
    return targets


def write_report(path: Path, results: Results, result: BenchResult) -> None:
    """The table with the paper's beside it, as `report.html`, and its first chart beside that as `table.svg`."""
    report = Report("Meta-World: four methods from one stage 0", "Success on test seeds, 95 % Wilson intervals")
    methods = {
        method: [
            (found.value, *found.interval())
            for found in (rate(outcomes(results[method], category)) for category in CATEGORIES)
        ]
        for method in METHODS
    }
    report.bars(CATEGORIES, methods, y="success")
    write_text(path.with_name("table.svg"), report.charts[-1])

    def bars(category: str, place: int) -> dict[str, list[tuple[float, float, float]]]:
        here = [rate(outcomes(results[method], category)) for method in METHODS]
        paper = [PAPER[method][place] for method in METHODS]
        return {
            "here": [(found.value, *found.interval()) for found in here],
            "paper (its own tasks and model)": [(value, value, value) for value in paper],
        }

    for place, category in enumerate(CATEGORIES):
        report.section(f"{category} tasks")
        report.bars(METHODS, bars(category, place), y="success")
        rows = [
            [task, *(str(rate(outcomes(results[method], category, task))) for method in METHODS)]
            for task in results["sft"][0]["test"][category]["tasks"]
        ]
        report.table(["task", *METHODS], rows)
    report.section("Figures and targets")
    report.table(
        ["figure", "value", "target"],
        [[name, f"{value:.3f}", _target(result, name)] for name, value in result.figures.items()],
    )
    report.write(path)


def _target(result: BenchResult, name: str) -> str:
    target = result.targets.get(name)
    if target is None:
        return ""
    return f"{target.sense} {target.value:g}: {'holds' if target.holds(result.figures[name]) else 'MISSED'}"
