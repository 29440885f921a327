"""What stands in for moveit_py where it is not installed: its calls, answered by Pinocchio and a straight way.

Calls take and give what the bindings of moveit_py do; tests say by `obstacle` what is in the scene.
"""

from __future__ import annotations

import sys
import types
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from irevla_policy.robot.collision import CollisionModel
from irevla_policy.robot.profile import Obstacle, RobotProfile

SUCCESS, PLANNING_FAILED = 1, 99999


class RobotState:
    def __init__(self, positions: dict[str, float], attached: str = "") -> None:
        self._positions, self.attached, self.is_fresh = dict(positions), attached, False

    @property
    def joint_positions(self) -> dict[str, float]:
        return dict(self._positions)

    @joint_positions.setter
    def joint_positions(self, values: dict[str, float]) -> None:
        assert set(values) <= set(self._positions)
        self._positions |= values
        self.is_fresh = False

    def update(self) -> None:
        self.is_fresh = True

    def __copy__(self) -> RobotState:
        return RobotState(self._positions, self.attached)


class PlanningScene:
    def __init__(self, moveit: MoveItPy) -> None:
        self._moveit = moveit
        self.current_state = RobotState(dict.fromkeys([*moveit.profile.joint_names, "finger"], 0.0), "a held block")

    planning_frame = "panda_link0"

    def knows_frame_transform(self, *, frame_id: str) -> bool:
        return frame_id in (*self._moveit.frames, *(box.id for box in self._moveit.boxes))

    def apply_collision_object(self, collision_object_msg: Any) -> None:
        self._moveit.boxes.append(collision_object_msg)

    def is_state_colliding(self, *, robot_state: RobotState, joint_model_group_name: str) -> bool:
        assert joint_model_group_name == "arm"
        assert robot_state.is_fresh and robot_state.attached, "what is held is part of the state"
        return self._moveit.collides(robot_state)


class Locked:
    def __init__(self, moveit: MoveItPy) -> None:
        self._moveit = moveit

    def __enter__(self) -> PlanningScene:
        self._moveit.locks += 1
        return self._moveit.scene

    def __exit__(self, *_: object) -> None:
        self._moveit.locks -= 1


@dataclass
class Trajectory:
    """From rest to rest within moveit's own limits, of 1 rad/s and 4 rad/s^2."""

    begin: RobotState
    goal: RobotState
    states: list[RobotState] = field(default_factory=list)
    step: float = 0.0

    def apply_totg_time_parameterization(
        self,
        velocity_scaling_factor: float,
        acceleration_scaling_factor: float,
        *,
        path_tolerance: float = 0.1,
        resample_dt: float = 0.1,
    ) -> bool:
        assert velocity_scaling_factor == acceleration_scaling_factor == 1.0 and path_tolerance < 0.1
        self.step = resample_dt
        begin, goal = (np.array(list(state.joint_positions.values())) for state in (self.begin, self.goal))
        duration = 2.0 * max(np.abs(goal - begin).max(), 0.25)
        for time in np.append(np.arange(0.0, duration, resample_dt), duration):
            share = 0.5 - 0.5 * np.cos(np.pi * time / duration)
            state = RobotState(self.begin.joint_positions)
            positions = begin + share * (goal - begin) + MoveItPy.bulge * np.sin(np.pi * share)
            state.joint_positions = dict(zip(state.joint_positions, positions, strict=True))
            self.states.append(state)
        return True

    def get_waypoint_durations(self) -> list[float]:
        return [0.0] + [self.step] * (len(self.states) - 1)

    def __iter__(self) -> Any:
        return iter(self.states)


class Response:
    def __init__(self, trajectory: Trajectory | None) -> None:
        self.trajectory = trajectory
        self.error_code = types.SimpleNamespace(val=SUCCESS if trajectory else PLANNING_FAILED)

    def __bool__(self) -> bool:
        return self.error_code.val == SUCCESS


class PlanningComponent:
    def __init__(self, moveit: MoveItPy) -> None:
        self._moveit = moveit

    def set_start_state(self, *, robot_state: RobotState) -> bool:
        self._begin = robot_state
        return True

    def set_goal_state(self, *, robot_state: RobotState) -> bool:
        self._goal = robot_state
        return True

    def plan(self) -> Response:
        assert self._moveit.locks == 0, "planning waits for the scene's lock"
        way = Trajectory(self._begin, self._goal)
        bulge, MoveItPy.bulge = MoveItPy.bulge, np.zeros(1)
        way.apply_totg_time_parameterization(1.0, 1.0, path_tolerance=0.0, resample_dt=0.05)
        MoveItPy.bulge = bulge
        free = not any(self._moveit.collides(state) for state in way.states)
        return Response(Trajectory(self._begin, self._goal) if free else None)


class MoveItPy:
    """One of them exists at a time; the last is `MoveItPy.last`."""

    profile: RobotProfile
    last: MoveItPy
    frames: tuple[str, ...] = ("panda_link0",)
    answers = True
    """Whether move_group does."""
    bulge = np.zeros(1)
    """How far the timed way is beside the planned one, rad, of the joints and the finger."""

    def __init__(
        self,
        *,
        node_name: str,
        config_dict: dict[str, Any],
        provide_planning_service: bool,
        remappings: dict[str, str],
    ) -> None:
        self.node_name, self.config, self.remappings = node_name, config_dict, remappings
        self.boxes: list[Any] = []
        self.locks = 0
        self.scene = PlanningScene(self)
        MoveItPy.last = self
        assert not provide_planning_service

    def collides(self, state: RobotState) -> bool:
        boxes = tuple(
            Obstacle(box.id, _place(box.primitive_poses[0].position), tuple(box.primitives[0].dimensions))
            for box in self.boxes
        )
        model = CollisionModel(replace(self.profile, obstacles=boxes))
        return bool(model.touching(np.array([state.joint_positions[name] for name in self.profile.joint_names])))

    def get_planning_component(self, planning_component_name: str) -> PlanningComponent:
        assert planning_component_name == "arm"
        return PlanningComponent(self)

    def get_planning_scene_monitor(self) -> Any:
        return types.SimpleNamespace(
            read_only=lambda: Locked(self), read_write=lambda: Locked(self), request_planning_scene_state=self.request
        )

    def request(self, service_name: str) -> bool:
        """A whole scene comes, if one does: what was in it is gone."""
        assert service_name == "/get_planning_scene"
        self.boxes.clear()
        return self.answers

    def get_robot_model(self) -> Any:
        groups = {"arm": [*self.profile.joint_names], "arm_and_hand": [*self.profile.joint_names, "finger"]}
        return types.SimpleNamespace(
            joint_model_group_names=list(groups),
            get_joint_model_group=lambda name: types.SimpleNamespace(active_joint_model_names=groups[name]),
        )


def _place(position: Any) -> tuple[float, float, float]:
    return (position.x, position.y, position.z)


class CollisionObject:
    ADD = b"\x00"

    def __init__(self, *, id: str, operation: bytes) -> None:
        assert operation == self.ADD
        self.id, self.header = id, types.SimpleNamespace(frame_id="")
        self.primitives: list[Any] = []
        self.primitive_poses: list[Any] = []


class SolidPrimitive:
    BOX = 1

    def __init__(self, *, type: int, dimensions: list[float]) -> None:
        assert type == self.BOX and len(dimensions) == 3
        self.dimensions = dimensions


def install(monkeypatch: pytest.MonkeyPatch, profile: RobotProfile) -> None:
    """Let `import moveit` find what stands in, for a profile's robot."""
    monkeypatch.setattr(MoveItPy, "profile", profile, raising=False)
    modules = {
        "moveit": {},
        "moveit.planning": {"MoveItPy": MoveItPy},
        "moveit_msgs": {},
        "moveit_msgs.msg": {"CollisionObject": CollisionObject},
        "shape_msgs": {},
        "shape_msgs.msg": {"SolidPrimitive": SolidPrimitive},
    }
    for name, contents in modules.items():
        module = types.ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
