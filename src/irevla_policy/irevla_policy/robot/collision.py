"""What the arm may not touch: itself, and the boxes around it that the profile names (Pinocchio and coal).

Shapes of the arm are the URDF's collision shapes, its gripper open. Links that are nearer than three joints to each
other, and those that touch in the home position anyway, are never looked at; nor is what stands beside the base or the
first link, which only turns.
"""

from __future__ import annotations

from collections.abc import Iterable

import coal
import numpy as np
import numpy.typing as npt
import pinocchio

from irevla_policy.robot.profile import RobotProfile
from irevla_policy.robot.scene import Touch
from irevla_policy.robot.urdf import mimics
from irevla_policy.settings import SettingsError

Array = npt.NDArray[np.float64]

_LINKS_APART, _OBSTACLE_APART = 3, 2
"""Joints between two links, and between a link and the ground that an obstacle stands on, from which on they count."""

MARGIN = 0.005
"""Distance that counts as touching, m."""


class CollisionModel:
    """Collisions of a profile's arm.

    Args:
        profile: The robot; its URDF needs collision shapes.

    Raises:
        SettingsError: The URDF cannot be read or has no collision shapes.
    """

    def __init__(self, profile: RobotProfile) -> None:
        path = str(profile.urdf_path)
        try:
            self._model = pinocchio.buildModelFromUrdf(path)
            self._geometry = pinocchio.buildGeomFromUrdf(self._model, path, pinocchio.GeometryType.COLLISION)
        except (RuntimeError, ValueError) as error:
            raise SettingsError(f"{path}: not a readable URDF: {' '.join(str(error).split())}") from error
        if not len(self._geometry.geometryObjects):
            raise SettingsError(f"{path}: has no collision shapes, which motions are checked against")
        self._index = [self._model.joints[self._model.getJointId(name)].idx_q for name in profile.joint_names]
        self._rest = self._opened(profile)
        self._links = len(self._geometry.geometryObjects)
        for box in profile.obstacles:
            placement = pinocchio.SE3(np.eye(3), np.array(box.position))
            shape = coal.Box(*box.size)
            self._geometry.addGeometryObject(pinocchio.GeometryObject(box.name, 0, placement, shape))
        self._data = self._model.createData()
        self._add_pairs()
        self._results = self._prepared()
        resting = set(self.touching(np.array(profile.home)))
        names = {box.name for box in profile.obstacles}
        if blocked := [pair for pair in resting if names & set(pair)]:
            raise SettingsError(f"{profile.place('home')}: the arm touches {blocked[0][1]} with {blocked[0][0]} there")
        for pair in list(self._geometry.collisionPairs):
            if self._names(pair) in resting:
                self._geometry.removeCollisionPair(pair)
        self._results = self._prepared()

    def _opened(self, profile: RobotProfile) -> Array:
        """A configuration of the URDF with the gripper as wide as it can be."""
        q = pinocchio.neutral(self._model)
        if profile.gripper is not None:
            opened = profile.gripper.opening[1]
            for name, (multiplier, offset) in mimics(profile.urdf_path, profile.gripper.joint).items():
                if self._model.existJointName(name):
                    joint = self._model.joints[self._model.getJointId(name)]
                    q[joint.idx_q : joint.idx_q + joint.nq] = multiplier * opened + offset
        return q

    def _add_pairs(self) -> None:
        shapes = self._geometry.geometryObjects
        for first in range(self._links):
            for second in range(first + 1, len(shapes)):
                apart = abs(shapes[first].parentJoint - shapes[second].parentJoint)
                if apart >= (_LINKS_APART if second < self._links else _OBSTACLE_APART):
                    self._geometry.addCollisionPair(pinocchio.CollisionPair(first, second))

    def _prepared(self) -> pinocchio.GeometryData:
        data = pinocchio.GeometryData(self._geometry)
        for request in data.collisionRequests:
            request.security_margin = MARGIN
        return data

    def _names(self, pair: pinocchio.CollisionPair) -> Touch:
        return self._name(pair.first), self._name(pair.second)

    def _name(self, index: int) -> str:
        """An obstacle's name, or that of a link, whose shapes are numbered."""
        name = str(self._geometry.geometryObjects[index].name)
        return name.rsplit("_", 1)[0] if index < self._links else name

    def touching(self, joints: Array) -> list[Touch]:
        """What touches what.

        Args:
            joints: Positions in the profile's order, rad, `[n]`.

        Returns:
            Pairs of names of links and obstacles.
        """
        q = self._rest.copy()
        q[self._index] = joints
        # Mostly nothing touches, and that is known in a fifth of the time that a list of pairs takes.
        if not pinocchio.computeCollisions(self._model, self._data, self._geometry, self._results, q, True):
            return []
        pinocchio.computeCollisions(self._model, self._data, self._geometry, self._results, q, False)
        return [
            self._names(pair)
            for pair, result in zip(self._geometry.collisionPairs, self._results.collisionResults, strict=True)
            if result.isCollision()
        ]

    def first_touch(self, path: Iterable[Array], allowed: Iterable[Touch] = ()) -> Touch | None:
        """The first pair that touches along a path; None when none does.

        Args:
            path: Joint positions, rad, `[n]` each, near enough to each other.
            allowed: Pairs that may.
        """
        free = set(allowed)
        for joints in path:
            for pair in self.touching(joints):
                if pair not in free:
                    return pair
        return None
