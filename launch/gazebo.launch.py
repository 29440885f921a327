r"""The tabletop in Gazebo Harmonic, on the topics of a physical arm, with guard, policy, homing and recorder.

    ros2 launch irevla_policy gazebo.launch.py task:=pick-carrot checkpoint:=out/sft/checkpoint
    ros2 launch irevla_policy gazebo.launch.py --show-args

The arguments and nodes are those of `irevla up gazebo`: both follow irevla_policy.graph.gazebo.
"""

from launch import LaunchDescription

from irevla_policy.ros.launch_graph import launch_description_of


def generate_launch_description() -> LaunchDescription:
    """What `ros2 launch` runs."""
    return launch_description_of("gazebo")
