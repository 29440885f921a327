"""`report.html` of a run: what came out, how it came about, and where it failed.

Made from the files in the run's folder alone, so that an unfinished run has one too and any run can have it anew:

    python -m irevla_trainer.loop.report RUN
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from irevla_trainer.loop.account import Account, Stage, read_account
from irevla_trainer.loop.evaluation import CATEGORIES, score
from irevla_trainer.loop.paper import PAPER
from irevla_trainer.report import Curve, Panel, Report
from irevla_trainer.statistics import Rate

_SHOWN = {"sft": "SFT", "ire_vla": "iRe-VLA"}
_MARKERS = ("o", "^", "s")
_FILMS = 8
_FILM_BYTES = 12_000_000
"""Embedded they grow by a third: the report stays below some 20 MB."""


def write_report(folder: Path) -> Path:
    """Write `report.html` into the folder of a run, in place of an earlier one.

    Args:
        folder: Of the run, finished or not.

    Returns:
        The report.

    Raises:
        AccountError: There is no run in the folder.
        OSError: The disk is full.
    """
    account = read_account(folder)
    report = Report(f"irevla train: {folder.resolve().name}", _lead(account))
    if not account.result:
        report.notice(_unfinished(account))
    report.cards(_key_figures(account))
    _success(report, account)
    _beside_the_paper(report, account)
    _tasks(report, account)
    _films(report, account)
    _reinforcement(report, account)
    _supervised(report, account)
    _steps(report, account)
    report.section("Settings")
    report.details("config.yaml", yaml.safe_dump(account.settings, sort_keys=False))
    path = folder / "report.html"
    report.write(path)
    return path


# -- what came out ----------------------------------------------------------------------------------------------------


def _lead(account: Account) -> str:
    tasks = account.settings["tasks"]
    counts = ", ".join(f"{len(tasks[name])} {_title(name)}" for name in CATEGORIES if tasks[name])
    return f"Tasks: {counts}. Success with 95 % Wilson intervals; validation and test seeds are in no training data."


def _unfinished(account: Account) -> str:
    done = sum(bool(stage.values) for stage in account.stages)
    begun = [str(stage) for stage in account.stages if not stage.values]
    return (
        f"This run is unfinished: {done} of {account.planned} stages are done"
        + (f", {begun[0]} has begun" if begun else "")
        + ". If it is not running any more, irevla train --resume continues it."
    )


def _key_figures(account: Account) -> dict[str, str]:
    cards = {}
    if account.result:
        selected = account.stage(account.result["selected"]["step"])
        cards[f"selected: {account.result['selected']['step']}"] = f"stage {selected.stage}" if selected else "?"
    else:
        evaluated = [stage for stage in account.stages if stage.validation]
        if evaluated:
            best = max(evaluated, key=lambda stage: (score(stage.validation), evaluated.index(stage)))
            cards[f"best on validation so far: {best.name}"] = f"stage {best.stage}"
    for category, values in account.test.get("categories", {}).items():
        rate = _rate(values)
        low, high = rate.interval()
        label = f"{_title(category)}, test: [{low:.2f}, {high:.2f}], {rate.successes} of {rate.episodes}"
        cards[label] = f"{rate.value:.2f}"
    cards["decisions in the environment by reinforcement learning"] = f"{account.decisions:,}"
    cards["wall time of the steps that are done"] = _duration(account.seconds)
    return cards


def _success(report: Report, account: Account) -> None:
    evaluated = [stage for stage in account.stages if stage.validation]
    report.section("Success after every stage")
    if not evaluated:
        report.note("No stage is evaluated yet.")
        return
    episodes = account.settings["evaluation"]["validation_episodes"]
    if len(evaluated) > 1:
        curves = [_category_curve(name, evaluated) for name in CATEGORIES if name in evaluated[0].validation]
        report.chart(
            curves,
            x="decisions in the environment",
            y="success",
            y_range=(-0.02, 1.12),
            spans=_task_spans(account.stages),
            caption=f"Validation, {episodes} episodes per task. Circle: after stage 0; triangles: after stage 1, "
            "reinforcement learning on the task above; squares: after stage 2, supervised fine-tuning, which takes "
            "no decisions. Bands: 95 % Wilson intervals.",
        )
    categories = [name for name in CATEGORIES if name in evaluated[0].validation]
    rows = [
        [str(stage), f"{stage.decisions:,}", *(str(_rate(stage.validation[name])) for name in categories)]
        for stage in evaluated
    ]
    report.table(["validation after", "decisions", *map(_title, categories)], rows)


def _category_curve(category: str, evaluated: Sequence[Stage]) -> Curve:
    rates = [_rate(stage.validation[category]) for stage in evaluated]
    lows, highs = zip(*(rate.interval() for rate in rates), strict=True)
    return Curve(
        _title(category),
        [stage.decisions for stage in evaluated],
        [rate.value for rate in rates],
        lows,
        highs,
        markers=[_MARKERS[stage.stage] for stage in evaluated],
    )


def _task_spans(stages: Sequence[Stage]) -> list[tuple[str, float, float]]:
    spans, start = [], 0
    for stage in stages:
        if stage.stage == 1 and stage.decisions > start:
            spans.append((stage.task, float(start), float(stage.decisions)))
            start = stage.decisions
    return spans


def _beside_the_paper(report: Report, account: Account) -> None:
    series: dict[str, Mapping[str, Any]] = {}
    for number, name in enumerate(("after stage 0", "after the last stage 1", "after the last stage 2")):
        found = [stage.validation for stage in account.stages if stage.stage == number and stage.validation]
        if found:
            series[f"{name}, validation"] = found[-1]
    if account.test:
        series["selected, test"] = account.test["categories"]
    if not series:
        return
    categories = [name for name in CATEGORIES if name in next(iter(series.values()))]
    bars = {
        name: [(_rate(values[category]).value, *_rate(values[category]).interval()) for category in categories]
        for name, values in series.items()
    }
    caption = "Bars with 95 % Wilson intervals."
    paper = {}
    there = PAPER.get(account.settings["task_file"])
    if there:
        for method, name in _SHOWN.items():
            found_there = [there[method][category] for category in categories]
            paper[f"paper, {name}"] = [(value, value, value) for value in found_there]
        caption += (
            " Hatched: the paper's numbers on its own tasks of this benchmark, with another model and machine; "
            "for orientation, not a comparison."
        )
    report.section("Stages" + (" beside the paper" if paper else ""))
    report.bars([_title(name) for name in categories], bars | paper, y="success", caption=caption, reference=paper)


def _tasks(report: Report, account: Account) -> None:
    if not account.test:
        return
    first = next((stage.validation for stage in account.stages if stage.validation), {})
    rows = []
    for category, values in account.test["categories"].items():
        for task, tested in values["tasks"].items():
            before = first.get(category, {}).get("tasks", {}).get(task)
            start = str(_rate(before)) if before else ""
            rows.append([_title(category), task, start, str(_rate(tested)), tested["mean_steps"]])
    report.section("Test, task by task", "The selected checkpoint on test seeds, beside the start of the run.")
    report.table(["category", "task", "after stage 0, validation", "selected, test", "mean decisions"], rows)


def _films(report: Report, account: Account) -> None:
    films = account.test.get("films", {})
    # Failures say more; yet some successes belong to the picture.
    failures = [path for path, success in films.items() if not success]
    successes = [path for path, success in films.items() if success]
    room = max(_FILMS - len(successes), _FILMS - 3)
    order = failures[:room] + successes + failures[room:]
    shown, size = [], 0
    for name in order[:_FILMS]:
        path = account.folder / name
        if path.is_file() and size + path.stat().st_size <= _FILM_BYTES:
            size += path.stat().st_size
            shown.append((path, f"{path.stem}: {'success' if films[name] else 'no success'}"))
    if not shown:
        return
    text = f"{len(shown)} of {len(films)} filmed test episodes ({len(failures)} failed), failures first; all are in "
    report.section("Videos", f"{text}{Path(order[0]).parent}.")
    report.videos(shown)


# -- how it came about ------------------------------------------------------------------------------------------------


def _reinforcement(report: Report, account: Account) -> None:
    stages = [stage for stage in account.stages if stage.stage == 1]
    if not stages:
        return
    report.section(
        "Stage 1: reinforcement learning",
        "Success of rollouts includes exploration noise, that of validation does not. value_error: root mean square "
        "error of the critic before the updates, of a return between 0 and 1. explained_variance: 1 for a perfect "
        "critic, 0 for a constant one, less for a worse one (shown down to -1). kl: how far an iteration took the "
        "policy from the one of its rollout; beyond kl_stop only the critic goes on.",
    )
    for stage in stages:
        report.section(stage.title, _stage_1_account(stage), level=3)
        panels = _stage_1_panels(stage, account.settings)
        if panels:
            report.panels(panels, x="decisions")


def _stage_1_account(stage: Stage) -> str:
    values = stage.values
    if not values:
        return f"Not done: {int(stage.metrics[-1].get('decisions', 0)) if stage.metrics else 0:,} decisions so far."
    validated = "nothing was validated"
    if values["after"] is not None:
        times = sum("validation_success" in line for line in stage.metrics)
        validated = (
            f"success on validation seeds {values['before']:.2f} before and {values['after']:.2f} with the head that "
            f"is kept, the best there of {times} that were validated"
        )
    return (
        f"{values['decisions']:,} decisions in {values['episodes']:,} episodes, {values['successes']:,} successes, of "
        f"which D_RL keeps {values['kept_successes']:,}; {validated}; ended: {values['ended']}."
    )


def _stage_1_panels(stage: Stage, settings: Mapping[str, Any]) -> list[Panel]:
    names = list(dict.fromkeys(name for line in stage.metrics for name in line))
    success = [
        _metric(stage.metrics, name, "decisions", label)
        for name, label in (("rollout_success", "rollouts"), ("validation_success", "validation"))
        if name in names
    ]
    panels = [Panel("success", success, (-0.02, 1.05))] if success else []
    for name in names:
        if name in ("iteration", "decisions", "rollout_success", "validation_success"):
            continue
        curves = [_metric(stage.metrics, name, "decisions", name)]
        if not curves[0].x:
            continue
        if name == "kl":
            limit = settings["stage1"]["ppo"]["kl_stop"]
            curves.append(Curve("kl_stop", [0.0, curves[0].x[-1]], [limit, limit], dashed=True))
        if name == "explained_variance":
            # An untrained critic can be at -100, which would flatten all that follows.
            (curve,) = curves
            panels.append(Panel(name, [Curve(name, curve.x, [max(y, -1.0) for y in curve.y])], (-1.05, 1.05)))
        else:
            panels.append(Panel(name, curves))
    return panels


def _supervised(report: Report, account: Account) -> None:
    curves = []
    for stage in account.stages:
        if stage.stage == 1:
            continue
        for name, label in (("loss", str(stage)), ("validation_loss", f"{stage}, held-out episodes")):
            curve = _metric(stage.metrics, name, "step", label)
            if curve.x:
                curves.append(curve)
    if not curves:
        return
    losses = [value for curve in curves for value in curve.y]
    report.section("Stages 0 and 2: supervised fine-tuning")
    report.chart(
        curves,
        x="update",
        y="mean squared error",
        # Within less than a factor of three a logarithmic axis has no tick that reads well.
        log_y=min(losses) > 0 and max(losses) > 3 * min(losses),
        caption="Loss on normalised actions. Stage 0 learns from demonstrations, stage 2 from these and the successes "
        "of stage 1.",
    )


def _steps(report: Report, account: Account) -> None:
    report.section("All stages")
    if not account.stages:
        report.note("None has begun yet.")
        return
    rows = [[str(stage), *_step_row(stage)] for stage in account.stages]
    columns = ["stage", "time", "decisions", "success before", "success after", "successes in D_RL", "loss", "ended"]
    report.table(columns, rows)
    report.note(
        "Decisions: of stage 1 in the environment. Success: of stage 1's task on "
        f"{account.settings['stage1']['validation_episodes']} validation seeds, after it that of the head that did "
        "best on them: a little too good. Successes in D_RL: those that stage 1 keeps, and those that stage 2 learns "
        "from. Evaluations are not listed; the wall time above includes them."
    )


def _step_row(stage: Stage) -> list[str]:
    values = stage.values
    if not values:
        return ["", "", "", "", "", "", "not done"]

    def shown(name: str, form: str) -> str:
        return format(values[name], form) if values.get(name) is not None else ""

    time = _duration(values["seconds"])
    if stage.stage == 1:
        figures = [shown("decisions", ","), shown("before", ".2f"), shown("after", ".2f"), shown("kept_successes", "")]
        return [time, *figures, "", str(values["ended"])]
    ended = "from a checkpoint" if "init" in values else "untrained" if "from_scratch" in values else ""
    ended = ended or f"{values.get('steps', '?')} updates"
    return [time, "", "", "", shown("success_episodes", ""), shown("loss", ".4f"), ended]


# -- words and numbers ------------------------------------------------------------------------------------------------


def _metric(lines: Sequence[Mapping[str, float]], name: str, x: str, label: str) -> Curve:
    """A metric where it is there and finite."""
    points = [
        (line[x], line[name])
        for line in lines
        if x in line and line.get(name) is not None and math.isfinite(line[name])
    ]
    return Curve(label, [at for at, _ in points], [value for _, value in points])


def _rate(values: Mapping[str, Any]) -> Rate:
    return Rate(int(values["successes"]), int(values["episodes"]))


def _title(category: str) -> str:
    return "RL" if category == "rl" else category


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


if __name__ == "__main__":
    print(write_report(Path(sys.argv[1])))
