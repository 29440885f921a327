"""How a job is told on the graph."""

from __future__ import annotations

from irevla_msgs.msg import TrainingStatus
from irevla_trainer.jobs.job import JobFolder
from irevla_trainer.jobs.progress import Progress

_STATES = {
    "queued": TrainingStatus.STATE_QUEUED,
    "running": TrainingStatus.STATE_RUNNING,
    "cancelling": TrainingStatus.STATE_RUNNING,
    "on_trial": TrainingStatus.STATE_EVALUATING,
    "succeeded": TrainingStatus.STATE_SUCCEEDED,
    "failed": TrainingStatus.STATE_FAILED,
    "cancelled": TrainingStatus.STATE_CANCELLED,
    "interrupted": TrainingStatus.STATE_INTERRUPTED,
}


def training_status(job: JobFolder, progress: Progress) -> TrainingStatus:
    """The message about a job, not stamped yet.

    Args:
        job: The job.
        progress: How far it is.
    """
    state = job.state
    running = state.state == "running"
    message = TrainingStatus(
        job_id=job.name,
        state=_STATES[state.state],
        stage=progress.stage if running else "",
        task=progress.task,
        iteration=progress.done,
        iterations=progress.total,
        progress=1.0 if state.state == "succeeded" else progress.share,
        success_rate=progress.success,
        seconds_left=progress.seconds_left if running else -1.0,
        loss=progress.loss,
        message=state.message or progress.message,
        promoted_version=state.promoted,
    )
    if running and progress.stage in ("gate", "evaluation"):
        message.state = TrainingStatus.STATE_EVALUATING
    return message
