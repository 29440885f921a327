"""Success as the cameras see it: a classifier on the latent of a policy's frozen backbone.

FOLDER/success.json          when it says so, what it was made of, how it did on episodes that were held out
FOLDER/success.safetensors   weights of the head
FOLDER/policy/               the checkpoint through whose backbone it looks
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from irevla_policy.durable import put_in_place, write_text
from irevla_policy.errors import UserError
from irevla_policy.model.checkpoint import load_checkpoint, save_checkpoint
from irevla_policy.model.heads import CriticHead
from irevla_policy.model.policy import SeenBy, VLAPolicy
from irevla_policy.model.tensor_file import save_tensors
from irevla_policy.settings import from_dict, setting, to_dict

FORMAT_VERSION = 1
_DOCUMENT, _HEAD, _POLICY = "success.json", "success.safetensors", "policy"


class ClassifierError(UserError, ValueError):
    """A folder holds no whole success classifier; names the file and what was expected."""


@dataclass(frozen=True)
class Verdict:
    """When frames that look like success make one."""

    threshold: float = setting(0.9, "Probability from which a frame shows success", above=0.0, at_most=1.0)
    frames: int = setting(2, "Frames in a row that have to show it", at_least=1)


class Streak:
    """Frames in a row that show success.

    Args:
        verdict: How many make one, and from which probability on.
    """

    def __init__(self, verdict: Verdict) -> None:
        self._verdict = verdict
        self._episode, self._length = "", 0

    def add(self, episode: str, probability: float) -> bool:
        """Whether an episode has succeeded with this frame of it; another episode than before begins anew."""
        length = self._length if episode == self._episode else 0
        self._episode, self._length = episode, length + 1 if probability >= self._verdict.threshold else 0
        return self._length >= self._verdict.frames


class SuccessClassifier:
    """Tells from an observation whether its instruction is fulfilled.

    Attributes:
        policy: Whose backbone encodes observations; frozen.
        head: Latent to the logit of success, shaped as the critic.
        verdict: When it is sure.
    """

    def __init__(self, policy: VLAPolicy, head: CriticHead, verdict: Verdict) -> None:
        """Args: as the attributes."""
        policy.freeze_backbone()
        self.policy, self.head, self.verdict = policy.eval(), head.eval(), verdict

    @torch.inference_mode()
    def probability(self, observations: Sequence[SeenBy], states: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """How likely each of B observations shows success, `[B]`; arguments as of `VLAPolicy.act`."""
        latent = self.policy.latent(self.policy.prepare(observations, states))
        return self.head(latent.hidden, latent.mask, latent.state).sigmoid().cpu().numpy()

    def save(self, folder: Path, account: Mapping[str, Any]) -> None:
        """Write it; the folder appears when all of it is on the disk, and must not exist before.

        Args:
            folder: Where to.
            account: What it was made of and how it did: anything that JSON can hold.

        Raises:
            OSError: The disk is full or the place not writable; nothing is left behind.
        """
        partial = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}.partial"
        partial.mkdir(parents=True)
        try:
            save_checkpoint(partial / _POLICY, self.policy, {"made_by": "irevla success"})
            save_tensors(partial / _HEAD, self.head.state_dict())
            document = {"format_version": FORMAT_VERSION, "verdict": to_dict(self.verdict), **account}
            write_text(partial / _DOCUMENT, json.dumps(document, indent=2) + "\n")
            put_in_place(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    @classmethod
    def load(cls, folder: str | Path, device: str | torch.device = "cpu") -> SuccessClassifier:
        """Read one.

        Raises:
            ClassifierError: A file is missing, damaged or of another format.
            CheckpointError: So is its policy.
        """
        folder = Path(folder)
        document = read_account(folder)
        policy = load_checkpoint(folder / _POLICY, device)
        head = policy.new_critic()
        try:
            head.load_state_dict(load_file(folder / _HEAD, device=str(device)))
        except (SafetensorError, OSError, RuntimeError) as error:
            why = " ".join(str(error).split())
            raise ClassifierError(f"{folder / _HEAD}: not the weights of this classifier ({why})") from error
        return cls(policy, head, from_dict(Verdict, document["verdict"], f"{folder / _DOCUMENT}: verdict"))


def read_account(folder: Path) -> dict[str, Any]:
    """What a classifier says of itself.

    Raises:
        ClassifierError: No classifier, damaged, or of another format.
    """
    path = folder / _DOCUMENT
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ClassifierError(f"{folder}: no success classifier ({path.name}: {error})") from error
    if not isinstance(document, dict) or document.get("format_version") != FORMAT_VERSION or "verdict" not in document:
        raise ClassifierError(f"{path}: expected a success classifier of format {FORMAT_VERSION}")
    return document
