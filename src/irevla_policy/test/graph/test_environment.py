"""The environment of graphs and of the processes that supervise them."""

from __future__ import annotations

import os

import pytest

from irevla_policy.graph.environment import adopt_environment, default_environment


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of this process's environment in which nothing of ROS is set."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    for name in (*default_environment(), "ROS_DOMAIN_ID", "ROS_LOCALHOST_ONLY"):
        os.environ.pop(name, None)


def test_discovery_stays_on_this_machine() -> None:
    assert default_environment()["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"


def test_the_older_localhost_variable_is_left_alone() -> None:
    os.environ["ROS_LOCALHOST_ONLY"] = "0"
    assert "ROS_AUTOMATIC_DISCOVERY_RANGE" not in default_environment()


def test_large_frames_get_their_transport_profile() -> None:
    assert default_environment()["FASTRTPS_DEFAULT_PROFILES_FILE"].endswith("config/fastdds.xml")


def test_a_supervising_process_adopts_what_its_graph_gets() -> None:
    adopt_environment()
    assert default_environment().items() <= dict(os.environ).items()
    assert "ROS_DOMAIN_ID" not in os.environ


def test_a_private_domain_is_a_valid_one() -> None:
    adopt_environment(private=True)
    assert 1 <= int(os.environ["ROS_DOMAIN_ID"]) <= 101


def test_what_the_user_has_set_is_kept() -> None:
    os.environ.update(ROS_DOMAIN_ID="7", ROS_AUTOMATIC_DISCOVERY_RANGE="SUBNET", MUJOCO_GL="glfw")
    adopt_environment(private=True)
    assert (os.environ["ROS_DOMAIN_ID"], os.environ["MUJOCO_GL"]) == ("7", "glfw")
    assert os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "SUBNET"
