"""The demo's two robots: one that is watched, retrained and recorded, and one that takes a share of the evaluation.

An episode in lock-step leaves much of a second core idle, since the simulator waits for the policy and the policy for
the simulator. What it comes to depends on its seed and the policy alone, not on the robot.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import yaml

from irevla_policy.graph.domains import other_domain
from irevla_policy.graph.registry import find_graph
from irevla_policy.graph.supervisor import Supervisor
from irevla_trainer.evaluate import EvaluationTask
from irevla_trainer.ros.episodes import EndedEpisode, EpisodeRunner

ROBOT = "sawyer"


@dataclass(frozen=True)
class Wanted:
    """An episode to run.

    Attributes:
        task: What is to be done.
        seed: Of the world.
        bag: Name of its bag; empty for none.
    """

    task: EvaluationTask
    seed: int
    bag: str = ""


class Robots:
    """Two simulated robots that the same policy drives, each on a ROS domain of its own; leave the context to end them.

    Attributes:
        first: The robot that is retrained; its episodes can be recorded. It is on the domain of this process.

    Args:
        checkpoint: Of the policy.
        task: That the worlds start with.
        bags: Folder of the first robot's bags.
        logs: Folder for the nodes' output and parameters.
        max_steps: Decisions until an episode is given up; the task's own number by default.
    """

    def __init__(self, checkpoint: Path, task: str, bags: Path, logs: Path, max_steps: int | None = None) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        parameters = logs / "parameters.yaml"
        parameters.write_text(yaml.safe_dump({"irevla_sim": {"ros__parameters": {"max_steps": max_steps or 0}}}))
        arguments = {"mode": "lock_step", "robot": ROBOT, "task": task, "checkpoint": str(checkpoint)}
        arguments |= {"expert": "false", "params_file": str(parameters)}
        graph, domain = find_graph("sim"), other_domain()
        first = graph.resolve({**arguments, "record": str(bags)})
        second = graph.resolve({**arguments, "record": "", "domain_id": str(domain)})
        with ExitStack() as opening:
            here = opening.enter_context(Supervisor(first, log_dir=logs))
            there = opening.enter_context(Supervisor(second, log_dir=logs / "second"))
            self._checks = (here.check, there.check)
            self.first = opening.enter_context(EpisodeRunner(True, here.check))
            self._second = opening.enter_context(EpisodeRunner(True, there.check, domain=domain))
            self._open = opening.pop_all()

    def check(self) -> None:
        """Raise when a node has ended.

        Raises:
            RunError: One has.
        """
        for check in self._checks:
            check()

    def load_policy(self, checkpoint: Path) -> None:
        """Let the second robot serve what the first does by now.

        Raises:
            RunError: It refused.
        """
        self._second.load_policy(checkpoint)

    def run(self, wanted: Sequence[Wanted], show: Callable[[Wanted, EndedEpisode], None]) -> list[EndedEpisode]:
        """Run episodes on both robots, recorded ones on the first.

        Args:
            wanted: The episodes.
            show: Called after each, one call at a time.

        Returns:
            Them in the order of `wanted`.

        Raises:
            RunError: An episode did not go on.
        """
        recorded = deque(place for place, one in enumerate(wanted) if one.bag)
        others = deque(place for place, one in enumerate(wanted) if not one.bag)
        ended: dict[int, EndedEpisode] = {}
        one_at_a_time = threading.Lock()

        def work(runner: EpisodeRunner, *queues: deque[int]) -> None:
            for queue in queues:
                while queue:
                    try:
                        place = queue.popleft()
                    except IndexError:
                        break  # the other robot took the last one
                    one = wanted[place]
                    ended[place] = runner.run(
                        one.task.task,
                        variation=one.task.variation,
                        seed=one.seed,
                        record=bool(one.bag),
                        name=one.bag,
                    )
                    with one_at_a_time:
                        show(one, ended[place])

        with ThreadPoolExecutor(2) as pool:
            working = [pool.submit(work, self.first, recorded, others), pool.submit(work, self._second, others)]
            try:
                wait(working, return_when=FIRST_EXCEPTION)
            finally:
                # After an error or Ctrl-C neither begins another one.
                recorded.clear()
                others.clear()
        for one in working:
            one.result()
        return [ended[place] for place in range(len(wanted))]

    def __enter__(self) -> Robots:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
