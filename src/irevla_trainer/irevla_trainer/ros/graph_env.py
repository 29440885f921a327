"""The robot on a graph as a gymnasium environment: actions go the way of the policy's, through the guard.

    with GraphEnvironment(profile, "drawer-open", lock_step=True) as environment:
        observed, info = environment.reset(seed=3)
        observed, reward, terminated, truncated, info = environment.step(action)

In lock-step with the simulator an episode is the same as that of `WorldEnvironment` with the same seed and actions. In
real time a step lasts until the first complete observation of the next control period; when the caller takes longer
than that to decide, until the first of the period in which the action goes out, and what came before is left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, ClassVar, SupportsFloat

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String

from irevla_msgs.msg import Action, Command, EpisodeInfo, StepInfo
from irevla_msgs.srv import ResetWorld
from irevla_policy.errors import UserError
from irevla_policy.recording.images import decode_image
from irevla_policy.robot.assembly import ObservationAssembler
from irevla_policy.robot.camera import Camera
from irevla_policy.robot.decision import Source
from irevla_policy.robot.kinematics import ArmKinematics
from irevla_policy.robot.observation import Observation
from irevla_policy.robot.pilot import Pilot, ServedPolicy
from irevla_policy.robot.profile import RobotProfile
from irevla_policy.robot.proprioception import proprioceptive_state
from irevla_policy.ros import qos
from irevla_policy.ros.guard_messages import action_message
from irevla_policy.ros.messages import joint_positions, nanoseconds
from irevla_policy.sim.environment import Observed, observation_space
from irevla_trainer.ros.graph_client import GraphClient

_SEEDS = 2**31
_SLOP = 0.025

_RESET_SECONDS = 180.0
"""s that a reset may take: an arm plans its way home, and goes it slowly."""


class GraphEnvironment(gymnasium.Env[Observed, npt.NDArray[np.float32]]):
    """A robot on the graph, where no policy node acts beside.

    Attributes:
        told: Whether the simulator told of the last step; without it success is a person's label.

    Observations, actions and reward are as those of `WorldEnvironment`. `info` has `success`, `instruction`, `task`,
    `variation`, `seed`, `step`, `stamp`, the time of the observation in ns, and of the last action `executed`, the raw
    action that was carried out, and `source`, who acted: an intervention wins over the action of a step. Success comes
    from the simulator's step information or, where there is none, from a label of the running episode.

    Args:
        profile: The robot.
        task: Task of episodes whose reset names none.
        lock_step: Whether the simulator waits for every action.
        max_steps: Decisions until an episode is given up by this environment; the simulator may do so earlier.
        version: Policy version that the actions carry.
        check: Called while waiting; raises when the graph is broken.
        patience: Longest wait for an answer or for the next observation, s.
        domain: ROS domain of the graph; that of this process when left out.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(
        self,
        profile: RobotProfile,
        task: str,
        *,
        lock_step: bool,
        max_steps: int | None = None,
        version: str = "",
        check: Callable[[], None] = lambda: None,
        patience: float = 60.0,
        domain: int | None = None,
    ) -> None:
        self._profile, self._task, self._lock_step, self._max_steps = profile, task, lock_step, max_steps
        self._kinematics = ArmKinematics(profile)
        self._assembler = ObservationAssembler(profile, 0.0 if lock_step else _SLOP)
        self._pilot = Pilot(profile, self._kinematics)
        self._given = _GivenAction()
        self._served = ServedPolicy(self._given, version, "")
        self._observations: list[Observation] = []
        self._steps: dict[int, StepInfo] = {}
        self._commands: dict[int, Command] = {}
        self._label, self._recording, self.told = "", "", False
        self._last: Observation | None = None
        self._action: Action | None = None
        self._problem = ""
        self.observation_space = observation_space(profile)
        self.action_space = spaces.Box(-1.0, 1.0, (profile.action_dim,), dtype=np.float32)
        self._client = GraphClient("irevla_environment", check, patience, domain=domain)
        self._publisher = self._client.node.create_publisher(Action, "/irevla/action", qos.command(lock_step))
        self._subscribe()

    def __enter__(self) -> GraphEnvironment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _subscribe(self) -> None:
        subscribe, sensor = self._client.node.create_subscription, qos.sensor(self._lock_step, depth=20)
        for camera in self._profile.cameras:
            subscribe(Image, camera.topic, self._camera_callback(camera), sensor)
        subscribe(JointState, self._profile.joint_states_topic, self._on_joint_states, sensor)
        subscribe(String, "/irevla/instruction", self._on_instruction, qos.latched())
        subscribe(StepInfo, "/irevla/step_info", self._on_step, sensor)
        subscribe(Command, "/irevla/command", self._on_command, qos.recorded())
        subscribe(EpisodeInfo, "/irevla/episode_info", self._on_episode, qos.latched())

    # -- gymnasium ----------------------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observed, dict[str, Any]]:
        """Start an episode with /irevla/reset.

        Args:
            seed: Of the episode; one is drawn without.
            options: May name `task` and `variation`.

        Raises:
            RunError: There is no guard, the reset was refused, or no observation came after it.
        """
        super().reset(seed=seed)
        options = options or {}
        episode = int(self.np_random.integers(_SEEDS)) if seed is None else seed
        task, variation = options.get("task") or self._task, options.get("variation", "")
        # Actions that go out before the guard hears them are lost.
        self._client.wait(
            lambda: self._publisher.get_subscription_count() > 0,
            time.monotonic() + self._client.patience,
            "nobody takes actions from /irevla/action: is irevla_guard running?",
        )
        request = ResetWorld.Request(task=task, variation=variation, seed=episode)
        # An arm may take its time on the way home.
        answer = self._client.call(ResetWorld, "/irevla/reset", request, answer_within=_RESET_SECONDS)
        start = nanoseconds(answer.stamp)
        self._label, self._start_over = "", True
        # It is on its way as a message too, which may come after the first observation.
        self._assembler.set_instruction(answer.instruction)
        # And the first observation may have been complete, with the instruction before, when the answer came.
        self._last = observation = replace(self._next(start), instruction=answer.instruction)
        self._episode = {"task": task, "variation": variation, "seed": answer.seed}
        self._count = 0
        return self._observed(observation), self._info(False, None)

    def step(self, action: npt.NDArray[np.float32]) -> tuple[Observed, SupportsFloat, bool, bool, dict[str, Any]]:
        """Propose one raw action and wait for what it leads to.

        Raises:
            RunError: No observation came after it.
        """
        before = self._last
        if before is None:
            raise gymnasium.error.ResetNeeded("call reset before step")
        self._given.values = np.asarray(action, dtype=np.float64)
        flown = self._pilot.answer(self._served, before, self._start_over)
        self._action = action_message(flown.proposal)
        self._publisher.publish(self._action)
        observation = self._next(self._after(before), before.stamp)
        command = self._carried_out(before, observation)
        self._start_over = command is None or command.source != int(Source.POLICY)
        self._count += 1
        told = self._steps.get(observation.stamp)
        self.told = told is not None
        # A success may have come and gone with an observation that was left out; that it ended the episode remains.
        success = bool(told.success or told.terminated) if told is not None else self._label == "yes"
        terminated = success or self._label == "no"
        truncated = not terminated and (
            (told is not None and bool(told.truncated)) or self._count == (self._max_steps or -1)
        )
        return self._observed(observation), float(success), terminated, truncated, self._info(success, command)

    def close(self) -> None:
        """Leave the graph."""
        self._client.close()

    def _after(self, before: Observation) -> int:
        """Stamp (ns) from which on an observation may follow one, whose action has just gone out."""
        if self._lock_step:
            return before.stamp + 1
        # Half a period to either side, because observations do not come on an exact grid.
        period = round(1e9 / self._profile.control_rate)
        now = int(self._client.node.get_clock().now().nanoseconds)
        return max(before.stamp, now - period) + period // 2

    def _next(self, since: int, answered: int | None = None) -> Observation:
        """The first observation from a stamp on (ns).

        In lock-step its step information, and what was carried out for the observation before, come with it: they
        travel on topics of their own. In real time the newest counts of those that have come.
        """

        def came() -> bool:
            self._observations = [seen for seen in self._observations if seen.stamp >= since]
            if not self._observations or not self._lock_step:
                return bool(self._observations)
            return self._observations[0].stamp in self._steps and (answered is None or answered in self._commands)

        def complaint() -> str:
            problem = f" ({self._problem})" if self._problem else ""
            return f"no observation within {patience:.0f} s after that of {since * 1e-9:.3f} s{problem}"

        patience, self._problem = self._client.patience, ""
        self._client.wait(came, time.monotonic() + patience, complaint)
        self._last = self._observations.pop(0)
        oldest = since if answered is None else answered
        for kept in (self._steps, self._commands):
            for stamp in [stamp for stamp in kept if stamp < oldest]:
                del kept[stamp]
        return self._last

    def _carried_out(self, before: Observation, observation: Observation) -> Command | None:
        """What the robot did between two observations; None where nobody says.

        In real time somebody who intervened answers no observation: the guard gives it the stamp of the newest image.
        """
        between = [stamp for stamp in sorted(self._commands) if before.stamp <= stamp < observation.stamp]
        interventions = [
            self._commands[stamp]
            for stamp in between
            if self._commands[stamp].source == int(Source.INTERVENTION) and len(self._commands[stamp].values)
        ]
        if interventions and not self._lock_step:
            return interventions[-1]
        return self._commands.get(before.stamp)

    def _observed(self, observation: Observation) -> Observed:
        state = proprioceptive_state(self._profile, self._kinematics, observation.joint_positions, observation.gripper)
        return {**observation.images, "state": state}

    def _info(self, success: bool, command: Command | None) -> dict[str, Any]:
        assert self._last is not None
        info = {**self._episode, "success": success, "step": self._count, "instruction": self._last.instruction}
        info["stamp"] = self._last.stamp
        if command is not None:
            info |= {"executed": np.asarray(command.values), "source": Source(command.source).name.lower()}
        return info

    # -- the graph ----------------------------------------------------------------------------------------------------

    def _camera_callback(self, camera: Camera) -> Callable[[Any], None]:
        def on_image(message: Image) -> None:
            stamp = nanoseconds(message.header.stamp)
            if self._lock_step and self._action is not None and stamp == nanoseconds(self._action.header.stamp):
                # The world repeats what was answered: the answer was lost.
                self._publisher.publish(self._action)
            self._assemble(lambda: self._assembler.add_image(camera.name, stamp, decode_image(message, camera)))

        return on_image

    def _on_joint_states(self, message: JointState) -> None:
        def add() -> Observation | None:
            positions, gripper = joint_positions(message, self._profile)
            # Drivers without stamps: those states are of now, as for guard and policy.
            stamp = nanoseconds(message.header.stamp) or int(self._client.node.get_clock().now().nanoseconds)
            return self._assembler.add_joint_states(stamp, positions, gripper)

        self._assemble(add)

    def _on_instruction(self, message: String) -> None:
        self._assemble(lambda: self._assembler.set_instruction(message.data))

    def _assemble(self, add: Callable[[], Observation | None]) -> None:
        try:
            observation = add()
        except UserError as error:
            self._problem = str(error)
            return
        if observation is not None:
            # In real time the newest counts alone, and during a reset, which can take a minute, many come.
            self._observations = [*self._observations, observation] if self._lock_step else [observation]

    def _on_step(self, message: StepInfo) -> None:
        self._steps[nanoseconds(message.header.stamp)] = message

    def _on_command(self, message: Command) -> None:
        self._commands[nanoseconds(message.header.stamp)] = message

    def _on_episode(self, message: EpisodeInfo) -> None:
        words = {EpisodeInfo.SUCCESS_YES: "yes", EpisodeInfo.SUCCESS_NO: "no"}
        if message.state == EpisodeInfo.STATE_RECORDING:
            self._recording = message.episode_id
        elif message.episode_id != self._recording:
            return  # an earlier one, labelled late
        # Who ends the recording may say how the episode ended, too.
        self._label = words.get(message.success, "")


class _GivenAction:
    """A policy that does what it is told."""

    values: npt.NDArray[np.float64]

    def act(self, observations: Sequence[Observation], states: npt.ArrayLike) -> npt.NDArray[np.float64]:
        return self.values[None, None]
