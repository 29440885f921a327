"""The environment on the graph is that in process: same seed and actions, same images, states and rewards."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from stand_in_robot import StandInRobot

from irevla_msgs.msg import Action, Command, EpisodeInfo
from irevla_msgs.srv import ResetWorld
from irevla_policy.errors import RunError
from irevla_policy.graph.registry import find_graph
from irevla_policy.graph.supervisor import Supervisor
from irevla_policy.model.config import ModelSettings, RobotFacts
from irevla_policy.model.policy import VLAPolicy
from irevla_policy.robot.profile import load_profile
from irevla_policy.ros import qos
from irevla_policy.ros.messages import nanoseconds, time_message
from irevla_policy.sim.environment import WorldEnvironment
from irevla_policy.sim.experts import expert_for
from irevla_policy.sim.tasks import load_tasks
from irevla_trainer.rl.latents import LatentStore
from irevla_trainer.rl.rollout import collect
from irevla_trainer.rl.worlds import EpisodeRequest, Worlds
from irevla_trainer.ros.graph_client import GraphClient
from irevla_trainer.ros.graph_env import GraphEnvironment
from irevla_trainer.ros.graph_worlds import EnvironmentWorlds, GraphWorlds

pytestmark = pytest.mark.graph  # answers and observations have to come in time

PROFILE = load_profile("sawyer")


@contextmanager
def on_graph(mode: str, folder: Path) -> Iterator[GraphEnvironment]:
    arguments = {"mode": mode, "expert": "false", "record": "", "task": "drawer-open"}
    lock_step = mode == "lock_step"
    with (
        Supervisor(find_graph("sim").resolve(arguments), log_dir=folder) as nodes,
        GraphEnvironment(PROFILE, "drawer-open", lock_step=lock_step, version="0123", check=nodes.check) as environment,
    ):
        yield environment


@pytest.fixture
def graph(tmp_path) -> Iterator[GraphEnvironment]:
    with on_graph("lock_step", tmp_path) as environment:
        yield environment


@pytest.fixture
def real_time(tmp_path) -> Iterator[GraphEnvironment]:
    with on_graph("real_time", tmp_path) as environment:
        yield environment


def in_process(actions, task: str, variation: str, seed: int) -> list:
    environment = WorldEnvironment(PROFILE, [task], variation)
    try:
        found = [(*environment.reset(seed=seed)[:1], 0.0, False)]
        for action in actions:
            observed, reward, terminated, _, _ = environment.step(action)
            found.append((observed, reward, terminated))
        return found
    finally:
        environment.close()


def expert_actions(task: str, seed: int) -> list[np.ndarray]:
    """A successful episode of the expert, noise included so that it is not a straight line."""
    environment = WorldEnvironment(PROFILE, [task], images=False)
    try:
        expert, actions = expert_for(task, 0.1, seed), []
        _, info = environment.reset(seed=seed)
        while True:
            actions.append(np.clip(expert.act(info["privileged"]), -1, 1).astype(np.float32))
            _, _, terminated, truncated, info = environment.step(actions[-1])
            assert not truncated
            if terminated:
                return actions
    finally:
        environment.close()


def test_episodes_are_those_of_the_world_in_process(graph):
    actions = expert_actions("drawer-open", 3)
    for task, variation, seed in (("drawer-open", "", 3), ("window-open", "blue", 5), ("drawer-open", "", 3)):
        chosen = actions if task == "drawer-open" else actions[:5]
        expected = in_process(chosen, task, variation, seed)
        observed, info = graph.reset(seed=seed, options={"task": task, "variation": variation})
        assert (info["seed"], info["task"], info["step"]) == (seed, task, 0)
        assert graph.observation_space.contains(observed)
        found = [(observed, 0.0, False)]
        for action in chosen:
            observed, reward, terminated, _, info = graph.step(action)
            found.append((observed, reward, terminated))
            assert info["source"] == "policy"
            np.testing.assert_allclose(info["executed"], action)
        assert len(found) == len(expected)
        for (ours, reward, terminated), (theirs, expected_reward, expected_end) in zip(found, expected, strict=True):
            assert (reward, terminated) == (expected_reward, expected_end)
            for name in theirs:
                assert np.array_equal(ours[name], theirs[name]), name
        assert found[-1][1:] == ((1.0, True) if task == "drawer-open" else (0.0, False))


def test_a_reset_that_is_refused_and_a_broken_graph_are_errors(graph):
    with pytest.raises(RunError, match="no task 'drawer-opne'"):
        graph.reset(seed=1, options={"task": "drawer-opne"})
    observed, _ = graph.reset(seed=1)
    assert graph.observation_space.contains(observed)


def test_in_real_time_the_robot_does_what_it_is_told(real_time):
    observed, info = real_time.reset(seed=3)
    assert real_time.observation_space.contains(observed)
    start, stamps, sources = observed["state"], [info["stamp"]], []
    for step in range(1, 21):
        observed, reward, terminated, truncated, info = real_time.step(np.array([1.0, 0.0, 0.0, 0.0], np.float32))
        assert (info["step"], reward, terminated, truncated) == (step, 0.0, False, False)
        stamps.append(info["stamp"])
        sources.append(info.get("source"))
    assert real_time.observation_space.contains(observed)
    assert min(np.diff(stamps)) >= 0.5e9 / PROFILE.control_rate
    assert sources.count("policy") >= 10, sources
    assert observed["state"][0] - start[0] > 0.1


def test_in_real_time_a_slow_caller_does_not_see_an_ever_older_world(real_time):
    period = 1.0 / PROFILE.control_rate
    _, info = real_time.reset(seed=3)
    ages = []
    for _ in range(12):
        time.sleep(3 * period)
        *_, info = real_time.step(np.zeros(PROFILE.action_dim, np.float32))
        ages.append(time.time() - info["stamp"] * 1e-9)
    # Now and then a busy machine renders late.
    assert np.median(ages[6:]) < 2 * period, ages


def test_what_is_found_wrong_while_no_observation_comes_is_said():
    robot = StandInRobot()
    robot.camera = False

    def reset(_: ResetWorld.Request, response: ResetWorld.Response) -> ResetWorld.Response:
        # Later than the answer, when the environment waits for nothing but an observation.
        threading.Timer(0.5, setattr, (robot, "camera", True)).start()
        response.accepted, response.instruction = True, "open the drawer"
        return response

    robot.change_image = lambda image: setattr(image, "width", 80)
    robot.node.create_service(ResetWorld, "/irevla/reset", reset)
    try:
        with (
            GraphEnvironment(PROFILE, "drawer-open", lock_step=False, patience=3.0) as environment,
            pytest.raises(RunError, match=r"no observation within 3 s after .* \(image of camera 'corner'"),
        ):
            environment.reset(seed=1)
    finally:
        robot.close()


@pytest.mark.parametrize(("label", "success"), [(EpisodeInfo.SUCCESS_YES, True), (EpisodeInfo.SUCCESS_NO, False)])
def test_what_a_person_says_of_an_episode_is_what_the_loop_learns_from(label: int, success: bool):
    robot = StandInRobot()
    labels = robot.node.create_publisher(EpisodeInfo, "/irevla/episode_info", qos.latched())

    def reset(_: ResetWorld.Request, response: ResetWorld.Response) -> ResetWorld.Response:
        response.accepted, response.instruction = True, "open the drawer"
        response.stamp = robot.node.get_clock().now().to_msg()
        threading.Timer(0.5, labels.publish, [EpisodeInfo(success=label)]).start()
        return response

    robot.node.create_service(ResetWorld, "/irevla/reset", reset)
    policy = VLAPolicy.create(ModelSettings(), RobotFacts.of(PROFILE), seed=1)
    try:
        with GraphEnvironment(PROFILE, "drawer-open", lock_step=False, patience=10.0) as environment:
            worlds = EnvironmentWorlds(environment, load_tasks())
            rollout = collect(worlds, [EpisodeRequest("drawer-open", "", 1)], policy, LatentStore(1024), 0.0, 0)
    finally:
        robot.close()
    # It ends the episode either way, long before the task's own number of decisions.
    assert 1 <= len(rollout) < worlds.steps("drawer-open")
    assert rollout.success == [success] and rollout.reward.sum() == float(success)
    assert len(rollout.trajectories) == int(success)
    # Nothing is worth anything beyond it: no value of what was seen last is put in the place of what follows.
    assert rollout.terminated[-1] and rollout.next_index[-1] == rollout.index[-1]


def test_what_a_person_does_between_two_observations_is_what_was_carried_out():
    robot = StandInRobot()
    commands = robot.node.create_publisher(Command, "/irevla/command", qos.command())
    driven = np.array([0.1, -0.2, 0.3, 1.0])

    def reset(_: ResetWorld.Request, response: ResetWorld.Response) -> ResetWorld.Response:
        response.accepted, response.instruction = True, "open the drawer"
        response.stamp = robot.node.get_clock().now().to_msg()
        return response

    def intervene(action: Action) -> None:
        # As the guard does for a device: with the stamp of an image that came after the one that was answered.
        stamp = nanoseconds(action.header.stamp) + 10_000_000
        command = Command(source=Command.SOURCE_INTERVENTION, values=driven.tolist())
        command.header.stamp = time_message(stamp)
        commands.publish(command)

    robot.node.create_service(ResetWorld, "/irevla/reset", reset)
    robot.node.create_subscription(Action, "/irevla/action", intervene, qos.recorded())
    try:
        with GraphEnvironment(PROFILE, "drawer-open", lock_step=False, patience=10.0) as environment:
            environment.reset(seed=1)
            infos = [environment.step(np.zeros(4, np.float32))[-1] for _ in range(6)]
    finally:
        robot.close()
    # The first may come before the two have found each other.
    assert all(info.get("source") == "intervention" for info in infos[2:]), infos
    assert all(np.allclose(info["executed"], driven) for info in infos[2:])


@pytest.mark.slow
def test_the_loop_gets_the_same_episodes_as_from_its_own_worlds(tmp_path):
    requests = [EpisodeRequest("drawer-open", "", 1), EpisodeRequest("window-close", "blue", 2)]
    weights = np.random.default_rng(0).normal(size=(PROFILE.state_dim, 4)) * 0.3

    def run(worlds) -> list:
        seen: dict[int, list] = {0: [], 1: []}

        def decide(now):
            for row, index in enumerate(now.index):
                seen[index].append((now.step[row], now.instructions[row], now.state[row].copy()))
            # By hand: how a matrix product rounds depends on where its operands lie in memory.
            return np.stack(
                [np.tanh(sum(one * row for one, row in zip(state, weights, strict=True))) for state in now.state]
            )

        ends = {}
        for stepped in worlds.episodes(requests, decide):
            if stepped.last is not None:
                for row, index in enumerate(stepped.last.index):
                    image = next(iter(stepped.last.images.values()))[row]
                    ends[index] = (stepped.last.step[row], image.copy())
        return [seen, ends]

    with GraphWorlds("sawyer", max_steps=4, log_dir=tmp_path) as worlds:
        graph_seen, graph_ends = run(worlds)
    with Worlds(PROFILE, 2, max_steps=4) as worlds:
        own_seen, own_ends = run(worlds)
    for index in (0, 1):
        assert graph_ends[index][0] == own_ends[index][0] == 4
        assert np.array_equal(graph_ends[index][1], own_ends[index][1])
        for ours, theirs in zip(graph_seen[index], own_seen[index], strict=True):
            assert ours[:2] == theirs[:2]
            assert np.array_equal(ours[2], theirs[2]), (ours[0], ours[2] - theirs[2])


def test_an_episode_may_be_longer_than_the_task_file_says(tmp_path):
    longer = load_tasks().steps("reach") + 5
    with GraphWorlds("sawyer", max_steps=longer, log_dir=tmp_path) as worlds:
        steps = list(worlds.episodes([EpisodeRequest("reach", "", 1)], lambda seen: np.zeros((1, 4))))
    assert len(steps) == longer and steps[-1].truncated[0]


def test_the_loops_graph_is_met_by_nobody_on_the_domain_of_its_process(tmp_path):
    inherited = os.environ["ROS_DOMAIN_ID"]
    with GraphClient("bystander") as bystander, GraphWorlds("sawyer", max_steps=2, log_dir=tmp_path) as worlds:
        steps = worlds.episodes([EpisodeRequest("drawer-open", "", 1)], lambda seen: np.zeros((1, 4)))
        assert len(list(steps)) == 2
        with GraphClient("neighbour"):
            deadline = time.monotonic() + 20.0
            bystander.wait(lambda: "neighbour" in bystander.node.get_node_names(), deadline, "nobody is found")
            assert sorted(bystander.node.get_node_names()) == ["bystander", "neighbour"]
    assert os.environ["ROS_DOMAIN_ID"] == inherited
