"""Running a node graph against the rig, in a ROS domain of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import rclpy
import yaml
from rclpy.executors import SingleThreadedExecutor
from std_msgs.msg import String

from irevla_policy.errors import RunError
from irevla_policy.graph.description import Graph, NodeSpec
from irevla_policy.graph.environment import adopt_environment
from irevla_policy.graph.supervisor import Supervisor
from irevla_policy.robot.camera import Camera
from irevla_policy.robot.profile import RobotProfile, load_profile
from irevla_policy.ros import qos
from irevla_policy.settings import to_dict
from irevla_trainer.ros.rig import Answers, Rig

_INSTRUCTION = "open the drawer"
_PATIENCE = 60.0  # s


def play(
    graph: Graph,
    profile: RobotProfile,
    seconds: float,
    warm_up: float,
    beside: Callable[[], None] = lambda: None,
    **topics: Any,
) -> Rig:
    """Play the rig's streams to a graph; returns the rig with what it saw after the warm-up.

    Args:
        graph: Nodes under test.
        profile: What the rig publishes.
        seconds: How long, after the warm-up.
        warm_up: How long to play after the first answer before anything counts, s.
        beside: Runs in a thread of its own while it counts; must end before `seconds` are over.
        topics: Topics of the answers, see `Rig`.

    Raises:
        RunError: A node ended, or nothing was answered.
    """
    with rig(profile, **topics) as source, Supervisor(graph) as running:
        waited = 0.0
        while not source.answers.latency:
            if waited >= _PATIENCE:
                raise RunError(f"graph {graph.name!r}: no command answered a camera image within {_PATIENCE:.0f} s")
            source.play(0.5)
            running.check()
            waited += 0.5
        source.play(warm_up)
        source.answers, source.published = Answers(), {}
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(beside)
            source.play(seconds)
            running.check()
            done.result()
        return source


def policy_graph(name: str, robot: str, checkpoint: Path) -> Graph:
    """Policy node and guard of a robot, the policy on one thread."""
    guard = NodeSpec("irevla_guard", "irevla_policy", "irevla_guard", "irevla_policy.ros.guard_node", {"robot": robot})
    policy = NodeSpec(
        "irevla_policy",
        "irevla_policy",
        "irevla_policy",
        "irevla_policy.ros.policy_node",
        {"robot": robot, "checkpoint": str(checkpoint)},
        environment={"OMP_NUM_THREADS": "1"},
    )
    return Graph(name, (guard, policy))


def write_profile(folder: Path, cameras: tuple[Camera, ...]) -> tuple[RobotProfile, str]:
    """The default robot with other cameras, and the file from which nodes load it."""
    shipped = load_profile("sawyer")
    profile = replace(shipped, cameras=cameras, kinematics=replace(shipped.kinematics, urdf=str(shipped.urdf_path)))
    document = to_dict(profile)
    del document["file"]
    path = folder / "robot.yaml"
    path.write_text(yaml.safe_dump(document))
    return profile, str(path)


@contextmanager
def rig(profile: RobotProfile, **topics: Any) -> Iterator[Rig]:
    """A rig that spins in a thread of its own, with an instruction in force."""
    adopt_environment(private=True)
    rclpy.init()
    node = Rig(profile, **topics)
    instruction = node.create_publisher(String, "/irevla/instruction", qos.latched())
    instruction.publish(String(data=_INSTRUCTION))
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin, daemon=True)
    thread.start()
    try:
        yield node
    finally:
        executor.shutdown()
        thread.join(timeout=2.0)
        node.destroy_node()
        rclpy.try_shutdown()
