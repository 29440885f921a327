"""What the methods of a table came to: rates, paired differences, the targets that all tables share, and a report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from irevla_policy.durable import write_text
from irevla_trainer.bench.result import BenchResult, Target
from irevla_trainer.loop.evaluation import CATEGORIES
from irevla_trainer.report import Report
from irevla_trainer.statistics import Rate, paired_difference

METHODS = ("sft", "ppo_replay", "frozen", "ire_vla")
"""In the order of tables and charts, and in which the runs of a seed begin: after stage 0 the longest, PPO-Replay."""

Results = Mapping[str, Sequence[Mapping[str, Any]]]
"""Method to the `result.json` of its runs, one for every seed."""


@dataclass(frozen=True)
class Column:
    """A column of a table: a category of tasks, or one task of it.

    Attributes:
        name: In figures and reports.
        category: One of 'expert', 'rl' and 'unseen'.
        task: The only task; empty for all of the category.
    """

    name: str
    category: str
    task: str = ""

    def outcomes(self, runs: Sequence[Mapping[str, Any]]) -> list[bool]:
        """Success of every test episode, in the order of runs, tasks and seeds."""
        return [
            bool(ended)
            for run in runs
            for task, values in run["test"][self.category]["tasks"].items()
            if self.task in ("", task)
            for ended in values["outcomes"]
        ]

    def rate(self, runs: Sequence[Mapping[str, Any]]) -> Rate:
        """Success over all test episodes."""
        ended = self.outcomes(runs)
        return Rate(sum(ended), len(ended))


def methods_of(results: Results) -> list[str]:
    """The methods that were run, in the order of `METHODS`."""
    return [method for method in METHODS if method in results]


CATEGORY_COLUMNS = tuple(Column(name, name) for name in CATEGORIES)


def figures_of(results: Results, seconds: Mapping[str, float], columns: Sequence[Column]) -> dict[str, float]:
    """The figures of a table.

    METHOD_COLUMN is the success rate over all test episodes of the column, ire_vla_COLUMN_high the upper end of its
    95 % interval; ire_vla_minus_METHOD_COLUMN the difference on the same seeds, with `_low` and `_high` its paired 95 %
    interval. Intervals are about the policies of these runs; how much runs differ is in `differences_of`.

    Args:
        results: Method to its runs.
        seconds: What to its share of the wall time.
        columns: Of the table.
    """
    figures = {
        f"{method}_{column.name}": round(column.rate(results[method]).value, 4)
        for method in methods_of(results)
        for column in columns
    }
    for column in columns:
        figures[f"ire_vla_{column.name}_high"] = round(column.rate(results["ire_vla"]).interval()[1], 4)
    for other in methods_of(results):
        if other == "ire_vla":
            continue
        lows = []
        for column in columns:
            difference, low, high = paired_difference(
                column.outcomes(results[other]), column.outcomes(results["ire_vla"])
            )
            name = f"ire_vla_minus_{other}_{column.name}"
            figures |= {name: round(difference, 4), f"{name}_low": round(low, 4), f"{name}_high": round(high, 4)}
            lows.append(low)
        figures[f"ire_vla_minus_{other}_best_low"] = round(max(lows), 4)
    return figures | {"hours": round(sum(seconds.values()) / 3600, 3)}


def details_of(results: Results, seconds: Mapping[str, float], columns: Sequence[Column]) -> dict[str, Any]:
    """What stands behind the figures: intervals, success task by task, and how the runs went."""
    return {
        "intervals": {
            f"{method}_{column.name}": [round(bound, 4) for bound in column.rate(results[method]).interval()]
            for method in methods_of(results)
            for column in columns
        },
        "tasks": {
            method: {
                task: Column(task, category, task).rate(results[method]).to_json()
                for category in CATEGORIES
                for task in _tasks(results, category)
            }
            for method in methods_of(results)
        },
        "differences": differences_of(results, columns),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "selected": {method: [run["selected"]["step"] for run in results[method]] for method in methods_of(results)},
        "decisions": {method: [_decisions(run) for run in results[method]] for method in methods_of(results)},
        "validation": {method: [_validation(run) for run in results[method]] for method in methods_of(results)},
    }


def differences_of(results: Results, columns: Sequence[Column]) -> dict[str, list[list[float]]]:
    """What of iRe-VLA against the others holds in every run by itself.

    Args:
        results: Method to its runs.
        columns: Of the table.

    Returns:
        ire_vla_minus_METHOD_COLUMN to the difference, and its paired 95 % interval, of every training seed.
    """
    return {
        f"ire_vla_minus_{other}_{column.name}": [
            [round(value, 4) for value in paired_difference(column.outcomes([theirs]), column.outcomes([ours]))]
            for theirs, ours in zip(results[other], results["ire_vla"], strict=True)
        ]
        for other in methods_of(results)
        if other != "ire_vla"
        for column in columns
    }


def reached(wanted: Mapping[str, float]) -> dict[str, Target]:
    """Targets: no column's interval of iRe-VLA lies below what is wanted of it."""
    return {f"ire_vla_{name}_high": Target(">=", value) for name, value in wanted.items()}


def not_below(other: str, columns: Sequence[Column]) -> dict[str, Target]:
    """Targets: iRe-VLA is below another method in no column, as far as the paired intervals tell."""
    return {f"ire_vla_minus_{other}_{column.name}_high": Target(">=", 0.0) for column in columns}


def _tasks(results: Results, category: str) -> list[str]:
    return list(results["sft"][0]["test"][category]["tasks"])


def _decisions(run: Mapping[str, Any]) -> int:
    """Decisions of reinforcement learning."""
    return sum(step.get("decisions", 0) for name, step in run["steps"].items() if "stage1" in name)


def _validation(run: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Step to success per category on validation seeds: how the run went."""
    return {
        step: {category: round(values["success"], 4) for category, values in categories.items()}
        for step, categories in run["validation"].items()
    }


_Bar = tuple[float, float, float]


def write_report(
    path: Path,
    title: str,
    results: Results,
    result: BenchResult,
    columns: Sequence[Column],
    paper: Mapping[str, Mapping[str, float]],
) -> None:
    """The table with the paper's beside it, as `report.html`, and its first chart beside that as `table.svg`.

    Args:
        path: Of the report.
        title: Of the report.
        results: Method to its runs.
        result: What came of them.
        columns: What is shown in bars.
        paper: Method to column to the paper's success rate, where it has one.
    """
    report = Report(title, "Success on test seeds, 95 % Wilson intervals")

    def bar(method: str, column: Column) -> _Bar:
        found = column.rate(results[method])
        return (found.value, *found.interval())

    report.bars(
        [column.name for column in columns],
        {method: [bar(method, column) for column in columns] for method in methods_of(results)},
        y="success",
    )
    write_text(path.with_name("table.svg"), report.charts[-1])
    for column in columns:
        # A method that the paper leaves out has no bar.
        there = [paper.get(method, {}).get(column.name, math.nan) for method in methods_of(results)]
        report.section(column.name)
        report.bars(
            methods_of(results),
            {
                "here": [bar(method, column) for method in methods_of(results)],
                "paper (its own tasks and model)": [(value, value, value) for value in there],
            },
            y="success",
        )
    report.section("Task by task")
    report.table(
        ["category", "task", *methods_of(results)],
        [
            [
                category,
                task,
                *(str(Column(task, category, task).rate(results[method])) for method in methods_of(results)),
            ]
            for category in CATEGORIES
            for task in _tasks(results, category)
        ],
    )
    if len(results["ire_vla"]) > 1:
        report.section("Run by run")
        report.note("Each training seed by itself. The intervals of all others on this page pool the runs' episodes.")
        report.table(
            ["difference", *(f"run {number}" for number in range(1, len(results["ire_vla"]) + 1))],
            [
                [name, *(f"{value:+.3f} [{low:+.3f}, {high:+.3f}]" for value, low, high in runs)]
                for name, runs in differences_of(results, columns).items()
            ],
        )
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
