"""What the policy node answers is about the policy that it was asked to load, and no other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor

from irevla_msgs.srv import LoadPolicy
from irevla_trainer.jobs.job import HandOver
from irevla_trainer.ros.handing_over import HandedOver, HandingOver

FIRST, SECOND = HandOver("policies/first", "first", "before"), HandOver("policies/second", "second", "before")


@dataclass
class Graph:
    """A trainer that hands over, and a policy node that loads what it is asked for, or refuses."""

    refuses: str = ""
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("trainer_and_policy", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.node.create_service(LoadPolicy, "/irevla/load_policy", self._load)
        self.handing_over = HandingOver(self.node)

    def _load(self, request: LoadPolicy.Request, response: LoadPolicy.Response) -> LoadPolicy.Response:
        self.asked.append(request.path)
        name = request.path.removeprefix("policies/")
        response.accepted, response.policy_version = name != self.refuses, name
        response.message = "" if response.accepted else "it is damaged"
        return response

    def until(self, reached: Callable[[], object]) -> None:
        deadline = time.monotonic() + 20.0
        while not reached():
            assert time.monotonic() < deadline
            self.executor.spin_once(0.02)

    def given(self, wanted: HandOver) -> HandedOver:
        found: list[HandedOver] = []
        self.until(lambda: found.extend(filter(None, [self.handing_over.step(wanted, "before")])) or found)
        return found[0]

    def ask(self, wanted: HandOver) -> None:
        """Until it is asked for; nobody has answered yet."""
        self.until(self.handing_over._client.service_is_ready)
        assert self.handing_over.step(wanted, "before") is None


@pytest.fixture
def graph() -> Iterator[Graph]:
    graph = Graph()
    yield graph
    graph.executor.shutdown()
    graph.node.destroy_node()
    rclpy.shutdown(context=graph.context)


def test_what_is_loaded_serves(graph: Graph) -> None:
    assert graph.given(FIRST) == HandedOver("the policy node serves first now", True)
    assert graph.asked == ["policies/first"]


def test_a_policy_is_asked_for_although_the_one_before_it_was_refused_meanwhile(graph: Graph) -> None:
    graph.refuses = "first"
    graph.ask(FIRST)
    assert graph.given(SECOND) == HandedOver("the policy node serves second now", True)
    assert graph.asked == ["policies/first", "policies/second"]


def test_a_policy_does_not_replace_what_it_was_not_compared_with(graph: Graph) -> None:
    graph.ask(FIRST)
    given = graph.given(SECOND)
    assert not given.serves
    assert given.result.startswith("not handed over: it replaces before, and first serves")
    assert graph.asked == ["policies/first"]
