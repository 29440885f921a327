"""Settings of online reinforcement learning."""

from __future__ import annotations

from dataclasses import dataclass

from irevla_policy.settings import SettingsError, setting


@dataclass(frozen=True)
class LatentSettings:
    """How latents are stored."""

    dtype: str = setting("float16", "Number type", choices=("float16", "bfloat16", "float32"))
    on_disk: bool = setting(
        False, "Keep those of a rollout in a file of the run instead of in memory; the buffers of SACfD always are"
    )


@dataclass(frozen=True)
class PpoSettings:
    """Settings of PPO."""

    episodes: int = setting(48, "Episodes per iteration", at_least=1)
    reuse: int = setting(
        1,
        "Newest rollouts that an iteration learns from, those of earlier policies by their importance; more than one "
        "only where the backbone is frozen, so that latents stay what they are. As many times the room for latents, in "
        "the state of the stage too: set latents.on_disk where they are large",
        at_least=1,
    )
    noise: float = setting(
        0.3, "Standard deviation of the exploration noise on normalised actions", above=0.0, at_most=10.0
    )
    noise_correlation: float = setting(
        0.7,
        "Correlation of the noise of two decisions in a row: noise that lasts takes the hand elsewhere, that of single "
        "decisions averages out",
        at_least=0.0,
        at_most=0.99,
    )
    gamma: float = setting(0.98, "Discount factor", above=0.0, at_most=1.0)
    gae_lambda: float = setting(0.95, "Lambda of generalised advantage estimation", at_least=0.0, at_most=1.0)
    clip: float = setting(0.2, "Clipping of the probability ratio", above=0.0)
    epochs: int = setting(8, "Passes over the decisions of an iteration", at_least=1)
    minibatch: int = setting(256, "Decisions per update", at_least=1)
    actor_learning_rate: float = setting(1e-4, "Learning rate of the action head", above=0.0, at_most=1.0)
    critic_learning_rate: float = setting(1e-3, "Learning rate of the critic head", above=0.0, at_most=1.0)
    backbone_learning_rate: float = setting(
        1e-5, "Learning rate of the backbone, where reinforcement learning trains the whole model", at_least=0.0
    )
    value_weight: float = setting(0.5, "Weight of the critic's loss", at_least=0.0)
    rehearsal_weight: float = setting(
        1.0,
        "Weight of the squared distance to the actions of D_e and of earlier tasks' D_RL in the policy's loss, against "
        "forgetting; 0 for none",
        at_least=0.0,
    )
    kl_target: float = setting(
        0.03,
        "Divergence from the rollout's policy that an iteration aims at: the learning rates of the policy rise or fall "
        "by a factor of 1.5 after each; 0 keeps them",
        at_least=0.0,
    )
    kl_stop: float = setting(0.1, "Divergence from the rollout's policy at which an iteration's updates end", above=0.0)
    warmup: int = setting(1, "First iterations, in which only the critic learns", at_least=0)
    gradient_clip: float = setting(0.5, "Largest norm of the gradient", above=0.0)


@dataclass(frozen=True)
class SacfdSettings:
    """Settings of SACfD."""

    episodes: int = setting(8, "Episodes per iteration", at_least=1)
    demonstrations: int = setting(
        20, "Successful episodes of the policy as it starts that fill the demonstration buffer", at_least=0
    )
    demonstration_attempts: int = setting(
        200, "Episodes after which learning starts with fewer demonstrations", at_least=0
    )
    demonstration_share: float = setting(0.5, "Share of the demonstrations in a batch", at_least=0.0, at_most=1.0)
    capacity: int = setting(50_000, "Observations that each of the two buffers keeps", at_least=2048)
    batch_size: int = setting(128, "Decisions per update", at_least=2)
    updates_per_decision: float = setting(1.0, "Updates of the critics per decision of a rollout", above=0.0)
    updates_per_actor: int = setting(2, "Updates of the critics per update of the actor", at_least=1)
    warmup: int = setting(1000, "First updates, in which only the critics learn", at_least=0)
    noise: float = setting(
        0.3,
        "Standard deviation of the policy on normalised actions; where it learns starts there",
        above=0.0,
        at_most=10.0,
    )
    noise_correlation: float = setting(
        0.7, "Correlation of the noise of two decisions in a row of a rollout", at_least=0.0, at_most=0.99
    )
    temperature: float = setting(
        0.0, "Weight of the entropy; 0 maximises the plain return and keeps the noise as it is", at_least=0.0
    )
    target_noise: float = setting(
        0.0,
        "Noise at whose entropy tuning the temperature aims; 0 keeps the temperature as it is",
        at_least=0.0,
        at_most=10.0,
    )
    imitation_weight: float = setting(
        0.1, "Weight of the squared distance to the demonstrations' actions in the actor's loss", at_least=0.0
    )
    gamma: float = setting(
        0.95, "Discount factor; nearer to 1, actions differ less in value than critics err", above=0.0, at_most=1.0
    )
    polyak: float = setting(0.03, "Share of the critics that moves into their targets", above=0.0, at_most=1.0)
    critics: int = setting(5, "Critics", at_least=1)
    target_critics: int = setting(2, "Critics, drawn anew in every update, whose minimum is the target", at_least=1)
    critic_width: int = setting(128, "Width of the hidden layers of a critic", at_least=1, at_most=8192)
    critic_layers: int = setting(2, "Hidden layers of a critic", at_least=0, at_most=8)
    actor_learning_rate: float = setting(1e-4, "Learning rate of the action head", above=0.0, at_most=1.0)
    critic_learning_rate: float = setting(1e-3, "Learning rate of the critics", above=0.0, at_most=1.0)
    entropy_learning_rate: float = setting(
        3e-4, "Learning rate of the noise and of the temperature", above=0.0, at_most=1.0
    )

    def __post_init__(self) -> None:
        if self.target_critics > self.critics:
            raise SettingsError(f"target_critics: at most critics = {self.critics}, found {self.target_critics}")
        if self.target_noise > 0.0 and self.temperature == 0.0:
            raise SettingsError("target_noise: needs a temperature above 0 to start from")
