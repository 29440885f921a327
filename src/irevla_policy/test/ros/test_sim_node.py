"""`irevla_sim` in its own process: the world behind the messages is the world in this process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from trajectory_msgs.msg import JointTrajectory

from irevla_msgs.msg import StepInfo

sys.path.insert(0, str(Path(__file__).parent))
from sim_client import Seen, SimClient, process

from irevla_policy.robot.limits import Setpoint
from irevla_policy.robot.profile import load_profile
from irevla_policy.ros import qos
from irevla_policy.ros.messages import joint_state_message, nanoseconds, time_message, trajectory_message
from irevla_policy.sim.experts import expert_for
from irevla_policy.sim.metaworld import MetaWorld
from irevla_policy.sim.world import StepResult

PROFILE = load_profile("sawyer")


@pytest.fixture
def client() -> Iterator[SimClient]:
    client = SimClient()
    yield client
    client.close()


def assert_same(seen: Seen, result: StepResult) -> None:
    """Bit for bit."""
    assert seen.image is not None
    assert np.array_equal(seen.image, result.observation.images["corner"])
    assert seen.joints.name == [*PROFILE.joint_names, "gripper"]
    assert seen.joints.position.tolist() == [*result.observation.joint_positions, result.observation.gripper]
    assert seen.step.state.tolist() == result.state.tolist()
    assert (seen.step.success, seen.step.reward) == (result.success, result.reward)
    assert (seen.step.terminated, seen.step.truncated) == (result.terminated, result.truncated)


def test_lock_step_gives_what_the_world_in_process_gives(client: SimClient, tmp_path: Path) -> None:
    with (
        process("sim_node", tmp_path, lock_step=True, task="drawer-open", seed=3) as running,
        MetaWorld(PROFILE) as world,
    ):
        client.ready()
        for task, seed, variation in (("drawer-open", 3, ""), ("reach", 7, "blue"), ("drawer-open", 3, "")):
            if client.instructions != [] and world.stamp:
                response = client.reset(task, seed, variation)
                assert response.accepted
                assert response.seed == seed
                stamp = nanoseconds(response.stamp)
            else:
                stamp = min(client.seen)
            observation = world.reset(task, variation, seed)
            first = client.observation(stamp)
            assert observation.stamp == stamp
            assert np.array_equal(first.image, observation.images["corner"])
            assert (first.step.step, first.step.task, first.step.variation) == (0, task, variation)
            client.wait(lambda wanted=observation.instruction: client.instructions[-1:] == [wanted])
            expert = expert_for(task, noise=0.1, seed=5)
            seen, state = first, world.state
            while world.running:
                values = expert.act(state)
                client.send(seen, values)
                result = world.step(values)
                seen, state = client.observation(world.stamp), result.state
                assert_same(seen, result)
            assert seen.step.terminated
        running.send_signal(signal.SIGINT)
        began = time.monotonic()
        assert running.wait(5.0) == 0
        assert time.monotonic() - began < 3.0
    assert "Traceback" not in (tmp_path / "sim_node.log").read_text()


def test_commands_that_are_wrong_or_late_move_nothing(client: SimClient, tmp_path: Path) -> None:
    with process("sim_node", tmp_path, lock_step=True, task="reach", seed=0):
        client.ready()
        stamp = min(client.seen)
        q = np.array(client.seen[stamp].joints.position[:7])
        dt = round(1e9 / PROFILE.guard_rate)

        def command(stamp: int, points: int = 4) -> JointTrajectory:
            return trajectory_message(PROFILE, stamp, [Setpoint(q, np.zeros(7))] * points, 0.0, dt)

        nan = command(stamp)
        nan.points[2].positions[1] = float("nan")
        short = command(stamp)
        short.points[0].positions = [0.0] * 3
        renamed = command(stamp)
        renamed.joint_names[0] = "shoulder"
        for wrong in (nan, short, renamed, command(stamp, points=3), command(stamp - 1), command(stamp + 50_000_000)):
            client.commands.publish(wrong)
            client.spin(0.1)
        assert max(client.seen) == stamp  # an unanswered observation may come again, no new one does
        refused = client.reset("rech", 0)
        assert not refused.accepted
        assert "did you mean 'reach'?" in refused.message
        refused = client.reset("reach", -2)
        assert not refused.accepted
        assert "seed: must be at least 0, or -1 to draw one, found -2" in refused.message
        # Another order of joints is the same command.
        good = command(stamp)
        good.joint_names = good.joint_names[::-1]
        for point in good.points:
            point.positions, point.velocities = point.positions[::-1], point.velocities[::-1]
        client.commands.publish(good)
        client.commands.publish(good)
        after = client.observation(stamp + 50_000_000)
        assert after.step.step == 1
        client.spin(0.2)
        assert max(client.seen) == stamp + 50_000_000
    log = (tmp_path / "sim_node.log").read_text()
    assert "'right_j1' is at nan in point 2" in log
    assert "Traceback" not in log


def test_an_unanswered_observation_is_repeated_and_ended_episodes_wait(client: SimClient, tmp_path: Path) -> None:
    with process("sim_node", tmp_path, lock_step=True, task="reach", seed=0, max_steps=1):
        client.wait(lambda: client.stamps["image"].count(min(client.seen, default=0)) >= 2, seconds=30.0)
        client.ready()
        stamp = min(client.seen)
        client.send(client.seen[stamp], np.zeros(4))
        last = client.observation(stamp + 50_000_000)
        assert last.step.truncated
        client.send(last, np.zeros(4))
        client.spin(1.5)
        assert max(client.seen) == stamp + 50_000_000
        assert client.stamps["image"].count(max(client.seen)) == 1
        drawn = client.reset("", -1)
        assert drawn.accepted
        assert drawn.seed >= 0
        assert client.observation(nanoseconds(drawn.stamp)).step.task == "reach"
    log = (tmp_path / "sim_node.log").read_text()
    assert log.count("episode ended: given up after 1 steps") == 1


def test_the_expert_answers_every_step_once_and_opens_the_drawer(client: SimClient, tmp_path: Path) -> None:
    with (
        process("sim_node", tmp_path, lock_step=True, task="drawer-open", seed=1),
        process("expert_node", tmp_path, lock_step=True, noise=0.05, seed=2),
        MetaWorld(PROFILE) as world,
    ):
        client.ready()
        client.wait(lambda: len(client.interventions) > 0, seconds=30.0)
        stamp = min(client.interventions)
        world.reset("drawer-open", seed=1)
        while world.running:
            seen = client.observation(stamp)
            client.wait(lambda wanted=stamp: wanted in client.interventions)
            action = client.interventions[stamp]
            client.send_target(seen, np.array(action.joint_target), action.gripper)
            result = world.step(np.array(action.values))
            stamp += 50_000_000
            assert_same(client.observation(stamp), result)
        assert result.success
        client.spin(0.3)
        assert stamp not in client.interventions
        log = (tmp_path / "sim_node.log").read_text()
        assert log.count(f"episode ended: success after {world.steps} steps") == 1


def test_image_size_is_a_parameter_and_the_clock_is_the_stamp(client: SimClient, tmp_path: Path) -> None:
    clocks: list[int] = []
    client.node.create_subscription(Clock, "/clock", lambda message: clocks.append(nanoseconds(message.clock)), 10)
    with process("sim_node", tmp_path, lock_step=True, task="reach", image_width=64, image_height=48):
        client.ready()
        stamp = min(client.seen)
        assert client.seen[stamp].image.shape == (48, 64, 3)
        client.wait(lambda: stamp in clocks)
        client.send(client.seen[stamp], np.zeros(4))
        client.wait(lambda: stamp + 50_000_000 in clocks)
        client.wait(lambda: stamp in client.calibrations["corner"])
        info = client.calibrations["corner"][stamp]
        assert (info.width, info.height, info.k[2], info.k[5]) == (64, 48, 31.5, 23.5)


@pytest.mark.parametrize("lock_step", [True, False])
def test_every_image_comes_with_the_calibration_that_the_profile_promises(tmp_path: Path, lock_step: bool) -> None:
    profile = load_profile("panda")
    client = SimClient(lock_step, profile)
    images: dict[str, set[tuple[int, str]]] = {}
    for camera in profile.cameras:
        keep = images[camera.name] = set()
        client.node.create_subscription(
            Image,
            camera.topic,
            lambda m, k=keep: k.add((nanoseconds(m.header.stamp), m.header.frame_id)),
            qos.sensor(lock_step),
        )
    try:
        with process(
            "sim_node", tmp_path, robot="panda", world="tabletop", task="pick-can", seed=0, lock_step=lock_step
        ):
            client.wait(lambda: all(client.calibrations.values()) and all(images.values()), seconds=60.0)
            client.spin(1.2)
    finally:
        client.close()
    for camera in profile.cameras:
        found = client.calibrations[camera.name]
        # Best effort in real time: what came when one of the two was lost is left out.
        together = {entry for entry in images[camera.name] if entry[0] in found}
        assert len(together) >= (1 if lock_step else 6)
        for stamp, frame in together:
            info = found[stamp]
            assert info.header.frame_id == frame == camera.frame
            assert (info.width, info.height) == (camera.width, camera.height)
            assert (info.distortion_model, list(info.d)) == ("plumb_bob", [0.0] * 5)
            matrix, projection = info.k.reshape(3, 3), info.p.reshape(3, 4)
            lens = camera.intrinsics
            expected = [[lens.fx, 0.0, lens.cx], [0.0, lens.fy, lens.cy], [0.0, 0.0, 1.0]]
            assert matrix == pytest.approx(np.array(expected), abs=0.01)
            assert (projection[:, :3] == matrix).all() and (projection[:, 3] == 0.0).all()
            assert (info.r.reshape(3, 3) == np.eye(3)).all()


def test_a_renderer_that_fails_ends_the_node_with_one_line(tmp_path: Path) -> None:
    # Found by the world, which renders nothing itself in real time, only when the first image is due.
    program = (
        "from irevla_policy.ros import sim_node, sim_real_time\n"
        "from irevla_policy.sim.world import WorldError\n"
        "class Broken:\n"
        "    def __init__(self, *arguments):\n"
        "        raise WorldError('cannot render: no GL')\n"
        "sim_real_time.CameraRenderer = Broken\n"
        "sim_node.main()\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert ended.returncode == 1, ended.stderr
    assert "error: cannot render: no GL" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_missing_gl_library_is_named(tmp_path: Path) -> None:
    environment = {**os.environ, "MUJOCO_GL": "vulkan"}
    ended = subprocess.run(
        [sys.executable, "-m", "irevla_policy.ros.sim_node"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert ended.returncode == 2, ended.stderr
    assert "MUJOCO_GL='vulkan'" in ended.stderr
    assert "libegl1" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_expert_survives_a_state_that_is_none(client: SimClient, tmp_path: Path) -> None:
    steps = client.node.create_publisher(StepInfo, "/irevla/step_info", qos.sensor(True))
    joints = client.node.create_publisher(JointState, PROFILE.joint_states_topic, qos.sensor(True))
    with process("expert_node", tmp_path, lock_step=True) as running:
        client.wait(lambda: steps.get_subscription_count() > 1 and joints.get_subscription_count() > 1)
        states = ([], [0.0] * 3, [float("nan")] * 39, [0.0] * 39)
        for number, (task, state) in enumerate([("reahc", states[-1]), *(("reach", state) for state in states)], 1):
            stamp = number * 50_000_000
            step = StepInfo(task=task, state=state)
            step.header.stamp = time_message(stamp)
            steps.publish(step)
            joints.publish(joint_state_message(PROFILE, stamp, np.array(PROFILE.home), 0.1))
            client.spin(0.1)
        client.wait(lambda: client.interventions)
        assert list(client.interventions) == [5 * 50_000_000]
        assert running.poll() is None
    log = (tmp_path / "expert_node.log").read_text()
    assert "did you mean 'reach'?" in log
    assert "Traceback" not in log


def test_real_time_keeps_its_rates_follows_commands_and_holds(tmp_path: Path) -> None:
    client = SimClient(lock_step=False)
    try:
        with process("sim_node", tmp_path, task="reach", seed=0) as running:
            client.ready()
            client.spin(0.5)
            for stamps in client.stamps.values():
                stamps.clear()
            client.spin(3.0)
            rates = {what: len(set(stamps)) / 3.0 for what, stamps in client.stamps.items()}
            assert 60.0 < rates["joints"] < 90.0
            assert 14.0 < rates["image"] < 23.0
            assert 14.0 < rates["step"] < 23.0
            paired = set(client.stamps["image"]) & set(client.stamps["joints"])
            assert len(paired) > 0.9 * len(client.stamps["image"])  # a best-effort message or two may be lost
            assert abs(time.time_ns() - client.stamps["joints"][-1]) < 1e9

            start = np.array(client.seen[client.stamps["joints"][-1]].joints.position[:7])
            goal = start + 0.1
            trajectory = trajectory_message(PROFILE, 0, [Setpoint(goal, np.zeros(7))], 1.0, 500_000_000)
            client.commands.publish(trajectory)
            client.spin(0.25)
            halfway = np.array(client.seen[client.stamps["joints"][-1]].joints.position[:7])
            client.spin(1.5)
            reached = client.seen[client.stamps["joints"][-1]].joints
            assert (halfway > start + 0.01).all()
            assert (halfway < goal - 0.01).all()
            assert np.abs(np.array(reached.position[:7]) - goal).max() < 5e-3
            assert reached.position[7] < 0.04

            wrong = trajectory_message(PROFILE, 0, [Setpoint(start, np.zeros(7))], 0.0, 100_000_000)
            wrong.header.stamp = time_message(0)
            wrong.joint_names[3] = "elbow"
            client.commands.publish(wrong)
            client.spin(0.5)
            held = np.array(client.seen[client.stamps["joints"][-1]].joints.position[:7])
            assert np.abs(held - goal).max() < 5e-3
            response = client.reset("drawer-open", 4)
            assert response.accepted
            client.wait(lambda: client.instructions[-1:] == [response.instruction])
            client.spin(0.5)
            newest = max(stamp for stamp, seen in client.seen.items() if seen.step is not None)
            assert client.seen[newest].step.task == "drawer-open"
            assert running.poll() is None
            running.send_signal(signal.SIGTERM)
            assert running.wait(3.0) == 0
        log = (tmp_path / "sim_node.log").read_text()
        assert "elbow" in log
        assert "Traceback" not in log
    finally:
        client.close()


def test_latency_delays_the_images_of_real_time_and_drops_none(tmp_path: Path) -> None:
    client = SimClient(lock_step=False)
    try:
        with process("sim_node", tmp_path, task="reach", seed=0, **{"disturbance.latency": 0.3}):
            client.ready()
            client.spin(1.0)
            client.stamps["image"].clear()
            client.spin(3.0)
            images, newest_joints = client.stamps["image"], client.stamps["joints"][-1]
        assert 14.0 < len(set(images)) / 3.0 < 23.0
        assert 0.25 < (newest_joints - images[-1]) * 1e-9 < 0.6
    finally:
        client.close()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"task": "drawer-opn"}, "did you mean 'drawer-open'?"),
        ({"task": "reach", "variation": "pink"}, "no variation 'pink'"),
        ({"camera": "ceiling", "lock_step": True}, "no camera 'ceiling'"),
        ({"seed": -2}, "seed: must be at least -1"),
        ({"robot": "panda9"}, "no robot profile 'panda9'"),
    ],
)
def test_wrong_parameters_end_the_node_with_one_line(tmp_path: Path, parameters: dict, message: str) -> None:
    with process("sim_node", tmp_path, **parameters) as running:
        assert running.wait(20.0) == 2
    log = (tmp_path / "sim_node.log").read_text()
    assert message in log
    assert "Traceback" not in log
