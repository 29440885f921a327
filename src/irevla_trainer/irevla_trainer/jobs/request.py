"""What a training job is asked for, and what the trainer's configuration makes of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from irevla_policy.settings import SettingsError, setting
from irevla_trainer.jobs.settings import GateSettings
from irevla_trainer.learn.settings import SftSettings
from irevla_trainer.loop.settings import EvaluationSettings, Stage1Settings, Stage2Settings, TaskSets, TrainFile
from irevla_trainer.priority import PRIORITIES

STAGES = ("cycle", "rl", "sft")


@dataclass(frozen=True)
class JobRequest:
    """What to do; what is left out is as configured."""

    stage: str = setting(
        "", "cycle (reinforcement learning, then supervised fine-tuning, task by task), rl or sft; empty: as configured"
    )
    tasks: tuple[str, ...] = setting(
        (), "Tasks of reinforcement learning; of sft the recorded tasks to learn from, all when empty"
    )
    bags: tuple[str, ...] = setting((), "Bags or folders of bags to learn from; the watched folders when empty")
    iterations: int = setting(
        0, "Rounds through the tasks of a cycle, rollouts per task of rl, passes over the data of sft; 0: as configured"
    )
    seed: int = setting(-1, "Of everything that is drawn; -1: as configured")
    base: str = setting("", "Checkpoint to start from; empty for the serving one")


@dataclass(frozen=True)
class TrainerFile:
    """What `config/trainer.yaml` and its like hold."""

    stage: str = setting("cycle", "What an empty request starts", choices=STAGES)
    tasks: tuple[str, ...] = setting((), "Tasks of reinforcement learning, in this order, when a request names none")
    task_file: str = setting("metaworld", "File of the world's tasks and variations: a name in config/tasks, or a path")
    rounds: int = setting(1, "Rounds through the tasks in a cycle", at_least=1)
    stage1: Stage1Settings = setting(factory=Stage1Settings, doc="Reinforcement learning")
    stage2: Stage2Settings = setting(factory=Stage2Settings, doc="Supervised fine-tuning in a cycle")
    sft: SftSettings = setting(
        factory=lambda: SftSettings(steps=2000, learning_rate=3e-4, validation_share=0.0),
        doc="Supervised fine-tuning as a job of its own",
    )
    validation_episodes: int = setting(
        10, "Episodes per task after every stage, which choose the candidate", at_least=1
    )
    gate: GateSettings = setting(factory=GateSettings, doc="The promotion gate")
    worlds: int = setting(8, "Simulated worlds, each in a process of its own", at_least=1)
    worlds_in: str = setting(
        "process",
        "Where simulated episodes run: in processes of the training, on a graph of its own, or nowhere, for robots "
        "without a simulation, which learn by sft only",
        choices=("process", "graph", "none"),
    )
    max_steps: int | None = setting(
        None,
        "Decisions until an episode is given up; the tasks' own numbers when left out",
        at_least=1,
        at_most=1000,
    )
    device: str = setting("cpu", "Torch device of the training")
    threads: int = setting(0, "Threads of the arithmetic; 0 for torch's choice", at_least=0)
    deciding_threads: int = setting(1, "Threads of the arithmetic while worlds run; 0 for as many as else", at_least=0)
    priority: str = setting(
        "idle",
        "How training shares the processor with the robot's processes: only what they leave (idle), a small share "
        "(low), or as they do (normal)",
        choices=PRIORITIES,
    )
    seed: int = setting(0, "Of jobs whose request names none", at_least=0)

    def __post_init__(self) -> None:
        Stage2Settings(sft=self.sft)  # which such a job is
        if self.worlds_in == "none" and self.gate.mode == "simulation":
            raise SettingsError("gate: mode: without simulated worlds (worlds_in: none) it must be trials")

    def complete(self, request: JobRequest) -> JobRequest:
        """The request with what is configured where it is silent.

        Raises:
            SettingsError: An unknown stage, a negative number, or no task for reinforcement learning.
        """
        stage = request.stage or self.stage
        if stage not in STAGES:
            raise SettingsError(f"stage: must be one of {', '.join(STAGES)}, found {stage!r}")
        if request.iterations < 0 or request.seed < -1:
            name, value = ("iterations", request.iterations) if request.iterations < 0 else ("seed", request.seed)
            raise SettingsError(f"{name}: must not be negative, found {value}")
        if self.worlds_in == "none" and stage != "sft":
            raise SettingsError(
                f"stage: {stage} practises in simulation, and there is none (worlds_in: none); ask for sft"
            )
        tasks = request.tasks or (self.tasks if stage != "sft" else ())
        if stage != "sft" and not tasks:
            raise SettingsError(
                "tasks: reinforcement learning needs at least one, in the request or as `tasks` in the file"
            )
        return dataclasses.replace(
            request, stage=stage, tasks=tuple(tasks), seed=self.seed if request.seed < 0 else request.seed
        )

    def run_settings(
        self,
        request: JobRequest,
        demonstrated: Sequence[str],
        collected: Sequence[str],
        bags: Sequence[Path],
        robot: str,
        base: Path,
    ) -> TrainFile:
        """The settings of a job's run.

        Args:
            request: A complete one.
            demonstrated: Tasks that D_e has demonstrations of.
            collected: Further tasks that D_RL has successes of.
            bags: The bags of D_e and D_RL, one by one: what is recorded later belongs to the next job.
            robot: Robot profile, name or file.
            base: Checkpoint to start from.
        """
        sft, iterations = request.stage == "sft", request.iterations
        stage1, stage2 = self.stage1, self.stage2
        if request.stage == "rl" and iterations:
            stage1 = dataclasses.replace(stage1, iterations=iterations)
        if sft:
            training = dataclasses.replace(self.sft, steps=0, epochs=float(iterations)) if iterations else self.sft
            stage2 = dataclasses.replace(stage2, sft=training)
        return TrainFile(
            tasks=TaskSets(expert=tuple(demonstrated), rl=tuple(collected) if sft else request.tasks),
            task_file=self.task_file,
            bags=tuple(str(bag) for bag in bags),
            policy_successes=True,
            robot=robot,
            init=str(base),
            stage1=dataclasses.replace(stage1, enabled=not sft),
            stage2=dataclasses.replace(stage2, enabled=request.stage != "rl"),
            rounds=(iterations or self.rounds) if request.stage == "cycle" else 1,
            evaluation=EvaluationSettings(validation_episodes=self.validation_episodes),
            worlds=self.worlds,
            worlds_in=self.worlds_in,
            max_steps=self.max_steps,
            device=self.device,
            threads=self.threads,
            deciding_threads=self.deciding_threads,
            seed=request.seed,
        )
