"""The node that turns recorded episodes into better policies, beside a graph with a robot.

    ros2 launch irevla_policy trainer.launch.py watch:=bags
    ros2 launch irevla_policy trainer.launch.py --show-args

The arguments and nodes are those of `irevla up trainer`: both follow irevla_policy.graph.trainer.
"""

from launch import LaunchDescription

from irevla_policy.ros.launch_graph import launch_description_of


def generate_launch_description() -> LaunchDescription:
    """What `ros2 launch` runs."""
    return launch_description_of("trainer")
