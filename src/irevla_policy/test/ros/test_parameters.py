"""Parameters of a node come from its settings dataclass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import rclpy
from rclpy.node import Node
from rclpy.parameter import Parameter

from irevla_policy.ros.parameters import declare
from irevla_policy.settings import SettingsError, setting


@dataclass(frozen=True)
class Inner:
    width: int = setting(64, "Width", unit="px", at_least=8, at_most=512)


@dataclass(frozen=True)
class Example:
    rate: float = setting(20.0, "Rate", unit="Hz", above=0.0, at_most=100.0, read_only=False)
    device: str = setting("cpu", "Device", choices=("cpu", "cuda"))
    topics: tuple[str, ...] = setting((), "Topics")
    folder: Path | None = setting(None, "Folder")
    inner: Inner = field(default_factory=Inner)


@pytest.fixture
def context() -> Iterator[rclpy.Context]:
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=30)
    yield context
    context.try_shutdown()


def node_with(context: rclpy.Context, *arguments: str) -> Node:
    given = [part for argument in arguments for part in ("-p", argument)]
    return Node("example", context=context, cli_args=["--ros-args", *given] if given else None)


def test_defaults_and_descriptors(context):
    node = node_with(context)
    settings = declare(node, Example)
    assert settings == Example()
    descriptor = node.describe_parameter("rate")
    assert "Rate" in descriptor.description
    assert "Hz" in descriptor.description
    assert descriptor.floating_point_range[0].to_value == 100.0
    assert not descriptor.read_only
    assert node.describe_parameter("device").read_only
    assert node.describe_parameter("inner.width").integer_range[0].from_value == 8
    assert list(node.get_parameter("topics").value) == []
    assert node.get_parameter("folder").value == ""


def test_overrides_of_every_kind(context):
    node = node_with(context, "rate:=50", "device:=cuda", "topics:=[a, b]", "folder:=/x/y", "inner.width:=128")
    settings = declare(node, Example)
    assert settings == Example(50.0, "cuda", ("a", "b"), Path("/x/y"), Inner(128))
    assert node.get_parameter("rate").value == 50.0


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("rate:=0.0", r"rate: must be in \(0, 100\] Hz, found 0.0"),
        ("rate:=fast", "rate: expected a number, found 'fast'"),
        ("rote:=5.0", "unknown parameter 'rote'; known parameters: .*rate"),
        ("device:=tpu", "device: must be one of 'cpu', 'cuda', found 'tpu'"),
        ("inner.width:=4", r"inner: width: must be in \[8, 512\] px, found 4"),
        ("topics:=5", "topics: expected a list, found 5"),
    ],
)
def test_a_wrong_parameter_is_named(context, argument, message):
    node = node_with(context, argument)
    with pytest.raises(SettingsError, match="parameters of node 'example': " + message):
        declare(node, Example)


def test_changes_are_checked_and_told(context):
    node = node_with(context)
    seen = []
    declare(node, Example, seen.append)
    assert node.set_parameters([Parameter("rate", value=30.0)])[0].successful
    assert seen[-1].rate == 30.0
    for name, value in (("rate", 1000.0), ("device", "cuda")):
        result = node.set_parameters([Parameter(name, value=value)])[0]
        assert not result.successful
        assert result.reason
    assert len(seen) == 1
