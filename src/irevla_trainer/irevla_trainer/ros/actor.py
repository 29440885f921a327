"""The process that acts while another learns: rollouts of a policy on a live robot, one episode after the other.

    python -m irevla_trainer.ros.actor FOLDER

What it does is asked for in the folder; see `irevla_trainer.rl.asking`. It ends with its standard input, so that a
robot is not driven for a learner that is gone: the guard then brakes. A graph that breaks is waited for; the episode at
hand begins again.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from irevla_msgs.msg import EpisodeInfo
from irevla_msgs.srv import StartEpisode, StopEpisode
from irevla_policy.errors import RunError, UserError
from irevla_policy.graph.environment import adopt_environment
from irevla_policy.model.checkpoint import load_checkpoint
from irevla_policy.model.device import require_device
from irevla_policy.recording.episode import new_name
from irevla_policy.robot.profile import load_profile
from irevla_policy.sim.tasks import load_tasks
from irevla_trainer.rl.asking import Ask, Asking
from irevla_trainer.rl.latents import LatentStore
from irevla_trainer.rl.rollout import Rollout, collect
from irevla_trainer.rl.rollout_file import write_rollout
from irevla_trainer.rl.worlds import EpisodeRequest
from irevla_trainer.ros.graph_client import GraphClient
from irevla_trainer.ros.graph_env import GraphEnvironment
from irevla_trainer.ros.graph_worlds import EnvironmentWorlds

_POLL = 0.02  # s
_PATIENCE = 10.0
"""s that the graph may be silent until the environment is made anew."""

_LEAVES = 3.0
"""s that the actor has to end its recording when nobody is left to act for."""

_RECORDER_SECONDS = 10.0
"""s that the first episode waits for a recorder; the others are recorded if there is one."""


class Actor:
    """Acts on a live robot.

    Args:
        asking: What is wanted.
    """

    def __init__(self, asking: Asking) -> None:
        self._asking, self._role = asking, asking.role
        self._profile, self._tasks = load_profile(self._role.robot), load_tasks(self._role.task_file)
        self._policy = load_checkpoint(asking.policy).to(require_device(self._role.device))
        self._learnt = dict(self._policy.named_parameters())
        self._complaint = ""

    def run(self) -> None:
        """Do what is asked for, for as long as the process lives."""
        while True:
            try:
                with (
                    GraphEnvironment(
                        self._profile, self._tasks.first_task, lock_step=self._role.lock_step, patience=_PATIENCE
                    ) as environment,
                    _Recorder(self._tasks.world) as recorder,
                ):
                    while True:
                        self._next(environment, recorder)
            except RunError as error:
                if str(error) != self._complaint:
                    print(f"waiting for the robot: {error}", file=sys.stderr, flush=True)
                    self._complaint = str(error)

    def _next(self, environment: GraphEnvironment, recorder: _Recorder) -> None:
        for number in self._asking.asked():
            try:
                ask, weights = self._asking.read(number)
            except FileNotFoundError:
                continue  # learnt from meanwhile
            missing = self._asking.missing(ask)
            if not missing:
                continue
            for name, tensor in weights.items():
                self._learnt[name].data.copy_(tensor)
            for place in missing:
                rollout = self._episode(environment, recorder, ask, ask.requests[place])
                write_rollout(self._asking.episode(number, place), rollout)
                self._complaint = ""
            return
        time.sleep(_POLL)

    def _episode(
        self, environment: GraphEnvironment, recorder: _Recorder, ask: Ask, request: EpisodeRequest
    ) -> Rollout:
        worlds = EnvironmentWorlds(environment, self._tasks, self._role.max_steps)
        store = LatentStore(worlds.steps(request.task) + 1, getattr(torch, self._role.dtype), None, self._policy.device)
        noise = ask.noise
        with recorder.recording(request) as stop:
            rollout = collect(worlds, [request], self._policy, store, noise.std, noise.seed, noise.correlation)
            if environment.told:
                stop(rollout.success[0])
        return rollout


class _Recorder(GraphClient):
    """Has every episode recorded where there is a recorder."""

    def __init__(self, world: str) -> None:
        services = {"/irevla/start_episode": StartEpisode, "/irevla/stop_episode": StopEpisode}
        super().__init__("irevla_actor", patience=_PATIENCE, services=services)
        self._world = world
        self._until: float | None = None

    @contextmanager
    def recording(self, request: EpisodeRequest) -> Iterator[Callable[[bool], None]]:
        """Record an episode, where there is a recorder.

        Yields:
            What takes the simulator's word for its success. Without it the label is a person's, or none.
        """
        if self._until is None:
            # From now on, not from the start: nobody has looked for it since.
            self._until = time.monotonic() + _RECORDER_SECONDS
        try:
            self.wait(lambda: self._has_met("/irevla/start_episode"), self._until, "")
        except RunError:
            yield lambda _success: None
            return
        stop = StopEpisode.Request(success=EpisodeInfo.SUCCESS_UNKNOWN)
        self._start(request)

        def told(success: bool) -> None:
            stop.success = EpisodeInfo.SUCCESS_YES if success else EpisodeInfo.SUCCESS_NO
            stop.labelled_by = "simulator"

        try:
            yield told
        finally:
            # Whatever becomes of its recording, an episode that has been run is learnt from.
            try:
                answer = self.ask(StopEpisode, "/irevla/stop_episode", stop)
                wrong = "" if answer.accepted else answer.message
            except RunError as error:
                wrong = str(error)
            if wrong:
                print(f"recording of {request.task}: {wrong}", file=sys.stderr, flush=True)

    def _start(self, request: EpisodeRequest) -> None:
        start = StartEpisode.Request(
            task=request.task,
            variation=request.variation,
            world=self._world,
            seed=request.seed,
            source=EpisodeInfo.SOURCE_POLICY,
            episode_id=new_name(request.task),
        )
        if not self.ask(StartEpisode, "/irevla/start_episode", start, again=True).accepted:
            # One that broke off may not have ended.
            self.ask(StopEpisode, "/irevla/stop_episode", StopEpisode.Request(success=EpisodeInfo.SUCCESS_UNKNOWN))
            self.call(StartEpisode, "/irevla/start_episode", start, again=True)


def main(arguments: list[str]) -> int:
    """Act for the folder that is named; returns the exit code when that cannot be."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the learner, which closes the pipe
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    adopt_environment()
    asking = Asking(Path(arguments[0]))
    torch.set_num_threads(asking.role.threads)
    try:
        Actor(asking).run()
    except (UserError, OSError) as error:
        print(f"irevla actor: {error}", file=sys.stderr)
    return 2


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    # The main thread acts no more, and ends the recording of its episode, which would go on until the disk is full.
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_LEAVES)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
