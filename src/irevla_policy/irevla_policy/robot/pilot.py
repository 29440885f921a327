"""Flies one policy: from an observation to the proposal that answers it (pure).

It keeps what a policy has to remember between observations, the action chunks under way and the commanded reference of
the action mapper, and forgets both when asked to start over.

There are two ways. `answer` runs the model whenever the chunk is used up, and takes as long as that takes. `go_on`
never runs it: whoever calls it takes a `question`, asks the model elsewhere meanwhile, and hands the `Thought` in.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from irevla_policy.robot.action import ActionError, ActionMapper
from irevla_policy.robot.chunks import Chunks
from irevla_policy.robot.kinematics import ArmKinematics
from irevla_policy.robot.observation import Observation
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
    """A policy that serves.

    Attributes:
        policy: What decides.
        version: 12 hex digits of the checkpoint's content.
        folder: Where it was loaded from.
        chunk: How many actions it decides at once.
        form: Of the checkpoint when it was loaded, see `model.checkpoint.form_of`; empty where there is none.
    """

    policy: Policy
    version: str
    folder: str
    chunk: int = 1
    form: str = ""


@dataclass(frozen=True, eq=False)
class Flown:
    """A proposal and how it came about.

    Attributes:
        proposal: Answer to the observation. Its targets are NaN when the policy's action cannot be mapped, so that the
            guard refuses it and the world does not wait in vain.
        forward_seconds: Time of the forward pass that this is the first answer from, s; 0 when a chunk went on.
        problem: What was wrong with the policy's action; empty when nothing was.
    """

    proposal: Proposal
    forward_seconds: float
    problem: str


@dataclass(frozen=True, eq=False)
class Question:
    """What a forward pass is made on; it can be made in any thread.

    Attributes:
        served: The policy.
        observation: What it sees.
        state: Proprioceptive state `[state_dim]`.
        start: Which start it belongs to: an answer to a question from before the last start over is worthless.
    """

    served: ServedPolicy
    observation: Observation
    state: npt.NDArray[np.float32]
    start: int

    def think(self) -> Thought:
        """Run the model."""
        began = time.perf_counter()
        chunk = self.served.policy.act([self.observation], self.state[None])[0]
        return Thought(self, np.asarray(chunk, dtype=np.float64), time.perf_counter() - began)


@dataclass(frozen=True, eq=False)
class Thought:
    """What a forward pass gave.

    Attributes:
        question: What it was made on.
        chunk: Raw actions `[chunk, action_dim]`.
        seconds: How long it took, s.
    """

    question: Question
    chunk: npt.NDArray[np.float64]
    seconds: float


class Pilot:
    """Answers observations.

    Args:
        profile: The robot.
        kinematics: Its kinematics.
        blend: Over how many observations `go_on` goes over from a chunk to the next; 0 switches.
    """

    def __init__(self, profile: RobotProfile, kinematics: ArmKinematics, blend: int = 0) -> None:
        self._profile = profile
        self._kinematics = kinematics
        self._mapper = ActionMapper(profile, kinematics)
        self._chunks = Chunks(profile.control_rate, blend, profile.gripper is not None)
        self._served: ServedPolicy | None = None
        self._instruction = ""
        self._start = 0
        self._new_seconds = 0.0

    @property
    def chunk(self) -> int:
        """Number of actions of the newest chunk; 0 before the first since the last start over."""
        return self._chunks.newest

    def answer(self, served: ServedPolicy, observation: Observation, start_over: bool) -> Flown:
        """Decide, with a forward pass when the chunk is used up.

        Args:
            served: The policy; another one than before, or another instruction, drops the rest of the chunk.
            observation: What it sees.
            start_over: A new episode, or the last proposal was not carried out: the next target is relative to the
                measured state.
        """
        flown = self.go_on(served, observation, start_over)
        if flown is None:
            self.take(self.question(observation).think())
            flown = self._next(observation)
        assert flown is not None, "a chunk answers the observation that it was computed on"
        return flown

    def go_on(self, served: ServedPolicy, observation: Observation, start_over: bool) -> Flown | None:
        """Decide from the chunks that there are; None when they are used up. Arguments as of `answer`."""
        if start_over:
            self._mapper.reset()
        if start_over or served is not self._served or observation.instruction != self._instruction:
            self._chunks.clear()
            self._new_seconds = 0.0
            self._start += 1
        self._served, self._instruction = served, observation.instruction
        return self._next(observation)

    def question(self, observation: Observation) -> Question:
        """What to ask the policy of the last answer on an observation."""
        assert self._served is not None, "`go_on` comes first"
        state = proprioceptive_state(self._profile, self._kinematics, observation.joint_positions, observation.gripper)
        return Question(self._served, observation, state, self._start)

    def still_wants(self, question: Question) -> bool:
        """Whether nothing has started over since the question was made."""
        return question.start == self._start

    def take(self, thought: Thought) -> None:
        """Fly by a chunk from the next observation on; one from before the last start over is left out."""
        if self.still_wants(thought.question):
            self._chunks.add(thought.chunk, thought.question.observation.stamp)
            self._new_seconds = thought.seconds

    def _next(self, observation: Observation) -> Flown | None:
        values = self._chunks.action_at(observation.stamp)
        if values is None:
            return None
        assert self._served is not None
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
            self._served.version,
        )
        seconds, self._new_seconds = self._new_seconds, 0.0
        return Flown(proposal, seconds, problem)
