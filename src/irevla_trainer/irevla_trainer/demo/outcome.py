"""What the demo leaves: `summary.json`, `report.html` and the videos of before and after side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from irevla_policy.errors import RunError
from irevla_policy.robot.profile import load_profile
from irevla_policy.settings import to_dict
from irevla_trainer.bench.result import machine
from irevla_trainer.data.reader import EpisodeReader
from irevla_trainer.demo.stages import ROBOT, DemoRun
from irevla_trainer.report import Curve, Report
from irevla_trainer.ros.episodes import EndedEpisode
from irevla_trainer.statistics import Rate, paired_difference
from irevla_trainer.video import Clip, side_by_side, write_video


def rate(episodes: list[EndedEpisode]) -> Rate:
    """Success rate of episodes."""
    return Rate(sum(episode.success for episode in episodes), len(episodes))


def summary(run: DemoRun) -> dict[str, Any]:
    """The content of `summary.json`.

    Keys: `tasks` (task to `before` and `after`, each success, low, high, successes, episodes, and `difference` with
    its paired 95 % interval), `seconds` per stage and in `total`, `training` (updates, losses, recorded episodes and
    decisions), `checkpoint` (path, version), `expected_success`, `holds`, `settings` and `machine`.
    """
    tasks = {}
    for task in run.settings.tasks:
        before, after = run.before[task], run.after[task]
        difference = paired_difference([e.success for e in before], [e.success for e in after])
        tasks[task] = {
            "before": rate(before).to_json(),
            "after": rate(after).to_json(),
            "difference": dict(zip(("mean", "low", "high"), difference, strict=True)),
        }
    return {
        "tasks": tasks,
        "seconds": run.seconds | {"total": round(sum(run.seconds.values()), 1)},
        "training": run.metrics[-1],
        "checkpoint": {"path": str(run.checkpoint), "version": run.version},
        "expected_success": run.settings.expected_success,
        "holds": not shortfalls(run),
        "settings": to_dict(run.settings),
        "machine": machine(),
    }


def shortfalls(run: DemoRun) -> list[str]:
    """What the demo promised and did not show, in words."""
    found = []
    for task in run.settings.tasks:
        before, after = rate(run.before[task]), rate(run.after[task])
        if after.value < run.settings.expected_success:
            found.append(f"{task}: success after training {after}, expected {run.settings.expected_success:g}")
        if before.value > run.settings.expected_before:
            found.append(f"{task}: success before training {before}, expected {run.settings.expected_before:g} at most")
    return found


def write_outcome(run: DemoRun) -> None:
    """Write videos and report. `write_summary` writes the rest when all stages are timed."""
    videos = [_video(run, task) for task in run.settings.tasks]
    _report(run, videos)


def write_summary(run: DemoRun) -> None:
    """Write `summary.json`.

    Raises:
        RunError: The demo did not show what it promises.
    """
    (run.folder / "summary.json").write_text(json.dumps(summary(run), indent=2) + "\n")
    missed = shortfalls(run)
    if missed:
        raise RunError(f"the demo fell short: {'; '.join(missed)}")


def _video(run: DemoRun, task: str) -> Path:
    """Before and after on the same seeds, side by side, one seed after the other."""
    profile = load_profile(ROBOT)
    reader = EpisodeReader(profile)
    frames = []
    for before, after in zip(run.before[task], run.after[task], strict=True):
        if before.bag is None or after.bag is None:
            continue
        clips = []
        for name, episode in (("before", before), ("after", after)):
            assert episode.bag is not None
            recorded, account = reader.read(episode.bag)
            if recorded is None:
                raise RunError(f"{episode.bag}: {account.problem}")
            images = list(recorded.images[profile.cameras[0].name])
            clips.append(Clip(f"{name}: {episode.instruction}", images, episode.success))
        frames += side_by_side(clips)
    path = run.folder / "videos" / f"{task}.mp4"
    write_video(path, frames, profile.control_rate)
    return path


def _report(run: DemoRun, videos: list[Path]) -> None:
    settings = run.settings
    report = Report(
        "irevla demo",
        f"A policy that has seen nothing but {settings.demonstrations} recorded expert episodes of each task, "
        "before and after training, in closed loop through the ROS graph.",
    )
    report.cards(
        {f"{task}, after training": f"{rate(run.after[task]).value:.0%}" for task in settings.tasks}
        | {
            "episodes per task and policy": str(settings.episodes),
            "wall time": f"{sum(run.seconds.values()) / 60:.1f} min",
        }
    )
    report.section("Success")
    bars = {
        name: [(rate(found[task]).value, *rate(found[task]).interval()) for task in settings.tasks]
        for name, found in (("before", run.before), ("after", run.after))
    }
    report.bars(settings.tasks, bars, y="success", caption="Test seeds, with 95 % Wilson intervals.")
    rows = [[task, str(rate(run.before[task])), str(rate(run.after[task]))] for task in settings.tasks]
    report.table(["task", "before", "after"], rows)
    report.section("Videos", "What the policy's camera saw, before (left) and after (right) on the same seeds.")
    for task, path in zip(settings.tasks, videos, strict=True):
        report.video(path, task)
    report.section("Training")
    report.chart(
        _loss_curves(run), x="update", y="mean squared error", log_y=True, caption="Loss on normalised actions."
    )
    if run.curve:
        report.chart(
            [_success_curve(run, task) for task in settings.tasks],
            x="update",
            y="success",
            y_range=(-0.02, 1.05),
            caption=f"Success on {settings.curve_episodes} validation seeds, with 95 % Wilson intervals.",
        )
    report.section("Time")
    report.table(["stage", "seconds"], [[stage, value] for stage, value in run.seconds.items()])
    report.write(run.folder / "report.html")


def _loss_curves(run: DemoRun) -> list[Curve]:
    held_out = [line for line in run.metrics if "validation_loss" in line]
    curves = [Curve("training", [line["step"] for line in run.metrics], [line["loss"] for line in run.metrics])]
    if held_out:
        losses = [line["validation_loss"] for line in held_out]
        curves.append(Curve("held-out episodes", [line["step"] for line in held_out], losses))
    return curves


def _success_curve(run: DemoRun, task: str) -> Curve:
    rates = [rates[task] for _, rates in run.curve]
    lows, highs = zip(*(found.interval() for found in rates), strict=True)
    return Curve(task, [step for step, _ in run.curve], [found.value for found in rates], lows, highs)
