"""The graph `sim`: a simulated arm, the guard, the policy or the scripted expert, and the recorder."""

from __future__ import annotations

from collections.abc import Mapping

from irevla_policy.graph import shared
from irevla_policy.graph.description import Argument, Graph, GraphDescription, NodeSpec, ParameterValue
from irevla_policy.robot.profile import load_profile
from irevla_policy.sim.tasks import METAWORLD, WORLDS, load_tasks

ARGUMENTS = (
    Argument("robot", "", "Robot profile: name in config/robots, or path of a YAML file; empty for the world's arm"),
    Argument("world", METAWORLD, "Simulated world", WORLDS),
    Argument("task", "", "Task of the first episode; empty for the world's choice"),
    Argument("variation", "", "Variation of the task as named in config/tasks; empty for the task as it is"),
    Argument("seed", "0", "Seed of the first episode; -1 draws one"),
    Argument("mode", "real_time", "Whether time flows, or waits for each command", ("real_time", "lock_step")),
    Argument("checkpoint", "", "Folder of the checkpoint that acts; empty lets the scripted expert act"),
    Argument("device", "cpu", "Where the policy runs: cpu, cuda, cuda:1, ..."),
    Argument(
        "expert", "auto", "Let the scripted expert act; auto: when there is no checkpoint", ("auto", "true", "false")
    ),
    Argument("noise", "0.0", "Noise on the scripted expert's displacements, in units of actions, 0 to 1"),
    Argument("record", "bags", "Folder for the recorder's bags; none starts no recorder"),
    Argument("image_format", "raw", "How the recorder stores images", ("raw", "jpeg", "png")),
    *shared.ARGUMENTS,
)


def build(values: Mapping[str, str]) -> Graph:
    """The graph for a value of every argument.

    Raises:
        UserError: A number is none, or out of range; there is no such robot, task, variation, checkpoint or file.
    """
    tasks = load_tasks(values["world"])
    robot, task = values["robot"] or tasks.robot, values["task"] or tasks.first_task
    load_profile(robot)
    tasks.variation(task, values["variation"])
    checkpoint, parameters_file = shared.checkpoint("sim", values), shared.parameters_file("sim", values)
    every: dict[str, ParameterValue] = {"robot": robot, "lock_step": values["mode"] == "lock_step"}
    expert = values["expert"] == "true" or (values["expert"] == "auto" and not checkpoint)

    def node(name: str, module: str, threads: int = 1, **parameters: ParameterValue) -> NodeSpec:
        return NodeSpec(
            name=name,
            package="irevla_policy",
            executable=name,
            module=f"irevla_policy.ros.{module}",
            parameters={**every, **parameters},
            parameters_file=parameters_file,
            environment={"OMP_NUM_THREADS": str(threads)},
            log_level=values["log_level"],
        )

    simulator = node(
        "irevla_sim",
        "sim_node",
        world=values["world"],
        task=task,
        variation=values["variation"],
        seed=shared.whole_number("sim", values, "seed", -1, 2**31 - 1),
    )
    nodes = [simulator, node("irevla_guard", "guard_node")]
    if expert:
        noise = shared.number("sim", values, "noise", 0.0, 1.0)
        nodes.append(node("irevla_expert", "expert_node", world=values["world"], noise=noise))
    elif checkpoint:
        acts = {"checkpoint": checkpoint, "device": values["device"]}
        nodes.append(node("irevla_policy", "policy_node", shared.policy_threads(), **acts))
    if folder := shared.recorder_folder(values):
        nodes.append(node("irevla_recorder", "recorder_node", folder=folder, image_format=values["image_format"]))
    return Graph("sim", tuple(nodes), shared.environment("sim", values))


SIM = GraphDescription("sim", "a simulated arm with guard, policy or scripted expert, and recorder", ARGUMENTS, build)
