r"""A physical arm: guard, policy, homing and recorder, and, if named, the launch files of its drivers and cameras.

    ros2 launch irevla_policy arm.launch.py robot:=panda checkpoint:=out/sft/checkpoint tasks:=tabletop \
        driver:=$(ros2 pkg prefix --share franka_bringup)/launch/franka.launch.py cameras:=my_cameras.launch.py
    ros2 launch irevla_policy arm.launch.py --show-args

The arguments and nodes are those of `irevla up arm`, which starts no drivers: both follow irevla_policy.graph.arm.
"""

from launch import LaunchDescription

from irevla_policy.ros.launch_graph import launch_description_of


def generate_launch_description() -> LaunchDescription:
    """What `ros2 launch` runs."""
    drivers = {
        "driver": "Launch file of the arm's driver and controllers; empty when they run already",
        "cameras": "Launch file of the cameras; empty when they run already",
    }
    return launch_description_of("arm", drivers)
