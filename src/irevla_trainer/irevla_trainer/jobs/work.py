"""The work of a training job: learn, choose a candidate, put it before the gate, store it with the verdict."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from irevla_policy.model.checkpoint import checkpoint_version, load_checkpoint
from irevla_trainer.data.dataset import load_dataset
from irevla_trainer.jobs.gate import judge, too_few
from irevla_trainer.jobs.job import JobFolder
from irevla_trainer.jobs.plan import Plan, plan
from irevla_trainer.jobs.policies import store
from irevla_trainer.jobs.progress import ProgressFile, phases
from irevla_trainer.jobs.trials import check_offline
from irevla_trainer.loop.algorithm import Loop
from irevla_trainer.loop.check import check
from irevla_trainer.loop.display import Display, Doing
from irevla_trainer.loop.run import RunFolder

_PATIENCE = 15.0
"""s to wait for a training process that a killed trainer has left: it stops within them."""


def work(job: JobFolder) -> dict[str, Any]:
    """Do a job, or what is left of it.

    Returns:
        promoted, base and serving (versions: what it started from, what it had to be better than), version and
        checkpoint of the candidate (empty without one), message, and the gate's verdict.

    Raises:
        UserError: Something that the job needs does not fit.
        RunError: The training cannot go on.
        OSError: The disk is full.
        KeyboardInterrupt: Stopped by SIGINT; the same call goes on.
    """
    planned = plan(job)
    settings = planned.settings
    check(settings, job.plan_path)
    shown = ProgressFile(job.progress_path, phases(settings))
    with ExitStack() as stack:
        resumed = (job.run_path / "config.yaml").is_file()
        run = stack.enter_context(RunFolder(job.run_path, settings, resumed, _PATIENCE))
        if run.result is not None:
            _remove_weights(job)
            return dict(run.result["outcome"])
        display = stack.enter_context(Display(run.folder, shown.watch))
        if planned.left_out:
            display.say(f"left out, because {settings.task_file} does not know them: {', '.join(planned.left_out)}")
        for problem in planned.problems:
            display.say(f"not used: {problem}")
        if vain := too_few(job.order.settings.gate, len(planned.others)):
            display.say(vain)
        loop = stack.enter_context(Loop(run, settings, display))
        loop.learn()
        step = loop.selected()
        outcome = _outcome(job, planned, run, loop, loop.checkpoint(step), shown)
        display.say(outcome["message"])
        loop.finish(step, {"test": {}, "films": {}, "outcome": outcome})
    _remove_weights(job)
    return outcome


def _remove_weights(job: JobFolder) -> None:
    """The candidate is stored; with a large model the other stages' weights would soon fill the disk."""
    for weights in job.run_path.glob("steps/*/checkpoint"):
        shutil.rmtree(weights)


def _outcome(
    job: JobFolder, planned: Plan, run: RunFolder, loop: Loop, candidate: Path, shown: ProgressFile
) -> dict[str, Any]:
    serving, version = Path(planned.serving), checkpoint_version(candidate)
    versions = {"base": checkpoint_version(planned.settings.init), "serving": checkpoint_version(serving)}
    if version in versions.values():
        message = "no stage did better on validation seeds than the policy that it started from"
        return {"promoted": False, **versions, "version": "", "checkpoint": "", "message": message, "gate": None}
    if job.order.settings.gate.mode == "trials":
        return _for_trials(job, planned, run, loop, candidate, versions)

    def progress(done: int, total: int) -> None:
        shown.watch(Doing("gate", "comparing the candidate with the policy before", "", done, total))

    def gate(folder: Path) -> dict[str, Any]:
        return judge(
            load_checkpoint(serving).to(loop.device),
            load_checkpoint(candidate).to(loop.device),
            loop.worlds,
            planned.trained,
            planned.others,
            job.order.settings.gate,
            planned.gate_seed,
            progress,
        ).to_json()

    verdict = run.step("90-gate", gate)
    found = {"job": job.name, **versions, "gate": verdict}
    return {
        "promoted": verdict["promoted"],
        **versions,
        "version": version,
        "checkpoint": str(store(candidate, job.policies, found)),
        "message": verdict["reason"],
        "gate": verdict,
    }


def _for_trials(
    job: JobFolder, planned: Plan, run: RunFolder, loop: Loop, candidate: Path, versions: dict[str, str]
) -> dict[str, Any]:
    """Check a candidate on held-out demonstrations, before a person lets it drive the robot."""
    serving, settings = Path(planned.serving), job.order.settings.gate

    def check_it(folder: Path) -> dict[str, Any]:
        bags = [Path(bag) for bag in planned.held_out]
        dataset = load_dataset(bags, loop.profile) if bags else None
        try:
            before, after = (load_checkpoint(path).to(loop.device) for path in (serving, candidate))
            return check_offline(before, after, dataset.episodes if dataset else (), settings).to_json()
        finally:
            if dataset is not None:
                dataset.close()

    found = run.step("90-check", check_it)
    return {
        "promoted": False,
        "awaits_trials": found["passed"],
        **versions,
        "version": checkpoint_version(candidate),
        "checkpoint": str(store(candidate, job.policies, {"job": job.name, **versions, "check": found})),
        "message": found["reason"],
        "gate": None,
    }
