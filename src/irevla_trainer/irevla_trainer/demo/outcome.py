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
from irevla_trainer.demo.robots import ROBOT
from irevla_trainer.demo.stages import DemoRun
from irevla_trainer.report import Curve, Report
from irevla_trainer.ros.episodes import EndedEpisode
from irevla_trainer.statistics import Rate, paired_difference
from irevla_trainer.video import Clip, side_by_side, write_video


def rate(episodes: list[EndedEpisode]) -> Rate:
    """Success rate of episodes."""
    return Rate(sum(episode.success for episode in episodes), len(episodes))


def difference(run: DemoRun, task: str) -> tuple[float, float, float]:
    """Rise of a task's success by the practice, with its paired 95 % interval."""
    before, after = run.before[task], run.after[task]
    return paired_difference([e.success for e in before], [e.success for e in after])


def summary(run: DemoRun) -> dict[str, Any]:
    """The content of `summary.json`.

    Keys: `tasks` (task to `before` and `after` the retraining, each success, low, high, successes, episodes, and
    `difference` with its paired 95 % interval; the practised task comes first), `job` (what came out of the retraining:
    promoted, base, version, message, gate), `worked` (episodes of the robot while it ran), `seconds` per stage and in
    `total`, `teaching` (updates, losses), `checkpoint`, `holds`, `settings` and `machine`.
    """
    tasks = {}
    for task in run.settings.evaluated:
        tasks[task] = {
            "before": rate(run.before[task]).to_json(),
            "after": rate(run.after[task]).to_json(),
            "difference": dict(zip(("mean", "low", "high"), difference(run, task), strict=True)),
        }
    job = dict(run.outcome)
    if job.get("checkpoint"):
        # As the demo's folder was named: the page goes further than this machine.
        job["checkpoint"] = str(run.folder / Path(job["checkpoint"]).resolve().relative_to(run.folder.resolve()))
    return {
        "tasks": tasks,
        "job": job,
        "worked": len(run.worked),
        "seconds": run.seconds | {"total": round(sum(run.seconds.values()), 1)},
        "teaching": run.metrics[-1],
        "checkpoint": str(run.checkpoint),
        "holds": not shortfalls(run),
        "settings": to_dict(run.settings),
        "machine": machine(),
    }


def shortfalls(run: DemoRun) -> list[str]:
    """What the demo promised and did not show, in words."""
    found, settings = [], run.settings
    for task in settings.others:
        before, change = rate(run.before[task]), difference(run, task)
        if before.value < settings.expected_success:
            found.append(f"{task}: success after teaching {before}, expected {settings.expected_success:g}")
        if change[2] < 0:
            found.append(f"{task}: the practice made it worse by {-change[0]:.2f} [{-change[2]:.2f}, {-change[1]:.2f}]")
    rise = difference(run, settings.practice)
    if rise[0] < settings.expected_rise:
        found.append(
            f"{settings.practice}: the practice raised success by {rise[0]:.2f}, expected {settings.expected_rise:g}"
        )
    if settings.expected_rise > 0 and not run.outcome["promoted"]:
        found.append(f"the practised policy was not promoted: {run.outcome['message']}")
    return found


def write_outcome(run: DemoRun) -> None:
    """Write videos and report. `write_summary` writes the rest when all stages are timed."""
    videos = [_video(run, task) for task in run.settings.evaluated]
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
    """Before and after on the same seeds, side by side, one seed after the other.

    Seeds of which the practice has changed the outcome come first: of most others both would show the same.
    """
    profile = load_profile(ROBOT)
    reader = EpisodeReader(profile)
    frames = []
    recorded = [
        pair for pair in zip(run.before[task], run.after[task], strict=True) if all(one.bag is not None for one in pair)
    ]
    recorded.sort(key=lambda pair: pair[0].success == pair[1].success)
    for before, after in recorded[: run.settings.filmed]:
        clips = []
        for name, episode in (("before", before), ("after", after)):
            assert episode.bag is not None
            read, account = reader.read(episode.bag)
            if read is None:
                raise RunError(f"{episode.bag}: {account.problem}")
            images = list(read.images[profile.cameras[0].name])
            clips.append(Clip(f"{name}: {episode.instruction}", images, episode.success))
        frames += side_by_side(clips)
    path = run.folder / "videos" / f"{task.replace(':', '-')}.mp4"
    write_video(path, frames, profile.control_rate)
    return path


def _report(run: DemoRun, videos: list[Path]) -> None:
    settings, tasks = run.settings, run.settings.evaluated
    practised = rate(run.before[settings.practice]), rate(run.after[settings.practice])
    report = Report(
        "irevla demo",
        f"{settings.demonstrations} recorded expert episodes each of {' and '.join(settings.tasks)} have taught the "
        f"policy that drives the robot through the ROS graph. /irevla/retrain lets it practise {settings.practice}, "
        "proves that it has become better, and hands the new policy to the running node.",
    )
    report.cards(
        {
            f"{settings.practice}, before and after": f"{practised[0].value:.0%} → {practised[1].value:.0%}",
            "episodes per task and policy": str(settings.episodes),
            "decisions of practice": f"{run.practice[-1]['decisions']:,.0f}",
            "wall time": f"{sum(run.seconds.values()) / 60:.1f} min",
        }
    )
    report.section("Success")
    bars = {
        name: [(rate(found[task]).value, *rate(found[task]).interval()) for task in tasks]
        for name, found in (("before", run.before), ("after", run.after))
    }
    report.bars(tasks, bars, y="success", caption="Test seeds, the same for both, with 95 % Wilson intervals.")
    rows = []
    for task in tasks:
        mean, low, high = difference(run, task)
        rows.append(
            [task, str(rate(run.before[task])), str(rate(run.after[task])), f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"]
        )
    report.table(["task", "before", "after", "difference, paired"], rows)
    report.section("The gate", f"Fresh episodes of both policies, on seeds of this job: {run.outcome['message']}.")
    report.section(
        "Videos",
        "What the policy's camera saw, before (left) and after (right) on the same seeds: of the first "
        f"{min(settings.recorded, settings.episodes)}, those that end differently come first. How often they do is in "
        "the table above.",
    )
    for task, path in zip(tasks, videos, strict=True):
        report.video(path, task)
    report.section("Practice", "Reinforcement learning of the heads, the backbone frozen.")
    report.chart(_practice(run), x="decisions", y="success", y_range=(-0.02, 1.05))
    report.section("Teaching")
    report.chart(
        _loss_curves(run), x="update", y="mean squared error", log_y=True, caption="Loss on normalised actions."
    )
    report.section("Time")
    report.table(["stage", "seconds"], [[stage, value] for stage, value in run.seconds.items()])
    report.write(run.folder / "report.html")


def _practice(run: DemoRun) -> list[Curve]:
    curves = []
    for key, label in (("rollout_success", "rollouts, with exploration noise"), ("validation_success", "validation")):
        lines = [line for line in run.practice if key in line]
        curves.append(Curve(label, [line["decisions"] for line in lines], [line[key] for line in lines]))
    return curves


def _loss_curves(run: DemoRun) -> list[Curve]:
    held_out = [line for line in run.metrics if "validation_loss" in line]
    curves = [Curve("training", [line["step"] for line in run.metrics], [line["loss"] for line in run.metrics])]
    if held_out:
        losses = [line["validation_loss"] for line in held_out]
        curves.append(Curve("held-out episodes", [line["step"] for line in held_out], losses))
    return curves
