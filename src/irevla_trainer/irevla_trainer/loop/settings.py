"""Settings of `irevla train`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from irevla_policy.model.config import ModelSettings
from irevla_policy.settings import SettingsError, from_dict, setting, to_dict
from irevla_policy.sim.tasks import WORLDS
from irevla_trainer.learn.settings import TRAINS, SftSettings
from irevla_trainer.rl.settings import LatentSettings, PpoSettings, SacfdSettings

ALGORITHMS = ("ppo", "sacfd")


@dataclass(frozen=True)
class TaskSets:
    """The three categories of tasks; each is TASK or TASK:VARIATION."""

    expert: tuple[str, ...] = setting((), "Tasks with demonstrations, learnt in stage 0")
    rl: tuple[str, ...] = setting(
        (), "Tasks learnt by reinforcement, in this order; empty for supervised learning only"
    )
    unseen: tuple[str, ...] = setting((), "Tasks that are never learnt, only evaluated")

    def __post_init__(self) -> None:
        for name in ("expert", "rl", "unseen"):
            tasks = getattr(self, name)
            for task in tasks:
                if tasks.count(task) > 1:
                    raise SettingsError(f"{name}: {task!r} is named twice")


@dataclass(frozen=True)
class Stage1Settings:
    """Stage 1: online reinforcement learning on one task."""

    enabled: bool = setting(
        True,
        "Whether there is reinforcement learning; without, the run is stage 0 alone, or one stage 2 from a given "
        "checkpoint",
    )
    algorithm: str = setting("ppo", "Reinforcement learning algorithm", choices=ALGORITHMS)
    trains: str = setting(
        "heads",
        "What learns: the heads on the latents of the frozen backbone (iRe-VLA), or the whole model (PPO-Replay)",
        choices=TRAINS,
    )
    decisions: int = setting(40_000, "Most decisions of each stage 1", at_least=1)
    iterations: int = setting(0, "Most rollouts of each stage 1; 0 for as many as the decisions allow", at_least=0)
    converged: float = setting(
        0.95, "Success rate of a rollout, exploration noise included, that counts as converged", above=0.0
    )
    patience: int = setting(2, "Rollouts in a row that must have converged", at_least=1)
    validate_every: int = setting(5, "Iterations between validations; the best head is kept", at_least=1)
    validation_episodes: int = setting(20, "Episodes of such a validation", at_least=1)
    successes: int = setting(200, "Successful episodes per task that D_RL keeps: the newest", at_least=1)
    imitate: str = setting(
        "explored",
        "Which actions stage 2 imitates on the way to a success: those that were executed, exploration noise included; "
        "those that the policy intended then; those of the policy that stage 1 ends with (final); or these and on top "
        "the noise that was there (explored), unless a person brought the success about. Of a person always those that "
        "were carried out",
        choices=("explored", "final", "intended", "executed"),
    )
    latents: LatentSettings = setting(factory=LatentSettings, doc="How latents are stored")
    ppo: PpoSettings = setting(factory=PpoSettings, doc="Settings of PPO")
    sacfd: SacfdSettings = setting(factory=SacfdSettings, doc="Settings of SACfD")

    def __post_init__(self) -> None:
        if self.algorithm == "sacfd" and self.trains == "model":
            raise SettingsError("trains: sacfd learns from stored latents and cannot train the whole model; set heads")
        if self.algorithm == "ppo" and self.trains == "model" and self.ppo.reuse > 1:
            raise SettingsError(
                f"ppo: reuse: must be 1 where the whole model learns: latents of earlier rollouts are of another "
                f"backbone; found {self.ppo.reuse}"
            )


@dataclass(frozen=True)
class Stage2Settings:
    """Stage 2: supervised fine-tuning on D_e and D_RL."""

    enabled: bool = setting(True, "Whether stage 2 follows stage 1")
    share: float = setting(0.5, "Share of D_RL in the training data", at_least=0.0, at_most=0.95)
    sft: SftSettings = setting(
        factory=lambda: SftSettings(steps=1500, learning_rate=3e-4, validation_share=0.0), doc="The training"
    )

    def __post_init__(self) -> None:
        if self.sft.validation_share:
            raise SettingsError(
                f"sft: validation_share: must be 0, stage 2 learns from all it has; found {self.sft.validation_share:g}"
            )


@dataclass(frozen=True)
class EvaluationSettings:
    """Evaluation of all categories, after every stage and at the end."""

    validation_episodes: int = setting(10, "Episodes per task after every stage, on validation seeds", at_least=1)
    test_episodes: int = setting(50, "Episodes per task of the selected checkpoint, on test seeds", at_least=1)
    filmed: int = setting(1, "Successes and failures per task that are filmed in the test, of each", at_least=0)


def order_of_tasks(tasks: Sequence[str], visits: int, rounds: int) -> tuple[str, ...]:
    """The task of every stage 1: each task `visits` times in a row, all of that `rounds` times."""
    return tuple(task for task in tasks for _ in range(visits)) * rounds


def title_of_visit(order: Sequence[str], number: int) -> str:
    """The task with a number, from 1 on, in such an order; told from its visits before when it comes again."""
    task = order[number - 1]
    visit = order[:number].count(task)
    return f"{task}, visit {visit}" if visit > 1 else task


@dataclass(frozen=True)
class TrainFile:
    """What a file for `irevla train --config` holds."""

    tasks: TaskSets = setting(doc="The tasks")
    task_file: str = setting("metaworld", "File of the world's tasks and variations: a name in config/tasks, or a path")
    bags: tuple[str, ...] = setting((), "Folders with the experts' bags, relative to the working directory")
    policy_successes: bool = setting(
        False, "Whether successes of policies in these bags are part of D_RL, whatever their task"
    )
    robot: str = setting("sawyer", "Robot profile, name or file")
    model: ModelSettings = setting(factory=ModelSettings, doc="The model")
    init: str = setting("", "Checkpoint to start from instead of stage 0")
    stage0: SftSettings = setting(factory=SftSettings, doc="Stage 0: supervised fine-tuning on D_e")
    from_scratch: bool = setting(False, "Skip stage 0: reinforcement learning from an untrained policy")
    stage1: Stage1Settings = setting(factory=Stage1Settings, doc="Stage 1")
    stage2: Stage2Settings = setting(factory=Stage2Settings, doc="Stage 2")
    visits: int = setting(
        1,
        "How often a task is learnt in a row, stages 1 and 2 each time, before the next one: the later stages 1 find "
        "features that have followed",
        at_least=1,
    )
    rounds: int = setting(1, "How many times the RL tasks are gone through", at_least=1)
    evaluation: EvaluationSettings = setting(factory=EvaluationSettings, doc="Evaluation")
    worlds: int = setting(
        16, "Worlds, each in a process of its own: half of them step while the model decides for the others", at_least=1
    )
    worlds_in: str = setting(
        "process",
        "Where episodes run: in processes of the learner; on a graph with simulator and guard in lock-step, one after "
        "the other; on the robot whose graph is up, in real time, by a process of their own while this one learns; or "
        "nowhere. On the robot and without worlds nothing is evaluated, and the last stage's checkpoint is the result",
        choices=("process", "graph", "robot", "none"),
    )
    max_steps: int | None = setting(
        None,
        "Decisions until an episode is given up, in learning and evaluation; the tasks' own numbers when left out",
        at_least=1,
        at_most=1000,
    )
    device: str = setting("cpu", "Torch device")
    threads: int = setting(0, "Threads of the arithmetic; 0 for torch's choice", at_least=0)
    deciding_threads: int = setting(
        1,
        "Threads of the arithmetic while worlds run, which need the other cores; 0 for as many as else, where a large "
        "backbone on the CPU takes most of the time",
        at_least=0,
    )
    seed: int = setting(0, "Of weights, order, noise and episodes; one for all stages", at_least=0)

    def __post_init__(self) -> None:
        learns_from_experts = not (self.init or self.from_scratch)
        if not self.tasks.expert and (learns_from_experts or not (self.learns_online or self.fine_tunes)):
            raise SettingsError("tasks: expert: expected at least one task")
        if self.init and self.from_scratch:
            raise SettingsError("from_scratch: init names a checkpoint to start from; leave one of them out")
        if self.worlds_in == "none" and self.learns_online:
            raise SettingsError("worlds_in: reinforcement learning needs worlds, found none")
        if self.worlds_in == "robot" and self.learns_online and self.stage1.algorithm != "sacfd":
            raise SettingsError(
                f"stage1: algorithm: on a robot it must be sacfd, which learns from what others do there too, found "
                f"{self.stage1.algorithm!r}"
            )
        if self.worlds_in == "graph" and self.task_file not in WORLDS:
            raise SettingsError(
                f"worlds_in: the simulator on a graph knows the worlds' own tasks only (task_file: "
                f"{' or '.join(WORLDS)}), found {self.task_file!r}; set worlds_in: process"
            )
        for key, stage in (("stage0", self.stage0), ("stage2.sft", self.stage2.sft)):
            if stage.seed:
                raise SettingsError(f"{key}: seed: leave it out, seed at the top is that of all stages")
        if self.learns_online and not self.init and self.model.chunk != 1:
            raise SettingsError(
                f"model: chunk: must be 1 for reinforcement learning, which decides one action at a time, found "
                f"{self.model.chunk}"
            )

    @property
    def evaluates(self) -> bool:
        """Whether stages are evaluated."""
        return self.worlds_in in ("process", "graph")

    @property
    def learns_online(self) -> bool:
        """Whether there is a stage 1."""
        return self.stage1.enabled and bool(self.tasks.rl)

    @property
    def learnt_tasks(self) -> tuple[str, ...]:
        """The task of every stage 1, in order."""
        return order_of_tasks(self.tasks.rl, self.visits, self.rounds) if self.learns_online else ()

    @property
    def fine_tunes(self) -> bool:
        """Whether the run is one stage 2 from a given checkpoint."""
        return bool(self.init) and not self.learns_online and self.stage2.enabled

    @property
    def reads_bags(self) -> bool:
        """Whether what the bags hold is used: learnt from, or rehearsed beside reinforcement learning."""
        return self.needs_experts or (self.learns_online and bool(self.bags))

    @property
    def needs_experts(self) -> bool:
        """Whether demonstrations are learnt from, in stage 0 or in stage 2."""
        return not (self.init or self.from_scratch) or self.fine_tunes or (self.learns_online and self.stage2.enabled)


def changed_settings(recorded: Any, now: TrainFile, where: str) -> list[str]:
    """Keys that a run was begun with other values of; settings that came up since then are at their defaults in it.

    Args:
        recorded: The plain values that it was begun with.
        now: What is wanted of it.
        where: What to call `recorded` in errors.

    Raises:
        SettingsError: They are no settings of a run.
    """
    wanted, had = to_dict(now), to_dict(from_dict(TrainFile, recorded, where))
    return sorted(key for key in wanted if wanted[key] != had[key])
