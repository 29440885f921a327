"""The paper's Table I on this machine: four methods on Meta-World, from the same stage 0, in resumable slices.

    sft         stage 0 alone
    ppo_replay  stage 1 trains the whole model, stage 2 as in iRe-VLA
    frozen      the backbone is frozen in stage 1 and in stage 2
    ire_vla     the backbone is frozen in stage 1 and learns in stage 2

Every method starts from the checkpoint that `sft` ends with, and gets the same decisions, updates and episodes.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from irevla_policy.errors import RunError
from irevla_policy.paths import config_folder
from irevla_policy.settings import load, setting, to_dict
from irevla_trainer.bench.result import BenchResult, Target
from irevla_trainer.loop.evaluation import CATEGORIES
from irevla_trainer.loop.paper import PAPER
from irevla_trainer.loop.run import write_text
from irevla_trainer.loop.settings import TrainFile
from irevla_trainer.report import Report
from irevla_trainer.statistics import Rate, paired_difference

METHODS = ("sft", "ire_vla", "frozen", "ppo_replay")
"""In the order in which they run."""

_TIME_TO_STOP = 120.0
"""s that an interrupted method gets to finish its iteration and save."""


@dataclass(frozen=True)
class Preset:
    """What `config/presets/metaworld-NAME.yaml` holds."""

    train: TrainFile = setting(doc="The run of iRe-VLA; the other methods are variations of it")
    demonstrations: int = setting(50, "Expert episodes per task", at_least=1)
    backbone_learning_rate: float = setting(
        1e-5, "Learning rate of the backbone in PPO-Replay's stage 1", above=0.0, at_most=1.0
    )


def settings_of(method: str, preset: Preset, bags: Path, stage0: Path) -> TrainFile:
    """A method's run.

    Args:
        method: One of `METHODS`.
        preset: The preset.
        bags: Folder with the demonstrations.
        stage0: Checkpoint of stage 0, which all methods but `sft` start from.
    """
    base = dataclasses.replace(preset.train, bags=(str(bags),))
    stage1, stage2 = base.stage1, base.stage2
    if method == "sft":
        return dataclasses.replace(base, stage1=dataclasses.replace(stage1, enabled=False))
    base = dataclasses.replace(base, init=str(stage0))
    if method == "frozen":
        sft = dataclasses.replace(stage2.sft, trains="heads")
        return dataclasses.replace(base, stage2=dataclasses.replace(stage2, sft=sft))
    if method == "ppo_replay":
        ppo = dataclasses.replace(stage1.ppo, backbone_learning_rate=preset.backbone_learning_rate)
        return dataclasses.replace(base, stage1=dataclasses.replace(stage1, trains="model", ppo=ppo))
    return base


def run(preset: str = "cpu", out: Path = Path("runs/metaworld"), minutes: float = 60.0) -> BenchResult:
    """Run what is left of the benchmark, or as much of it as the slice allows.

    Args:
        preset: 'cpu' or 'full', or a YAML file.
        out: Folder of bags, runs and the report; the same one continues.
        minutes: Length of the slice.

    Raises:
        RunError: The slice ended before the benchmark did (run it again), or a method failed.
        SettingsError: No such preset.
    """
    path = Path(preset)
    path = path if path.suffix in (".yaml", ".yml") else config_folder() / "presets" / f"metaworld-{preset}.yaml"
    wanted = load(Preset, path)
    out.mkdir(parents=True, exist_ok=True)
    slices = _Slice(out, minutes)
    bags = out / "bags"
    tasks = ",".join(wanted.train.tasks.expert)
    episodes = str(wanted.demonstrations)
    # Bags that are there already are only looked at.
    slices.work("collect", ["collect", "--task", tasks, "--episodes", episodes, "--out", str(bags)])
    for method in METHODS:
        folder = out / method
        if (folder / "result.json").is_file():
            continue
        file = out / f"{method}.yaml"
        settings = settings_of(method, wanted, bags, out / "sft" / "checkpoint")
        file.write_text(yaml.safe_dump(to_dict(settings), sort_keys=False))
        words = ["train", "--config", str(file), "--out", str(folder)]
        started = (folder / "config.yaml").is_file()
        slices.work(method, words + (["--resume"] if started else []))
    results = {method: json.loads((out / method / "result.json").read_text()) for method in METHODS}
    result = table(results, slices.seconds)
    write_report(out / "report.html", results, result)
    return result


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


def table(results: Mapping[str, Any], seconds: Mapping[str, float]) -> BenchResult:
    """Figures and targets of the methods' results.

    METHOD_CATEGORY is the success rate over all test episodes of the category; ire_vla_minus_METHOD_CATEGORY the
    difference on the same seeds, with `_low` and `_high` its paired 95 % interval.
    """
    figures: dict[str, float] = {}
    details: dict[str, Any] = {"intervals": {}, "tasks": {}, "selected": {}, "paper": PAPER}
    for method in METHODS:
        details["selected"][method] = results[method]["selected"]["step"]
        details["tasks"][method] = {}
        for category in CATEGORIES:
            values = results[method]["test"][category]
            figures[f"{method}_{category}"] = round(values["success"], 4)
            details["intervals"][f"{method}_{category}"] = [values["low"], values["high"]]
            for task, of_task in values["tasks"].items():
                details["tasks"][method][task] = {key: of_task[key] for key in ("success", "low", "high", "episodes")}
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
    details["decisions"] = {
        method: sum(step.get("decisions", 0) for name, step in results[method]["steps"].items() if "stage1" in name)
        for method in METHODS
    }
    return BenchResult("metaworld", figures, _targets(), details)


def outcomes(result: Mapping[str, Any], category: str) -> list[bool]:
    """Success of every test episode of a category, in the order of tasks and seeds."""
    return [bool(ended) for task in result["test"][category]["tasks"].values() for ended in task["outcomes"]]


def _targets() -> dict[str, Target]:
    targets = {
        "sft_expert": Target(">=", 0.80),
        "ire_vla_rl": Target(">=", 0.85),
        "ire_vla_minus_sft_rl": Target(">=", 0.30),
        "ire_vla_minus_sft_unseen": Target(">=", 0.15),
        "ire_vla_minus_sft_expert_high": Target(">=", 0.0),
        "hours": Target("<=", 4.0),
    }
    for other in ("ppo_replay", "frozen"):
        # Not below in any category, and above in at least one, as far as the paired intervals tell.
        targets |= {f"ire_vla_minus_{other}_{category}_high": Target(">=", 0.0) for category in CATEGORIES}
        targets[f"ire_vla_minus_{other}_best_low"] = Target(">=", 0.001)
    return targets


def write_report(path: Path, results: Mapping[str, Any], result: BenchResult) -> None:
    """The table with the paper's beside it, as `report.html`."""
    report = Report("Meta-World: four methods from one stage 0", "Success on test seeds, 95 % Wilson intervals")

    def bars(category: str, place: int) -> dict[str, list[tuple[float, float, float]]]:
        here = [results[method]["test"][category] for method in METHODS]
        paper = [PAPER[method][place] for method in METHODS]
        return {
            "here": [(values["success"], values["low"], values["high"]) for values in here],
            "paper (its own tasks and model)": [(value, value, value) for value in paper],
        }

    for place, category in enumerate(CATEGORIES):
        report.section(f"{category} tasks")
        report.bars(METHODS, bars(category, place), y="success")
        tasks = list(results["sft"]["test"][category]["tasks"])
        rows = [
            [task, *(str(_rate(results[method]["test"][category]["tasks"][task])) for method in METHODS)]
            for task in tasks
        ]
        report.table(["task", *METHODS], rows)
    report.section("Figures and targets")
    report.table(
        ["figure", "value", "target"],
        [[name, f"{value:.3f}", _target(result, name)] for name, value in result.figures.items()],
    )
    report.write(path)


def _rate(values: Mapping[str, Any]) -> Rate:
    return Rate(int(np.sum(values["outcomes"])), len(values["outcomes"]))


def _target(result: BenchResult, name: str) -> str:
    target = result.targets.get(name)
    if target is None:
        return ""
    return f"{target.sense} {target.value:g}: {'holds' if target.holds(result.figures[name]) else 'MISSED'}"
