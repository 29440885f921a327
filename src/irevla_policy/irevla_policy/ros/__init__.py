"""ROS nodes and message conversion: the only folder that imports rclpy."""

from irevla_policy.ros import starting

# Here, because this runs before the imports of the node's own module.
if starting.runs_a_node():
    starting.end_at_once_when_told()
