"""Flies one policy: from an observation to the proposal that answers it (pure).

It keeps what a policy has to remember between observations, the rest of an action chunk and the commanded reference of
the action mapper, and forgets both when asked to start over.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from irevla_policy.robot.action import ActionError, ActionMapper
from irevla_policy.robot.kinematics import ArmKinematics
from irevla_policy.robot.observation import Observation, Vector
from irevla_policy.robot.profile import RobotProfile
from irevla_policy.robot.proposal import Proposal
from irevla_policy.robot.proprioception import proprioceptive_state


class Policy(Protocol):
    """What decides."""

    def act(self, observations: Sequence[Observation], states: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Raw actions `[B, chunk, action_dim]` for B observations and their proprioceptive states `[B, state_dim]`."""
        ...


@dataclass(frozen=True, eq=False)
class ServedPolicy:
    """A policy with its version (12 hex digits of the checkpoint's content) and where it was loaded from."""

    policy: Policy
    version: str
    folder: str


@dataclass(frozen=True, eq=False)
class Flown:
    """A proposal and how it came about.

    Attributes:
        proposal: Answer to the observation. Its targets are NaN when the policy's action cannot be mapped, so that the
            guard refuses it and the world does not wait in vain.
        forward_seconds: Time of the policy's forward pass, s; 0 when a chunk went on.
        problem: What was wrong with the policy's action; empty when nothing was.
    """

    proposal: Proposal
    forward_seconds: float
    problem: str


class Pilot:
    """Answers observations.

    Args:
        profile: The robot.
        kinematics: Its kinematics.
    """

    def __init__(self, profile: RobotProfile, kinematics: ArmKinematics) -> None:
        self._profile = profile
        self._kinematics = kinematics
        self._mapper = ActionMapper(profile, kinematics)
        self._chunk: deque[Vector] = deque()
        self._served: ServedPolicy | None = None
        self._instruction = ""

    def answer(self, served: ServedPolicy, observation: Observation, start_over: bool) -> Flown:
        """Decide.

        Args:
            served: The policy; another one than before, or another instruction, drops the rest of the chunk.
            observation: What it sees.
            start_over: A new episode, or the last proposal was not carried out: the next target is relative to the
                measured state.
        """
        if start_over:
            self._mapper.reset()
        if start_over or served is not self._served or observation.instruction != self._instruction:
            self._chunk.clear()
        self._served, self._instruction = served, observation.instruction
        forward = 0.0
        if not self._chunk:
            began = time.perf_counter()
            self._chunk.extend(self._decide(served.policy, observation))
            forward = time.perf_counter() - began
        values = self._chunk.popleft()
        try:
            target, gripper = self._mapper.target(observation.joint_positions, values)
            problem = ""
        except ActionError as error:
            target, gripper, problem = np.full(len(self._profile.joints), math.nan), math.nan, str(error)
            self._mapper.reset()
        proposal = Proposal(
            observation.stamp,
            tuple(values.tolist()),
            self._profile.joint_names,
            tuple(target.tolist()),
            gripper,
            served.version,
        )
        return Flown(proposal, forward, problem)

    def _decide(self, policy: Policy, observation: Observation) -> list[Vector]:
        state = proprioceptive_state(self._profile, self._kinematics, observation.joint_positions, observation.gripper)
        chunk = np.asarray(policy.act([observation], state[None])[0], dtype=np.float64)
        return list(chunk)
