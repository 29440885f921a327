"""All node graphs by name."""

from __future__ import annotations

from irevla_policy.graph.arm import ARM
from irevla_policy.graph.description import GraphDescription, GraphError
from irevla_policy.graph.gazebo import GAZEBO
from irevla_policy.graph.replay import REPLAY
from irevla_policy.graph.sim import SIM
from irevla_policy.graph.trainer import TRAINER

GRAPHS: dict[str, GraphDescription] = {
    description.name: description for description in (SIM, GAZEBO, ARM, TRAINER, REPLAY)
}


def find_graph(name: str) -> GraphDescription:
    """The description of a graph.

    Raises:
        GraphError: There is no graph of that name.
    """
    try:
        return GRAPHS[name]
    except KeyError:
        raise GraphError(f"unknown graph {name!r}; known graphs: {', '.join(GRAPHS)}") from None
