"""The simulated arm with guard, policy or scripted expert, and recorder.

    ros2 launch irevla_policy sim.launch.py task:=door-open checkpoint:=out/demo/checkpoint
    ros2 launch irevla_policy sim.launch.py --show-args

The arguments and nodes are those of `irevla up sim`: both follow irevla_policy.graph.sim.
"""

from launch import LaunchDescription

from irevla_policy.ros.launch_graph import launch_description_of


def generate_launch_description() -> LaunchDescription:
    """What `ros2 launch` runs."""
    return launch_description_of("sim")
