"""Asking the trainer node for a job, and following it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray

from irevla_msgs.msg import TrainingStatus
from irevla_msgs.srv import Retrain
from irevla_policy.errors import RunError
from irevla_policy.ros import qos
from irevla_trainer.ros.graph_client import GraphClient

_OVER = (
    TrainingStatus.STATE_SUCCEEDED,
    TrainingStatus.STATE_FAILED,
    TrainingStatus.STATE_CANCELLED,
    TrainingStatus.STATE_INTERRUPTED,
)


class TrainingClient(GraphClient):
    """Somebody who has a policy retrained.

    Args:
        check: Called while waiting; raises when the graph is broken.
        patience: Longest wait for an answer, s; a job may take longer.
    """

    def __init__(self, check: Callable[[], None] = lambda: None, patience: float = 60.0) -> None:
        super().__init__("irevla_training_client", check, patience)
        # Only the newest say anything when nobody follows.
        self._unread: deque[TrainingStatus] = deque(maxlen=100)
        self._policy: dict[str, str] = {}
        self._trainer: dict[str, str] = {}
        # Deep enough that the end of a job is not lost when the next begins at once.
        latched = qos.latched(depth=20)
        self.node.create_subscription(TrainingStatus, "/irevla/training_status", self._on_status, latched)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.event())

    def retrain(self, demonstrations: int, **fields: Any) -> str:
        """Start a job with /irevla/retrain, once the trainer knows what is there; returns the job's name.

        Args:
            demonstrations: Of which the trainer must know at least so many.
            fields: Of the request.

        Raises:
            RunError: The trainer refused, or does not come up.
        """
        deadline = time.monotonic() + self.patience
        self.wait(
            lambda: (
                int(self._trainer.get("demonstrations", 0)) >= demonstrations
                and bool(self._trainer.get("serving_version"))
            ),
            deadline,
            f"the trainer did not find {demonstrations} demonstrations and a serving policy within "
            f"{self.patience:.0f} s; it says {self._trainer}",
        )
        answer = self.ask(Retrain, "/irevla/retrain", Retrain.Request(**fields))
        if not answer.accepted:
            raise RunError(f"/irevla/retrain: {answer.reason}")
        return str(answer.job_id)

    def follow(self, job: str, show: Callable[[TrainingStatus], None], meanwhile: Callable[[], None]) -> TrainingStatus:
        """Wait for the end of a job.

        Args:
            job: Its name.
            show: Called with every new status of it.
            meanwhile: Called again and again: what the robot does.

        Returns:
            The last status.

        Raises:
            RunError: It did not succeed, or the trainer has gone on to another one.
        """
        seen = False
        while True:
            self._executor.spin_once(timeout_sec=0.2)
            self._check()
            while self._unread:
                status = self._unread.popleft()
                if status.job_id != job:
                    if seen and status.state == TrainingStatus.STATE_RUNNING:
                        raise RunError(
                            f"{job}: the trainer has gone on to {status.job_id} without a word about its end"
                        )
                    continue
                seen = True
                show(status)
                if status.state == TrainingStatus.STATE_SUCCEEDED:
                    return status
                if status.state in _OVER:
                    raise RunError(f"{job}: {status.message}")
            meanwhile()

    def serves(self, version: str) -> None:
        """Wait until the policy node serves a version.

        Raises:
            RunError: It does not.
        """
        deadline = time.monotonic() + self.patience
        complaint = f"the policy node did not serve {version} within {self.patience:.0f} s"
        self.wait(lambda: self._policy.get("policy_version") == version, deadline, complaint)

    def _on_status(self, message: TrainingStatus) -> None:
        self._unread.append(message)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            values = {entry.key: entry.value for entry in status.values}
            if status.name == "irevla_policy":
                self._policy = values
            elif status.name == "irevla_trainer":
                self._trainer = values
