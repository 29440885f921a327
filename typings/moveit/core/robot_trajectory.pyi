from collections.abc import Iterator

from moveit.core.robot_state import RobotState

class RobotTrajectory:
    def apply_totg_time_parameterization(
        self,
        velocity_scaling_factor: float,
        acceleration_scaling_factor: float,
        *,
        path_tolerance: float = ...,
        resample_dt: float = ...,
    ) -> bool: ...
    def get_waypoint_durations(self) -> list[float]: ...
    def __iter__(self) -> Iterator[RobotState]: ...
