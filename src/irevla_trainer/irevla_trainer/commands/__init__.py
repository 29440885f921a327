"""The commands of `irevla`: one module each, with `add_arguments(parser)` and `run(args) -> int`.

A module's docstring is its help text, examples included. Modules import what is heavy inside `run`, so that help and
usage errors come at once.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """A command as `irevla --help` lists it; its module is irevla_trainer.commands.NAME."""

    name: str
    summary: str


COMMANDS = (
    Command("doctor", "say what is installed, what is missing and what is used instead"),
    Command("up", "bring up a node graph, as ros2 launch does"),
    Command("collect", "record expert episodes as bags"),
    Command("sft", "train a policy from bags by supervised fine-tuning"),
    Command("train", "train a policy with iRe-VLA: supervised fine-tuning and online reinforcement learning"),
    Command("eval", "measure a checkpoint's success per task, with intervals"),
    Command("success", "train a classifier that tells from camera images whether an episode has succeeded"),
    Command("bench", "run a benchmark and compare it with its targets"),
    Command("inspect", "say what is in a bag or checkpoint, problems named"),
    Command("demo", "record, train and close the loop in simulation, with a report"),
)
