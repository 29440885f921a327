"""Somebody on a graph who calls services and waits for what comes, while the graph is whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor

from irevla_policy.errors import RunError

_SPIN_SECONDS = 0.1

_MEET_SECONDS = 0.5
"""From when this side has found a service until the first request: the other side may take a little longer to find
this one, and what it answers before that is lost."""

_REPEAT_SECONDS = 10.0
"""After which a request that may be repeated is."""

C = TypeVar("C", bound="GraphClient")


class GraphClient:
    """A node with a context of its own, which is spun by whoever waits.

    Args:
        name: Of the node.
        check: Called while waiting; raises when the graph is broken (`Supervisor.check`).
        patience: Longest wait for anything, s.
        args: ROS arguments; none when left out.
        domain: ROS domain of the graph; that of this process when left out.
        services: Name to type of those that it will call, found from the beginning on; others are when first called.
    """

    def __init__(
        self,
        name: str,
        check: Callable[[], None] = lambda: None,
        patience: float = 60.0,
        args: Sequence[str] | None = None,
        domain: int | None = None,
        services: Mapping[str, Any] | None = None,
    ) -> None:
        self.patience = patience
        self._check = check
        self._context = Context()
        rclpy.init(args=list(args or []), context=self._context, domain_id=domain)
        # It logs nothing, and two of a name in a process would have rosout warn.
        self.node = rclpy.create_node(name, context=self._context, enable_rosout=False)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._clients = {name: self.node.create_client(kind, name) for name, kind in (services or {}).items()}
        self._found: dict[str, float] = {}

    def __enter__(self: C) -> C:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the graph."""
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def call(self, kind: Any, name: str, request: Any, again: bool = False, answer_within: float | None = None) -> Any:
        """Call a service whose answer says whether it was accepted; see `ask`.

        Raises:
            RunError: It is not served, did not answer, or refused.
        """
        response = self.ask(kind, name, request, again, answer_within)
        if not response.accepted:
            raise RunError(f"{name}: {response.message}")
        return response

    def ask(self, kind: Any, name: str, request: Any, again: bool = False, answer_within: float | None = None) -> Any:
        """Call a service.

        Args:
            kind: Its type.
            name: Of the service.
            request: Of its type.
            again: Whether the same request may come twice, so that it is repeated when no answer comes.
            answer_within: How long the answer may take, s, as long as somebody is there to give it; as long as
                everything else when left out.

        Raises:
            RunError: It is not served, or did not answer.
        """
        client = self._clients.get(name)
        if client is None:
            client = self._clients[name] = self.node.create_client(kind, name)
        deadline = time.monotonic() + self.patience
        self.wait(lambda: self._has_met(name), deadline, f"{name}: not served within {self.patience:.0f} s")
        futures = [client.call_async(request)]
        asked = there = time.monotonic()

        def answered() -> bool:
            nonlocal asked, there
            if client.service_is_ready():
                there = time.monotonic()
            elif time.monotonic() - there > self.patience:
                raise RunError(f"{name}: whoever served it is gone")
            if again and time.monotonic() - asked > _REPEAT_SECONDS:
                futures.append(client.call_async(request))
                asked = time.monotonic()
            return any(future.done() for future in futures)

        longest = self.patience if answer_within is None else max(answer_within, self.patience)
        self.wait(answered, deadline - self.patience + longest, f"{name}: no answer within {longest:.0f} s")
        return next(future.result() for future in futures if future.done())

    def _has_met(self, name: str) -> bool:
        """Whether a service and this client have had the time to find each other."""
        now = time.monotonic()
        for found, client in self._clients.items():
            if not client.service_is_ready():
                self._found.pop(found, None)
            else:
                self._found.setdefault(found, now)
        return now - self._found.get(name, now) >= _MEET_SECONDS

    def serve(self, seconds: float) -> None:
        """Serve callbacks for so long.

        Raises:
            RunError: The graph is broken.
        """
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0.0:
            self._executor.spin_once(timeout_sec=min(left, _SPIN_SECONDS))
            self._check()

    def wait(self, reached: Callable[[], bool], deadline: float, complaint: str | Callable[[], str]) -> None:
        """Serve callbacks until something has come about.

        Args:
            reached: Whether it has.
            deadline: On the monotonic clock, s.
            complaint: What is wrong when it has not by then, or what tells it then.

        Raises:
            RunError: It has not, or the graph is broken.
        """
        while not reached():
            self._executor.spin_once(timeout_sec=_SPIN_SECONDS)
            self._check()
            if time.monotonic() > deadline:
                raise RunError(complaint if isinstance(complaint, str) else complaint())
