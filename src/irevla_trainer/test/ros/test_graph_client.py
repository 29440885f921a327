"""Whoever calls services gets an answer, although the middleware may lose the first."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from std_srvs.srv import SetBool, Trigger

from irevla_policy.errors import RunError
from irevla_trainer.ros import graph_client
from irevla_trainer.ros.graph_client import GraphClient


class Server:
    """Serves /switch and /press; the first answers get lost."""

    def __init__(self, lost: int) -> None:
        self.lost, self.asked = lost, 0
        self.context = Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("server", context=self.context)
        self.switch = self.node.create_service(SetBool, "/switch", self._answer)
        self.node.create_service(Trigger, "/press", lambda _, response: response)
        send = self.switch.send_response
        self.switch.send_response = lambda *answer: send(*answer) if self.asked > self.lost else None
        executor = SingleThreadedExecutor(context=self.context)
        executor.add_node(self.node)
        self.thread = threading.Thread(target=executor.spin)
        self.thread.start()

    def _answer(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self.asked += 1
        response.success, response.message = request.data, f"answer {self.asked}"
        return response

    def close(self) -> None:
        rclpy.shutdown(context=self.context)
        self.thread.join()


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    found = Server(request.param)
    yield found
    found.close()


@pytest.mark.parametrize("server", [2], indirect=True)
def test_a_request_that_may_come_twice_is_repeated(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(graph_client, "_REPEAT_SECONDS", 0.5)
    with GraphClient("client", patience=20.0) as client:
        answer = client.ask(SetBool, "/switch", SetBool.Request(data=True), again=True)
    assert answer.success and answer.message == "answer 3"


@pytest.mark.parametrize("server", [1], indirect=True)
def test_any_other_request_is_made_once(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(graph_client, "_REPEAT_SECONDS", 0.5)
    with (
        GraphClient("client", patience=4.0) as client,
        pytest.raises(RunError, match="/switch: no answer within 4 s"),
    ):
        client.ask(SetBool, "/switch", SetBool.Request(data=True))
    assert server.asked == 1


@pytest.mark.parametrize("server", [0], indirect=True)
def test_services_are_met_together_before_the_first_request(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(graph_client, "_MEET_SECONDS", 3.0)
    with GraphClient("client", patience=20.0, services={"/switch": SetBool, "/press": Trigger}) as client:
        start = time.monotonic()
        client.ask(SetBool, "/switch", SetBool.Request())
        assert time.monotonic() - start >= 3.0
        start = time.monotonic()
        client.ask(Trigger, "/press", Trigger.Request())
        client.ask(SetBool, "/switch", SetBool.Request())
        assert time.monotonic() - start < 3.0
