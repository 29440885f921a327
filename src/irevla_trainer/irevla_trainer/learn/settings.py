"""Settings of the learners."""

from __future__ import annotations

from dataclasses import dataclass

from irevla_policy.model.config import ModelSettings
from irevla_policy.settings import setting

TRAINS = ("model", "heads")


@dataclass(frozen=True)
class SftSettings:
    """Settings of supervised fine-tuning."""

    epochs: float = setting(30.0, "Passes over the data; ignored when steps is set", above=0.0, replaces="steps")
    steps: int = setting(0, "Updates; 0 takes them from epochs", at_least=0)
    batch_size: int = setting(32, "Decisions per update", at_least=1)
    learning_rate: float = setting(5e-4, "Peak learning rate of the heads", above=0.0, at_most=1.0)
    backbone_learning_rate: float | None = setting(
        None, "Peak learning rate of the backbone; the heads' when left out", above=0.0, at_most=1.0
    )
    weight_decay: float = setting(0.01, "Weight decay of AdamW", at_least=0.0)
    warmup_steps: int = setting(100, "Updates until the peak learning rate; at most a tenth of all", at_least=0)
    final_learning_rate: float = setting(0.01, "Last learning rate as a share of the peak", at_least=0.0, at_most=1.0)
    gradient_clip: float = setting(1.0, "Largest norm of the gradient", above=0.0)
    average: float = setting(
        0.0,
        "Decay of the moving average of the weights that is kept at the end; 0 for none",
        at_least=0.0,
        at_most=0.9999,
    )
    shift: int = setting(1, "Random shift of training images", unit="px", at_least=0, at_most=64)
    colour: float = setting(
        0.0,
        "Random change of the colours of training images: hue, saturation, contrast, brightness; 0 for none, 1 makes "
        "any hue of any other; grows to this over the first half of the training",
        at_least=0.0,
        at_most=1.0,
    )
    validation_share: float = setting(
        0.1, "Share of the episodes held out to watch the loss", at_least=0.0, at_most=0.9
    )
    report_every: int = setting(50, "Updates between lines of metrics", at_least=1)
    validate_every: int = setting(500, "Updates between validations; also at the end", at_least=1)
    save_every: float = setting(30.0, "Time between saves of the training state", unit="s", above=0.0)
    precision: str = setting(
        "auto", "Arithmetic of the forward pass; auto is bfloat16 on a GPU", choices=("auto", "float32", "bfloat16")
    )
    trains: str = setting(
        "model", "What learns: the head with what `tuning` names of the backbone, or the head alone", choices=TRAINS
    )
    seed: int = setting(0, "Of weights, order and augmentation", at_least=0)


@dataclass(frozen=True)
class SftFile:
    """What `config/sft.yaml` and its like hold."""

    model: ModelSettings = setting(factory=ModelSettings, doc="The model")
    training: SftSettings = setting(factory=SftSettings, doc="The training")
