"""Kinematics of the arm: where the end effector is, and which joint positions put it somewhere (Pinocchio)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pinocchio

from irevla_policy.robot.profile import RobotProfile
from irevla_policy.settings import SettingsError

Array = npt.NDArray[np.float64]

_MAX_ITERATIONS = 12
_POSITION_TOLERANCE = 1e-5  # m
_ROTATION_TOLERANCE = 1e-4  # rad
_POSITION_WEIGHT = 10.0  # rad/m: where the gripper is matters more than how it is turned
_DAMPING = 0.03  # rad/rad: speed is not traded for what singular values below it would give
_MORE_DAMPING = 10.0  # factor after a step that made the error larger (Levenberg-Marquardt)
_STALLED = 0.02  # an iteration that takes away less of the squared error is the last
_LARGEST_STEP = 0.5  # rad per iteration: the linearisation holds no further
_POSTURE_GAIN = 0.2  # share of the way back to the home posture, in the null space, per call


class ArmKinematics:
    """Forward and inverse kinematics of the profile's arm joints.

    All joint vectors are in the profile's order, `[n]`, rad; positions in m in the base frame (the URDF's root).
    Other joints of the URDF (fingers, wheels) stay at their neutral position.

    Raises:
        SettingsError: The URDF cannot be read, or lacks a joint or the end-effector frame of the profile.
    """

    def __init__(self, profile: RobotProfile) -> None:
        full = _read_urdf(profile)
        missing = [name for name in profile.joint_names if not full.existJointName(name)]
        if missing:
            known = ", ".join(list(full.names)[1:])
            raise SettingsError(
                f"{profile.urdf_path}: has no joint {missing[0]!r} of profile {profile.name!r}; it has: {known}"
            )
        locked = [index for index in range(1, full.njoints) if full.names[index] not in profile.joint_names]
        model = pinocchio.buildReducedModel(full, locked, pinocchio.neutral(full)) if locked else full
        if model.nq != len(profile.joints):
            raise SettingsError(
                f"{profile.urdf_path}: joints of profile {profile.name!r} must turn or slide in one axis"
            )
        frame = profile.kinematics.ee_frame
        if not model.existFrame(frame):
            raise SettingsError(
                f"{profile.urdf_path}: has no frame {frame!r} (kinematics.ee_frame of {profile.name!r})"
            )
        self._model = model
        self._data = model.createData()
        self._frame = model.getFrameId(frame)
        # Index in the model of each joint of the profile, and the way back.
        self._index = np.array([model.joints[model.getJointId(name)].idx_q for name in profile.joint_names])
        self._ordered = bool(np.all(self._index == np.arange(model.nq)))
        self._low = np.array([joint.position[0] for joint in profile.joints])
        self._high = np.array([joint.position[1] for joint in profile.joints])
        self._home = np.array(profile.home)

    def position(self, q: Array) -> Array:
        """Position of the end effector, m, `[3]`."""
        return self._forward(q).translation.copy()

    def pose(self, q: Array) -> tuple[Array, Array]:
        """Position, m, `[3]`, and rotation matrix, `[3, 3]`, of the end effector."""
        placement = self._forward(q)
        return placement.translation.copy(), placement.rotation.copy()

    def solve(self, q_start: Array, position: Array, rotation: Array) -> Array:
        """Joint positions that put the end effector at a pose, near where the arm is now.

        Levenberg-Marquardt with joint limits kept. Where the arm cannot have both, the
        gripper tilts and keeps its position. A redundant arm also drifts towards the profile's home posture, which
        makes the solution depend on the pose and little on the way there. Deterministic, with a bound on the work.

        Args:
            q_start: Where to start, rad, `[n]`.
            position: Wanted position, m, `[3]`.
            rotation: Wanted rotation matrix, `[3, 3]`.

        Returns:
            Joint positions inside the limits, `[n]`; for a pose out of reach those of the smallest error found.
        """
        q = np.clip(np.asarray(q_start, dtype=np.float64), self._low, self._high)
        target = pinocchio.SE3(np.asarray(rotation, dtype=np.float64), np.asarray(position, dtype=np.float64))
        posture = _POSTURE_GAIN * (self._home - q)
        damping = _DAMPING**2
        error, jacobian = self._error(q, target)
        for _ in range(_MAX_ITERATIONS):
            close = np.abs(error[:3]).max() < _POSITION_WEIGHT * _POSITION_TOLERANCE
            if close and np.abs(error[3:]).max() < _ROTATION_TOLERANCE:
                break
            tried = np.clip(q + self._step(q, error, jacobian, posture, damping), self._low, self._high)
            posture = np.zeros_like(posture)
            error_there, jacobian_there = self._error(tried, target)
            gain = 1.0 - float(error_there @ error_there) / float(error @ error)
            if gain <= 0.0:
                damping *= _MORE_DAMPING
                continue
            q, error, jacobian = tried, error_there, jacobian_there
            damping = max(damping / _MORE_DAMPING, _DAMPING**2)
            if gain < _STALLED:
                break
        return q

    def _step(self, q: Array, error: Array, jacobian: Array, posture: Array, damping: float) -> Array:
        free = np.ones(len(q), dtype=bool)
        while True:
            active = jacobian * free
            gram = active @ active.T
            gram.flat[:: len(gram) + 1] += damping
            step = active.T @ np.linalg.solve(gram, error - active @ posture) + posture * free
            largest = np.abs(step).max()
            if largest > _LARGEST_STEP:
                step *= _LARGEST_STEP / largest
            # A joint that would leave its limits stops there and the others take over.
            blocked = free & (((q <= self._low) & (step < 0.0)) | ((q >= self._high) & (step > 0.0)))
            if not blocked.any():
                return step
            free &= ~blocked

    def _error(self, q: Array, target: pinocchio.SE3) -> tuple[Array, Array]:
        """Weighted pose error `[6]` (position, then rotation; rad; in the base's axes) and its Jacobian `[6, n]`."""
        placement = self._forward(q)
        rotation = placement.rotation
        jacobian = pinocchio.computeFrameJacobian(
            self._model, self._data, self._inner(q), self._frame, pinocchio.LOCAL_WORLD_ALIGNED
        )
        error = np.empty(6)
        error[:3] = _POSITION_WEIGHT * (target.translation - placement.translation)
        error[3:] = rotation @ pinocchio.log3(rotation.T @ target.rotation)
        jacobian[:3] *= _POSITION_WEIGHT
        return error, jacobian if self._ordered else jacobian[:, self._index]

    def _forward(self, q: Array) -> pinocchio.SE3:
        pinocchio.forwardKinematics(self._model, self._data, self._inner(q))
        return pinocchio.updateFramePlacement(self._model, self._data, self._frame)

    def _inner(self, q: Array) -> Array:
        q = np.asarray(q, dtype=np.float64)
        if self._ordered:
            return q
        inner = np.empty_like(q)
        inner[self._index] = q
        return inner


def _read_urdf(profile: RobotProfile) -> pinocchio.Model:
    path = profile.urdf_path
    if not path.is_file():
        raise SettingsError(f"{path}: no such URDF (kinematics.urdf of profile {profile.name!r})")
    try:
        return pinocchio.buildModelFromUrdf(str(path))
    except (RuntimeError, ValueError) as error:
        raise SettingsError(f"{path}: not a readable URDF: {' '.join(str(error).split())}") from error
