"""How much of the scripted experts' success survives the way through kinematics, limits and servos.

The same experts on the same seeds drive Meta-World directly (its mocap body drags the hand, each action held for one
control period) and through the whole joint path of the World.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from irevla_policy.robot.profile import RobotProfile
from irevla_policy.sim.experts import expert_for
from irevla_policy.sim.metaworld import MetaWorld
from irevla_policy.sim.sawyer import ActuatedSawyer, make_environment

TASKS = (
    "button-press",
    "button-press-topdown",
    "door-close",
    "door-open",
    "drawer-close",
    "drawer-open",
    "faucet-open",
    "reach",
    "window-close",
    "window-open",
)
"""The tasks that the check is made on unless others are named."""


@dataclass(frozen=True)
class ExpertResult:
    """One task's comparison.

    Attributes:
        task: Name of the task.
        direct: Successful episodes with the expert driving Meta-World directly.
        joints: Successful episodes through the joint path.
        episodes: Episodes of each.
        direct_steps: Mean decisions of the successful direct episodes; NaN without any.
        joint_steps: The same through the joint path.
    """

    task: str
    direct: int
    joints: int
    episodes: int
    direct_steps: float
    joint_steps: float


def check_experts(
    profile: RobotProfile,
    tasks: Sequence[str] = TASKS,
    seeds: Sequence[int] = range(20),
    report: Callable[[ExpertResult], None] | None = None,
) -> list[ExpertResult]:
    """Compare direct and joint driving, task by task.

    Args:
        profile: The robot.
        tasks: Names of tasks.
        seeds: Seeds of the episodes, the same for both ways.
        report: Called with every task's result as soon as it is there.
    """
    results = []
    with MetaWorld(profile, images=False, cached_scenes=1) as world:
        for task in map(world.tasks.task_name, tasks):
            limit = world.tasks.steps(task)
            environment = make_environment(task, profile.joint_names, lambda position: position, drive="mocap")
            direct = [direct_episode(environment, task, seed, profile.substeps, limit) for seed in seeds]
            environment.close()
            joints = [joint_episode(world, task, seed) for seed in seeds]
            result = ExpertResult(
                task=task,
                direct=sum(steps is not None for steps in direct),
                joints=sum(steps is not None for steps in joints),
                episodes=len(direct),
                direct_steps=_mean(direct),
                joint_steps=_mean(joints),
            )
            results.append(result)
            if report is not None:
                report(result)
    return results


def share_kept(results: Sequence[ExpertResult]) -> float:
    """Success through the joint path over direct success, all tasks together."""
    return sum(result.joints for result in results) / max(sum(result.direct for result in results), 1)


def direct_episode(environment: ActuatedSawyer, task: str, seed: int, hold: int, limit: int) -> int | None:
    """One episode of the expert driving Meta-World's mocap body.

    Args:
        environment: Made with `drive="mocap"`.
        task: Its task.
        seed: Seed of the episode.
        hold: Environment steps that an action is held for.
        limit: Decisions until it is given up.

    Returns:
        Decisions until success, or None.
    """
    expert = expert_for(task)
    state = environment.restart(seed)
    for decision in range(1, limit + 1):
        action = expert.act(state)
        successes = []
        for _ in range(hold):
            state, _, _, _, info = environment.step(action)
            successes.append(bool(info["success"]))
        if any(successes):
            return decision
    return None


def joint_episode(world: MetaWorld, task: str, seed: int, noise: float = 0.0) -> int | None:
    """One episode of the expert through the joint path; see `direct_episode`."""
    expert = expert_for(task, noise, seed)
    world.reset(task, seed=seed)
    while True:
        result = world.step(expert.act(world.state))
        if result.terminated:
            return world.steps
        if result.truncated:
            return None


def table(results: Sequence[ExpertResult]) -> str:
    """The comparison as text."""
    width = max((len(result.task) for result in results), default=4)
    lines = [f"{'task':{width}}  direct  joints  decisions direct / joints"]
    for result in results:
        lines.append(
            f"{result.task:{width}}  {result.direct / result.episodes:6.2f}  {result.joints / result.episodes:6.2f}"
            f"  {result.direct_steps:6.1f} / {result.joint_steps:.1f}"
        )
    lines.append(f"kept {share_kept(results):.1%} of direct success")
    return "\n".join(lines)


def _mean(steps: Sequence[int | None]) -> float:
    found = [value for value in steps if value is not None]
    return float(np.mean(found)) if found else float("nan")
