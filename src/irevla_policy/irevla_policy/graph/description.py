"""What a node graph is: arguments a person may give, and the nodes that follow from them.

One description serves `ros2 launch` (the files in launch/) and `irevla up` (irevla_policy.graph.supervisor), so both
take the same arguments and start the same nodes with the same parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from irevla_policy.errors import UserError

ParameterValue = bool | int | float | str | list[str]


class GraphError(UserError, ValueError):
    """A graph or one of its arguments is unknown, or an argument's value is not allowed."""


@dataclass(frozen=True)
class Argument:
    """One argument of a graph, given as `name:=value`.

    Attributes:
        name: Name in snake_case.
        default: Value when it is not given, as text.
        description: One line: what it does, with unit or range.
        choices: The allowed values; empty when anything goes.
    """

    name: str
    default: str
    description: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class NodeSpec:
    """One process of a graph.

    Attributes:
        name: Name of the node, and prefix of its output; for programs of other projects the latter alone.
        package: ROS package that has the executable.
        executable: Executable for `ros2 run` and launch.
        module: Python module that is the same program, for machines without launch packages; empty for programs of
            other projects, which have to be installed. Those keep the names of their nodes: some have several.
        parameters: ROS parameters.
        arguments: Words on its command line, before those of ROS.
        parameters_file: ROS parameter file that is read after `parameters`; empty for none.
        remappings: Pairs of names, from and to.
        environment: Environment variables of this process that a user's own values override.
        log_level: Level of the node's logger.
        required: Whether the whole graph ends when this process does.
        finishes: Whether this process is expected to end, and the graph has done its work when it does so well.
    """

    name: str
    package: str
    executable: str
    module: str = ""
    parameters: Mapping[str, ParameterValue] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    parameters_file: str = ""
    remappings: tuple[tuple[str, str], ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    log_level: str = "info"
    required: bool = True
    finishes: bool = False


@dataclass(frozen=True)
class Graph:
    """Nodes that run together.

    Attributes:
        name: Name of the graph.
        nodes: The processes, in the order in which they start.
        environment: Environment variables of all processes; these win over the user's environment.
        packages: ROS packages of other projects that have to be installed, beside those of the nodes.
    """

    name: str
    nodes: tuple[NodeSpec, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    packages: tuple[str, ...] = ()


@dataclass(frozen=True)
class GraphDescription:
    """A graph before its arguments are known.

    Attributes:
        name: Name of the graph and of its launch file.
        summary: One line: what comes up.
        arguments: What a person may set.
        build: Makes the graph from a value for every argument.
    """

    name: str
    summary: str
    arguments: tuple[Argument, ...]
    build: Callable[[Mapping[str, str]], Graph]

    def resolve(self, values: Mapping[str, str]) -> Graph:
        """The graph for these arguments; defaults fill in what is not given.

        Raises:
            GraphError: An argument is unknown or its value is not allowed.
        """
        known = {argument.name: argument for argument in self.arguments}
        for name, value in values.items():
            if name not in known:
                raise GraphError(f"graph {self.name!r}: unknown argument {name!r}; known arguments: {', '.join(known)}")
            choices = known[name].choices
            if choices and value not in choices:
                raise GraphError(
                    f"graph {self.name!r}: argument {name} must be one of {', '.join(choices)}, found {value!r}"
                )
        return self.build({name: values.get(name, argument.default) for name, argument in known.items()})


def parse_arguments(words: list[str]) -> dict[str, str]:
    """Arguments as people write them on a command line, `name:=value`.

    Raises:
        GraphError: A word is not of that form, or a name comes twice.
    """
    values: dict[str, str] = {}
    for word in words:
        name, assign, value = word.partition(":=")
        if not assign or not name:
            raise GraphError(f"expected arguments of the form name:=value, found {word!r}")
        if name in values:
            raise GraphError(f"argument {name!r} is given twice")
        values[name] = value
    return values
