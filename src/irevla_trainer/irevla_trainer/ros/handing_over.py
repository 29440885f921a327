"""Giving the robot another policy: /irevla/load_policy, asked until there is an answer."""

from __future__ import annotations

import time
from dataclasses import dataclass

from rclpy.node import Node
from rclpy.task import Future

from irevla_msgs.srv import LoadPolicy
from irevla_trainer.jobs.job import HandOver

_PATIENCE = 120.0
"""s after which an answer is not expected any more: whoever was to give it has been started anew."""


@dataclass(frozen=True)
class HandedOver:
    """What became of a policy that the robot was to be given.

    Attributes:
        result: In one sentence.
        serves: Whether it serves now.
    """

    result: str
    serves: bool


class HandingOver:
    """Asks the policy node for one policy at a time.

    Args:
        node: Calls the service.
    """

    def __init__(self, node: Node) -> None:
        self._client = node.create_client(LoadPolicy, "/irevla/load_policy")
        self._asked: Future | None = None
        self._asked_for, self._asked_at = "", 0.0

    def step(self, wanted: HandOver, serving: str) -> HandedOver | None:
        """Go on with a policy, without waiting; None while it is open.

        Args:
            wanted: The policy, and what it replaces.
            serving: Version that serves; empty while no policy node says so. What was asked of one that is gone is
                asked again.
        """
        if self._asked is not None:
            if self._asked.done():
                answer, self._asked = self._asked.result(), None
                if self._asked_for == wanted.version:
                    return _answered(wanted, answer)
                # It was about a policy that has been superseded meanwhile, and may serve all the same.
                return self.step(wanted, answer.policy_version if answer is not None and answer.accepted else serving)
            if serving and time.monotonic() < self._asked_at + _PATIENCE:
                return None
            self._client.remove_pending_request(self._asked)
            self._asked = None
        if not serving or not self._client.service_is_ready():
            return None
        if serving == wanted.version:
            return HandedOver(f"the policy node serves {serving}", True)
        if serving != wanted.instead_of:
            return HandedOver(
                f"not handed over: it replaces {wanted.instead_of}, and {serving} serves; /irevla/load_policy takes "
                f"{wanted.checkpoint}",
                False,
            )
        self._asked = self._client.call_async(LoadPolicy.Request(path=wanted.checkpoint))
        self._asked_for, self._asked_at = wanted.version, time.monotonic()
        return None


def _answered(wanted: HandOver, answer: LoadPolicy.Response | None) -> HandedOver | None:
    if answer is None:
        return None
    if not answer.accepted:
        return HandedOver(f"the policy node did not load {wanted.version}: {answer.message}", False)
    return HandedOver(f"the policy node serves {answer.policy_version} now", True)
