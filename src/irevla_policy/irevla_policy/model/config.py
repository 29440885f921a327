"""Settings of the model, and the facts about a robot that a model is made for."""

from __future__ import annotations

from dataclasses import dataclass

from irevla_policy.robot.profile import ACTION_SPACES, PROPRIOCEPTION, RobotProfile
from irevla_policy.settings import SettingsError, setting

TUNINGS = ("auto", "full", "lora", "frozen")
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class ModelSettings:
    """The backbone and the heads: backbone -> token learner -> MLP."""

    backbone: str = setting(
        "tiny",
        "Vision-language model: 'tiny' or 'small' (ship with the suite, start untrained), a local folder, or a hub id "
        "such as 'Salesforce/blip2-opt-2.7b'; a folder with a configuration and no weights starts untrained",
    )
    revision: str = setting("main", "Revision of a hub id")
    tuning: str = setting(
        "auto",
        "What of the backbone learns: LoRA adapters, everything or nothing; auto is lora for a pretrained backbone and "
        "full for one without weights",
        choices=TUNINGS,
    )
    dtype: str = setting("float32", "Number type of the backbone's weights; the heads are float32", choices=DTYPES)
    lora_rank: int = setting(16, "Rank of the LoRA adapters", at_least=1, at_most=1024)
    lora_alpha: float = setting(32.0, "Scale of the LoRA adapters (alpha / rank multiplies them)", above=0.0)
    lora_dropout: float = setting(0.0, "Dropout on the input of the LoRA adapters", at_least=0.0, at_most=0.9)
    lora_targets: tuple[str, ...] = setting(
        (), "Name endings of the linear layers that get adapters; empty: every query and value projection"
    )
    image_splitting: bool = setting(
        False, "Whether Idefics3 and SmolVLM cut an image into tiles: finer, at up to 17 times the tokens"
    )
    vision_tokens: bool = setting(
        False,
        "Whether the heads also see the images' tokens as the language model gets them, of BLIP-2 its patches: these "
        "tell places apart that a frozen language model does not, at several times the tokens",
    )
    chunk: int = setting(1, "Actions predicted at once; 1 for reinforcement learning", at_least=1, at_most=256)
    learner_slots: int = setting(8, "Attention maps of the token learner; divides the backbone's width", at_least=1)
    head_width: int = setting(256, "Width of the hidden layers of a head", at_least=1, at_most=8192)
    head_layers: int = setting(2, "Hidden layers of a head", at_least=0, at_most=8)
    use_state: bool = setting(True, "Whether the heads see the proprioceptive state")


@dataclass(frozen=True)
class RobotFacts:
    """What a checkpoint remembers of the robot that its data came from.

    Two robots with equal facts can share a policy.
    """

    name: str = setting(doc="Name in the profile")
    cameras: tuple[str, ...] = setting(doc="Camera names in the order in which the model sees them")
    action_space: str = setting(doc="Meaning of the action", choices=ACTION_SPACES)
    action_dim: int = setting(doc="Length of an action", at_least=1)
    state_dim: int = setting(doc="Length of the proprioceptive state", at_least=0)
    proprioception: tuple[str, ...] = setting(doc="Parts of the proprioceptive state", choices=PROPRIOCEPTION)
    control_rate: float = setting(doc="Decisions of the policy", unit="Hz", above=0.0)
    training_hash: str = setting("", "Hash of what makes recorded data comparable")

    def __post_init__(self) -> None:
        if not self.cameras:
            raise SettingsError("cameras: expected at least one")

    @classmethod
    def of(cls, profile: RobotProfile) -> RobotFacts:
        """The facts of a robot profile."""
        return cls(
            name=profile.name,
            cameras=tuple(camera.name for camera in profile.cameras),
            action_space=profile.action_space,
            action_dim=profile.action_dim,
            state_dim=profile.state_dim,
            proprioception=profile.proprioception,
            control_rate=profile.control_rate,
            training_hash=profile.training_hash,
        )

    def differences(self, other: RobotFacts) -> list[str]:
        """What keeps a model made for `self` from driving `other`, in words; empty when nothing does."""
        compared = ("name", "action_space", "action_dim", "cameras", "proprioception", "state_dim", "control_rate")
        found = [
            f"{field} is {_plain(getattr(self, field))}, the robot's {_plain(getattr(other, field))}"
            for field in compared
            if getattr(self, field) != getattr(other, field)
        ]
        if not found and self.training_hash and other.training_hash and self.training_hash != other.training_hash:
            found.append(
                "camera sizes, joint names, gripper, home pose or ee_delta_scale differ "
                f"(training hash {self.training_hash}, the robot's {other.training_hash})"
            )
        return found


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
