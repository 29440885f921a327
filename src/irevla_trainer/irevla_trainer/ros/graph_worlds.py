"""A graph with a robot and its guard in place of worlds in the learner's processes: one episode at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from irevla_policy.errors import RunError
from irevla_policy.graph.domains import other_domain
from irevla_policy.graph.environment import adopt_environment
from irevla_policy.graph.registry import find_graph
from irevla_policy.graph.supervisor import Supervisor
from irevla_policy.robot.decision import Source
from irevla_policy.robot.profile import load_profile
from irevla_policy.sim.environment import Observed
from irevla_policy.sim.tasks import TaskFile, load_tasks
from irevla_trainer.rl.worlds import EpisodeRequest, Seen, Stepped
from irevla_trainer.ros.graph_env import GraphEnvironment


class EnvironmentWorlds:
    """What the loop uses of `Worlds`, through an environment.

    Args:
        environment: The robot.
        tasks: Tasks and their variations.
        max_steps: Decisions until an episode is given up; the tasks' own numbers by default.
    """

    def __init__(self, environment: GraphEnvironment, tasks: TaskFile, max_steps: int | None = None) -> None:
        self.tasks = tasks
        self._environment = environment
        self._max_steps = max_steps

    def steps(self, task: str) -> int:
        """Decisions until an episode of a task is given up."""
        return self._max_steps or self.tasks.steps(task)

    def episodes(
        self,
        requests: Sequence[EpisodeRequest],
        decide: Callable[[Seen], npt.NDArray[np.floating[Any]]],
    ) -> Iterator[Stepped]:
        """Run episodes to their ends; see `Worlds.episodes`."""
        for request in requests:
            self.tasks.variation(request.task, request.variation)
        for index, request in enumerate(requests):
            options = {"task": request.task, "variation": request.variation}
            observed, info = self._environment.reset(seed=request.seed, options=options)
            ended = False
            while not ended:
                seen = _seen(index, info["step"], observed, info["instruction"])
                action = np.asarray(decide(seen), dtype=np.float32)[0]
                if not np.isfinite(action).all():
                    raise RunError("the policy's actions are not finite: its weights have diverged")
                observed, _, terminated, truncated, info = self._environment.step(action)
                # A person's "no" ends an episode for good as a success does; a robot has no simulator to give it up.
                success = bool(info["success"])
                ended = terminated or truncated or info["step"] >= self.steps(request.task)
                last = _seen(index, info["step"], observed, info["instruction"]) if ended else None
                yield Stepped(
                    [index],
                    np.array([success]),
                    np.array([ended and not terminated]),
                    last,
                    _instead(action, info),
                    np.array([terminated and not success]),
                )


class GraphWorlds(EnvironmentWorlds):
    """Worlds on a graph of its own, in lock-step with its simulator; leave the context to end it.

    The graph is on another ROS domain than this process, which may have inherited that of a live robot.

    Args:
        robot: Robot profile, name or file.
        task_file: File of tasks and variations.
        max_steps: Decisions until an episode is given up; the tasks' own numbers by default.
        log_dir: Folder for the nodes' output.
    """

    def __init__(
        self, robot: str, task_file: str = "metaworld", max_steps: int | None = None, log_dir: Path | None = None
    ) -> None:
        tasks = load_tasks(task_file)
        self._open = ExitStack()
        adopt_environment()
        domain = other_domain()
        arguments = {"robot": robot, "world": tasks.world, "mode": "lock_step", "expert": "false", "record": ""}
        try:
            # The simulator gives an episode up by itself, too.
            parameters = Path(self._open.enter_context(tempfile.TemporaryDirectory()), "parameters.yaml")
            parameters.write_text(yaml.safe_dump({"irevla_sim": {"ros__parameters": {"max_steps": max_steps or 0}}}))
            arguments["params_file"] = str(parameters)
            graph = find_graph("sim").resolve(arguments)
            nodes = self._open.enter_context(Supervisor(graph, {"ROS_DOMAIN_ID": str(domain)}, log_dir))
            environment = self._open.enter_context(
                GraphEnvironment(
                    load_profile(robot),
                    next(iter(tasks.tasks)),
                    lock_step=True,
                    max_steps=max_steps,
                    check=nodes.check,
                    domain=domain,
                )
            )
        except BaseException:
            self._open.close()
            raise
        super().__init__(environment, tasks, max_steps)

    def __enter__(self) -> GraphWorlds:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the graph."""
        self._open.close()


def _instead(action: npt.NDArray[np.float32], info: dict[str, Any]) -> npt.NDArray[np.float32]:
    """What somebody who intervened had carried out, `[1, a]`; NaN when nobody did."""
    if info.get("source") == Source.INTERVENTION.name.lower() and info["executed"].shape == action.shape:
        return np.asarray(info["executed"], dtype=np.float32)[None]
    return np.full_like(action, np.nan)[None]


def _seen(index: int, step: int, observed: Observed, instruction: str) -> Seen:
    images = {name: array[None] for name, array in observed.items() if name != "state"}
    return Seen([index], [step], images, [instruction], observed["state"][None])
