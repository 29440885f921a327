"""ROS parameters from a settings dataclass: one declaration gives description, range and read-only flag.

A node has one settings dataclass. Nested dataclasses become dotted names (`camera.width`), lists become array
parameters, and an optional text is empty for none. What is set at the start is validated as a whole before anything
is declared; a parameter that does not exist is an error too, so a typing mistake in a parameter file is not silently
ignored.
"""

from __future__ import annotations

import array
import dataclasses
import sys
import types
import typing
from collections.abc import Callable
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, TypeVar

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.node import Node
from rclpy.parameter import Parameter

from irevla_policy.settings import Constraint, SettingsError, constraint, from_dict, setting

T = TypeVar("T")

TRANSPORTS = ("raw", "compressed")

# Parameters that rclpy itself reads from the command line without declaring all of them.
_OF_RCLPY = ("use_sim_time", "start_type_description_service", "qos_overrides.")

_SCALARS = (bool, int, float, str, Path)


@dataclass(frozen=True)
class NodeSettings:
    """Parameters that every node has."""

    robot: str = setting("sawyer", "Robot profile: name of a shipped one, or path of a YAML file")
    lock_step: bool = setting(False, "Whether the simulated world waits for the command that answers its observation")


@dataclass(frozen=True)
class SensorSettings:
    """Parameters of nodes that read cameras."""

    image_transport: str = setting(
        "raw",
        "Subscribe to the cameras' sensor_msgs/Image, or to CompressedImage on TOPIC/compressed",
        choices=TRANSPORTS,
    )


@dataclass(frozen=True)
class LifecycleSettings(NodeSettings):
    """Parameters that every lifecycle node has."""

    autostart: bool = setting(True, "Configure and activate at once instead of waiting for a lifecycle manager")


@dataclass(frozen=True)
class _Declaration:
    """One ROS parameter of a settings field."""

    name: str
    default: Any
    optional: bool
    scalar: Any
    is_array: bool
    rule: Constraint


def declare(node: Node, cls: type[T], changed: Callable[[T], None] | None = None) -> T:
    """Declare the parameters of a node and read their values.

    Args:
        node: The node; it gets no other settings class.
        cls: Settings dataclass whose fields are made by `setting`.
        changed: Called with the new settings after a parameter that is not read-only was changed.

    Returns:
        The validated settings.

    Raises:
        SettingsError: A parameter is unknown, missing, of the wrong type or out of range; names node and parameter.
    """
    where = f"parameters of node {node.get_name()!r}"
    declarations = list(_declarations(cls))
    known = {declaration.name: declaration for declaration in declarations}
    overrides = {name: parameter.value for name, parameter in node._parameter_overrides.items()}
    foreign = [name for name in overrides if name not in known and not name.startswith(_OF_RCLPY)]
    if foreign:
        raise SettingsError(f"{where}: unknown parameter {foreign[0]!r}; known parameters: {', '.join(sorted(known))}")
    values = {declaration.name: declaration.default for declaration in declarations}
    values.update({name: value for name, value in overrides.items() if name in known})
    settings = _build(cls, values, known, where)
    for declaration in declarations:
        value = _parameter_value(declaration, _value_at(settings, declaration.name))
        node.declare_parameter(declaration.name, value, _descriptor(declaration), ignore_override=True)
    _follow_changes(node, cls, known, where, changed)
    return settings


def _follow_changes(
    node: Node, cls: type[T], known: dict[str, _Declaration], where: str, changed: Callable[[T], None] | None
) -> None:
    def build_with(parameters: list[Parameter]) -> T:
        values = {name: node.get_parameter(name).value for name in known}
        values.update({parameter.name: parameter.value for parameter in parameters if parameter.name in known})
        return _build(cls, values, known, where)

    def check(parameters: list[Parameter]) -> SetParametersResult:
        try:
            build_with(parameters)
        except SettingsError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def apply(parameters: list[Parameter]) -> None:
        if changed is not None and any(parameter.name in known for parameter in parameters):
            changed(build_with([]))

    node.add_on_set_parameters_callback(check)
    node.add_post_set_parameters_callback(apply)


def _declarations(cls: Any, prefix: str = "") -> typing.Iterator[_Declaration]:
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        kind, name = hints[field.name], prefix + field.name
        if dataclasses.is_dataclass(kind):
            yield from _declarations(kind, name + ".")
            continue
        optional = typing.get_origin(kind) in (typing.Union, types.UnionType)
        if optional:
            kind = next(option for option in typing.get_args(kind) if option is not type(None))
        is_array = typing.get_origin(kind) in (tuple, list)
        scalar = typing.get_args(kind)[0] if is_array else kind
        if scalar not in _SCALARS or (optional and scalar not in (str, Path)):
            raise TypeError(f"{cls.__name__}.{field.name}: {kind} cannot be a ROS parameter")
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        yield _Declaration(name, default, optional, scalar, is_array, constraint(field))


def _build(cls: type[T], values: dict[str, Any], known: dict[str, _Declaration], where: str) -> T:
    tree: dict[str, Any] = {}
    for name, value in values.items():
        if value is MISSING:
            continue
        if known[name].optional and value == "":
            value = None
        if isinstance(value, array.array):
            value = value.tolist()
        *path, leaf = name.split(".")
        branch = tree
        for part in path:
            branch = branch.setdefault(part, {})
        branch[leaf] = value
    return from_dict(cls, tree, where)


def _value_at(settings: Any, name: str) -> Any:
    for part in name.split("."):
        settings = getattr(settings, part)
    return settings


def _parameter_value(declaration: _Declaration, value: Any) -> Any:
    def plain(item: Any) -> Any:
        return str(item) if isinstance(item, Path) else item

    if declaration.is_array:
        return [plain(item) for item in value or ()]
    return "" if value is None else plain(value)


def _descriptor(declaration: _Declaration) -> ParameterDescriptor:
    rule = declaration.rule
    descriptor = ParameterDescriptor(
        description=rule.doc + (f" [{rule.unit}]" if rule.unit else ""),
        additional_constraints=rule.allowed(),
        read_only=rule.read_only,
        # rclpy cannot tell the type of an empty list; the settings class checks the elements.
        dynamic_typing=declaration.is_array,
    )
    low = rule.at_least if rule.at_least is not None else rule.above
    if not declaration.is_array and (low is not None or rule.at_most is not None):
        if declaration.scalar is float:
            largest = sys.float_info.max
            descriptor.floating_point_range = [
                FloatingPointRange(
                    from_value=-largest if low is None else float(low),
                    to_value=largest if rule.at_most is None else float(rule.at_most),
                )
            ]
        elif declaration.scalar is int:
            descriptor.integer_range = [
                IntegerRange(
                    from_value=-(2**63) if low is None else int(low),
                    to_value=2**63 - 1 if rule.at_most is None else int(rule.at_most),
                    step=1,
                )
            ]
    return descriptor
