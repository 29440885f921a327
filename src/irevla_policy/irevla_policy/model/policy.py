"""The policy: vision-language backbone, token learner, action head."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from irevla_policy.model import pretrained
from irevla_policy.model.backbone import VisionLanguageBackbone
from irevla_policy.model.config import ModelSettings, RobotFacts
from irevla_policy.model.heads import ActionHead, CriticHead
from irevla_policy.model.normalisation import Normaliser
from irevla_policy.model.pretrained import BackboneError
from irevla_policy.model.processor import ModelInputs, Processor

_PIECE = 0.004
"""s of copying between two pauses, see `VLAPolicy.twin`."""


class SeenBy(Protocol):
    """What the model sees of an `Observation`."""

    @property
    def images(self) -> dict[str, npt.NDArray[np.uint8]]:
        """Camera name to RGB image, uint8 `[H, W, 3]`."""

    @property
    def instruction(self) -> str:
        """What to do, in words."""


@dataclass(frozen=True)
class Latent:
    """What the frozen backbone makes of a batch; computed once, stored, and enough for every head.

    Attributes:
        hidden: Last hidden states of the language model `[B, m, d]`.
        mask: True where there is a token `[B, m]`.
        state: Normalised proprioceptive state `[B, s]`.
    """

    hidden: Tensor
    mask: Tensor
    state: Tensor


class VLAPolicy(nn.Module):
    """A vision-language-action policy: images, instruction and proprioception to a chunk of actions."""

    def __init__(
        self, settings: ModelSettings, robot: RobotFacts, backbone: VisionLanguageBackbone, processor: Processor
    ) -> None:
        """Put the parts together; `create` makes a new policy and `load_checkpoint` a stored one."""
        super().__init__()
        self.settings = settings
        self.robot = robot
        self.processor = processor
        self.backbone = backbone
        if backbone.width % settings.learner_slots:
            raise BackboneError(
                f"learner_slots: must divide the backbone's width {backbone.width}, found {settings.learner_slots}"
            )
        self._head_shape = {
            "slots": settings.learner_slots,
            "hidden": settings.head_width,
            "layers": settings.head_layers,
        }
        self._state_dim = robot.state_dim if settings.use_state else 0
        self.action_head = ActionHead(
            backbone.width, self._state_dim, robot.action_dim, settings.chunk, **self._head_shape
        )
        self._backbone_frozen = not backbone.tunable()

    @classmethod
    def create(
        cls,
        settings: ModelSettings,
        robot: RobotFacts,
        normaliser: Normaliser | None = None,
        seed: int = 0,
        device: str | torch.device = "cpu",
    ) -> VLAPolicy:
        """Make a new policy: the pretrained or freshly initialised backbone with untrained heads.

        Args:
            settings: Of the model.
            robot: What it drives.
            normaliser: Fitted from the data; the identity when left out.
            seed: Of every random start; the same seed gives the same policy on the same kind of device.
            device: Where it is made; billions of random weights take minutes on a CPU.

        Raises:
            BackboneError: The backbone cannot be found or loaded.
        """
        source = pretrained.find(settings.backbone, settings.revision)
        config = pretrained.load_config(source)
        vlm_processor = pretrained.load_processor(source, image_splitting=settings.image_splitting)
        normaliser = normaliser or Normaliser.identity(robot.state_dim, robot.action_dim)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            with torch.device(device):
                backbone = VisionLanguageBackbone(settings, source, config)
            processor = Processor(vlm_processor, config, robot.cameras, normaliser)
            if not backbone.is_kept_whole:
                # Its checkpoints refer to it.
                name, revision = pretrained.lasting_name(source)
                settings = dataclasses.replace(settings, backbone=name, revision=revision)
            return cls(settings, robot, backbone, processor).to(device).eval()

    def twin(self, normaliser: Normaliser, pause: Callable[[], None] = lambda: None) -> VLAPolicy:
        """A policy of the same form with weights of its own, for another checkpoint; quicker than making one anew.

        What no checkpoint changes is shared: the weights of a backbone that is frozen or has adapters, and its
        tokenizer. Both may act at the same time, each in a thread of its own.

        Args:
            normaliser: The other checkpoint's.
            pause: Called every few milliseconds, since the copying keeps other threads from running.
        """
        memo: dict[int, Any] = {id(value): value for value in self.backbone.unchanging()}
        memo[id(self.processor)] = self.processor.with_normaliser(normaliser)
        begin = time.perf_counter()
        # Parts come before what they are parts of, so that every copy is a small one.
        for module in reversed(list(self.modules())):
            twin = copy.deepcopy(module, memo)
            if time.perf_counter() - begin > _PIECE:
                pause()
                begin = time.perf_counter()
        return cast(VLAPolicy, twin)

    def new_critic(self) -> CriticHead:
        """An untrained critic head that fits the latent."""
        head = CriticHead(self.backbone.width, self._state_dim, **self._head_shape)
        return head.to(self.device)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.action_head.parameters()).device

    @property
    def normaliser(self) -> Normaliser:
        """Of states and actions."""
        return self.processor.normaliser

    def freeze_backbone(self) -> None:
        """Stage 1 of iRe-VLA: only heads learn, and the latent of an image never changes."""
        self._backbone_frozen = True
        self.backbone.set_trainable(False)
        self.backbone.eval()

    def unfreeze_backbone(self) -> None:
        """Stages 0 and 2: what `tuning` names of the backbone learns together with the head."""
        self._backbone_frozen = not self.backbone.tunable()
        self.backbone.set_trainable(True)
        self.backbone.train(self.training and not self._backbone_frozen)

    def train(self, mode: bool = True) -> VLAPolicy:
        """Switch dropout on or off; a frozen backbone stays as in serving."""
        super().train(mode)
        if self._backbone_frozen:
            self.backbone.eval()
        return self

    def latent(self, inputs: ModelInputs) -> Latent:
        """Encode a batch; without gradient when the backbone is frozen."""
        inputs = inputs.to(self.device)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._backbone_frozen):
            hidden, mask = self.backbone(inputs.vlm)
        return Latent(hidden, mask, inputs.state if self.settings.use_state else inputs.state[:, :0])

    def action_from_latent(self, latent: Latent) -> Tensor:
        """Normalised actions `[B, chunk, action_dim]`."""
        return self.action_head(latent.hidden, latent.mask, latent.state)

    def forward(self, inputs: ModelInputs) -> Tensor:
        """Normalised actions `[B, chunk, action_dim]` of a batch."""
        return self.action_from_latent(self.latent(inputs))

    def prepare(self, observations: Sequence[SeenBy], states: npt.ArrayLike) -> ModelInputs:
        """Observations and raw proprioceptive states `[B, s]` to a batch on the policy's device."""
        shared = [name for name in observations[0].images if all(name in seen.images for seen in observations)]
        images = {camera: [seen.images[camera] for seen in observations] for camera in shared}
        return self.processor(images, [seen.instruction for seen in observations], states).to(self.device)

    @torch.inference_mode()
    def act(self, observations: Sequence[SeenBy], states: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Decide.

        Args:
            observations: B observations: images of every camera of the robot, and the instruction.
            states: Their raw proprioceptive states `[B, s]`, see `robot/proprioception.py`.

        Returns:
            Raw actions `[B, chunk, action_dim]`, float64; the same for the same input.

        Raises:
            ValueError: An observation lacks a camera, or a state has the wrong length.
        """
        normalised = self(self.prepare(observations, states)).cpu().numpy()
        return self.normaliser.denormalise_action(normalised)
