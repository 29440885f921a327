from moveit.core.robot_trajectory import RobotTrajectory

class _ErrorCode:
    val: int

class MotionPlanResponse:
    @property
    def trajectory(self) -> RobotTrajectory: ...
    @property
    def error_code(self) -> _ErrorCode: ...
    def __bool__(self) -> bool: ...
