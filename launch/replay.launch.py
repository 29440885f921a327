"""Bags played onto the graph, and recorded as if they were live.

    ros2 launch irevla_policy replay.launch.py bag:=bags rate:=0
    ros2 launch irevla_policy replay.launch.py --show-args

The arguments and nodes are those of `irevla up replay`: both follow irevla_policy.graph.replay.
"""

from launch import LaunchDescription

from irevla_policy.ros.launch_graph import launch_description_of


def generate_launch_description() -> LaunchDescription:
    """What `ros2 launch` runs."""
    return launch_description_of("replay")
