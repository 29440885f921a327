"""A node graph as actions of ROS 2 launch; the files in launch/ are made of this."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    OpaqueFunction,
    Shutdown,
    UnsetLaunchConfiguration,
)
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from irevla_policy.graph import ending
from irevla_policy.graph.description import Graph, GraphDescription, GraphError, NodeSpec
from irevla_policy.graph.environment import node_environment
from irevla_policy.graph.installed import check_installed
from irevla_policy.graph.registry import find_graph
from irevla_policy.graph.shared_memory import reclaim


def launch_description_of(name: str, includes: Mapping[str, str] | None = None) -> LaunchDescription:
    """The launch description of a graph, with the same arguments and nodes as `irevla up`.

    Args:
        name: Name of the graph.
        includes: Arguments beside those of the graph, which name other launch files, to their descriptions. The files
            get no arguments of ours: what they need has to be the default in them, or in a file that includes them.
            What they set, like a namespace, is for what comes after them, which our nodes do not.
    """
    files = includes or {}
    description = find_graph(name)
    arguments = [
        DeclareLaunchArgument(
            argument.name,
            default_value=argument.default,
            description=argument.description,
            choices=list(argument.choices) or None,
        )
        for argument in description.arguments
    ]
    arguments += [DeclareLaunchArgument(file, default_value="", description=about) for file, about in files.items()]
    return LaunchDescription([*arguments, OpaqueFunction(function=_actions, args=[description, list(files)])])


def _actions(
    context: LaunchContext, description: GraphDescription, files: Sequence[str]
) -> list[LaunchDescriptionEntity]:
    # The values are texts and become parameters only here, because which nodes start depends on them.
    values = {argument.name: LaunchConfiguration(argument.name).perform(context) for argument in description.arguments}
    graph = description.resolve(values)
    check_installed(graph)
    # Nothing of an arm is started before all that was asked for is known to be there.
    included = [_include(context, file) for file in files if LaunchConfiguration(file).perform(context)]
    reclaim()
    # A group of their own would take their arguments from them again before their event handlers ask for these.
    ours = [UnsetLaunchConfiguration(name) for name in (*values, *files)] if included else []
    return [*(_action(graph, node) for node in graph.nodes), *ours, *included]


def _include(context: LaunchContext, name: str) -> IncludeLaunchDescription:
    path = LaunchConfiguration(name).perform(context)
    if not Path(path).is_file():
        raise GraphError(f"argument {name}: there is no file {path}")
    return IncludeLaunchDescription(path)


def _action(graph: Graph, node: NodeSpec) -> Node:
    return Node(
        package=node.package,
        executable=node.executable,
        name=node.name if node.module else None,
        arguments=list(node.arguments),
        parameters=[dict(node.parameters), *([node.parameters_file] if node.parameters_file else [])],
        remappings=list(node.remappings),
        ros_arguments=["--log-level", node.log_level],
        env=node_environment(graph, node, {}),
        output="screen",
        on_exit=[Shutdown(reason=f"{node.name} ended")] if node.required or node.finishes else None,
        sigterm_timeout=str(ending.TERMINATE_AFTER),
        sigkill_timeout=str(ending.KILL_AFTER - ending.TERMINATE_AFTER),
    )
