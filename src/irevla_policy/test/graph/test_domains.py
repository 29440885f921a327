"""A domain of one's own is one that nobody on this machine is on, or about to be."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable

import pytest
import rclpy

from irevla_policy.errors import RunError
from irevla_policy.graph import domains
from irevla_policy.graph.domains import other_domain

HOLDER = """
from irevla_policy.graph import domains
domains._DOMAINS = range(11, 12)
print(domains.other_domain(), flush=True)
input()
"""


@pytest.fixture
def among(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Lets there be no other domains than these, first to last."""
    return lambda first, last: monkeypatch.setattr(domains, "_DOMAINS", range(first, last + 1))


def test_it_is_drawn_by_chance_and_not_the_present_one(
    among: Callable[[int, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", "7")
    among(6, 9)
    assert {other_domain() for _ in range(200)} == {6, 8, 9}


def test_what_another_process_has_drawn_is_its_own_until_it_ends(among: Callable[[int, int], None]) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdin is not None and holder.stdout is not None
    assert holder.stdout.readline() == "11\n"
    among(11, 12)
    assert {other_domain() for _ in range(50)} == {12}
    among(11, 11)
    with pytest.raises(RunError, match="ROS_DOMAIN_ID: none of the domains"):
        other_domain()
    holder.communicate("\n")
    assert other_domain() == 11


def test_a_graph_of_another_program_is_seen_by_its_ports(among: Callable[[int, int], None]) -> None:
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=93)
    node = rclpy.create_node("of_another_program", context=context)
    try:
        among(93, 94)
        assert {other_domain() for _ in range(50)} == {94}
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)


def test_any_port_of_a_domain_counts(among: Callable[[int, int], None]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as port:
        port.bind(("127.0.0.1", 7400 + 250 * 87 + 249))
        among(87, 87)
        with pytest.raises(RunError):
            other_domain()
