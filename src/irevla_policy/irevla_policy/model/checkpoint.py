"""Checkpoints: a folder of JSON and safetensors, written whole or not at all. Never pickle.

- config.json: format version, model settings, facts about the robot
- backbone.safetensors: weights of a backbone that was trained in full, or that started without pretrained ones
- adapter.safetensors: LoRA weights of a pretrained backbone, which itself is kept by reference
- heads.safetensors: token learner and action head
- normalisation.json: statistics of states and actions
- vlm/: configuration, tokenizer and processor files of the backbone
- provenance.json: where it comes from: code, data, seed, evaluation
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from irevla_policy.durable import sync
from irevla_policy.errors import UserError
from irevla_policy.model import pretrained
from irevla_policy.model.backbone import VisionLanguageBackbone
from irevla_policy.model.config import ModelSettings, RobotFacts
from irevla_policy.model.normalisation import Affine, Normaliser
from irevla_policy.model.policy import VLAPolicy
from irevla_policy.model.pretrained import BackboneError
from irevla_policy.model.processor import Processor
from irevla_policy.model.tensor_file import save_tensors
from irevla_policy.robot.profile import RobotProfile
from irevla_policy.settings import SettingsError, from_dict, to_dict

FORMAT_VERSION = 1
_CONFIG, _NORMALISATION, _PROVENANCE, _VLM = "config.json", "normalisation.json", "provenance.json", "vlm"
_BACKBONE, _ADAPTER, _HEADS = "backbone.safetensors", "adapter.safetensors", "heads.safetensors"


class CheckpointError(UserError, ValueError):
    """A checkpoint is incomplete, damaged, or made for another robot; names the file and what was expected."""


def save_checkpoint(folder: str | Path, policy: VLAPolicy, provenance: Mapping[str, Any] | None = None) -> str:
    """Write a policy.

    The folder appears under its name only when every byte is on the disk; one that stood there is replaced.

    Args:
        folder: Where to.
        policy: The policy.
        provenance: Code version, data, seed, evaluation: anything that JSON can hold.

    Returns:
        The version: 12 hex digits of the content, see `checkpoint_version`.

    Raises:
        OSError: The disk is full or the place not writable; nothing is left behind.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}.partial"
    partial.mkdir()
    try:
        _write(partial, policy, provenance or {})
        for path in sorted(partial.rglob("*")):
            sync(path)
        sync(partial)
        _move_into_place(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return checkpoint_version(folder)


def load_checkpoint(folder: str | Path, device: str | torch.device = "cpu") -> VLAPolicy:
    """Read a policy, ready to act.

    Args:
        folder: A checkpoint.
        device: Where the weights go.

    Raises:
        CheckpointError: A file is missing, damaged or of another format, or the backbone it refers to is not there.
    """
    folder = Path(folder)
    settings, robot, document = read_config(folder)
    normaliser = _read_normaliser(folder, robot)
    whole = document["backbone"] == "weights"
    try:
        if whole:
            source = pretrained.Source(settings.backbone, str(folder / _VLM), True, settings.revision, False)
        else:
            source = pretrained.find(settings.backbone, settings.revision)
        config = pretrained.load_config(source)
        vlm_processor = pretrained.load_processor(
            pretrained.Source(settings.backbone, str(folder / _VLM), True, settings.revision, False),
            image_splitting=settings.image_splitting,
        )
        with torch.random.fork_rng():
            backbone = VisionLanguageBackbone(settings, source, config, weights=not whole)
            processor = Processor(vlm_processor, config, robot.cameras, normaliser)
            policy = VLAPolicy(settings, robot, backbone, processor)
    except BackboneError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    if backbone.is_kept_whole and not whole:
        raise CheckpointError(
            f"{folder}: was saved without its backbone, which started without pretrained weights; train it anew"
        )
    _put_all(policy, folder)
    return policy.eval().to(device)


def load_twin(folder: str | Path, policy: VLAPolicy, pause: Callable[[], None] = lambda: None) -> VLAPolicy:
    """Read a policy of the same form as another one that acts meanwhile, with as little work as can be.

    Args:
        folder: A checkpoint of the same `form_of`.
        policy: The other one; goes on as it is.
        pause: Called between pieces of work that keep other threads from running.

    Raises:
        CheckpointError: A file is missing or damaged.
    """
    folder = Path(folder)
    pause()
    twin = policy.twin(_read_normaliser(folder, policy.robot), pause)
    _put_all(twin, folder, pause)
    return twin


def form_of(folder: str | Path) -> str:
    """What two checkpoints share that differ in weights and statistics only; empty when there is none to be read."""
    folder = Path(folder)
    content = hashlib.sha256()
    try:
        for path in (folder / _CONFIG, *sorted((folder / _VLM).rglob("*"))):
            if path.is_file():
                data = path.read_bytes()
                content.update(f"{path.relative_to(folder)}\0{len(data)}\0".encode() + data)
    except OSError:
        return ""
    return content.hexdigest() if (folder / _CONFIG).is_file() else ""


def _put_all(policy: VLAPolicy, folder: Path, pause: Callable[[], None] = lambda: None) -> None:
    """Put the weights of a checkpoint into a policy."""
    if policy.backbone.is_kept_whole:
        weights = _read_tensors(folder / _BACKBONE)
        pause()
        _put(policy.backbone.vlm, weights, folder / _BACKBONE)
    elif policy.backbone.tuning == "lora":
        adapter = _read_tensors(folder / _ADAPTER)
        pause()
        try:
            policy.backbone.load_adapter_state(adapter)
        except ValueError as error:
            raise CheckpointError(f"{folder / _ADAPTER}: {error}") from error
    heads = _read_tensors(folder / _HEADS)
    pause()
    _put(policy.action_head, heads, folder / _HEADS)


def read_config(folder: str | Path) -> tuple[ModelSettings, RobotFacts, dict[str, Any]]:
    """Settings and robot of a checkpoint without its weights.

    Raises:
        CheckpointError: No checkpoint, of another format, or damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such checkpoint folder")
    path = folder / _CONFIG
    document = _read_json(path)
    if not isinstance(document, dict) or "format_version" not in document:
        raise CheckpointError(f"{path}: not the configuration of an irevla checkpoint (no format_version)")
    if document["format_version"] != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format version {document['format_version']}, this version of irevla reads {FORMAT_VERSION}"
        )
    if document.get("backbone") not in ("weights", "reference"):
        raise CheckpointError(f"{path}: backbone must be 'weights' or 'reference', found {document.get('backbone')!r}")
    try:
        settings = from_dict(ModelSettings, document.get("model"), where=f"{path}: model")
        robot = from_dict(RobotFacts, document.get("robot"), where=f"{path}: robot")
    except SettingsError as error:
        raise CheckpointError(str(error)) from error
    return settings, robot, document


def check_fits(folder: str | Path, robot: RobotFacts, profile: RobotProfile) -> None:
    """Check that a checkpoint can drive a robot.

    Args:
        folder: The checkpoint, for the message.
        robot: What the checkpoint was made for.
        profile: The robot at hand.

    Raises:
        CheckpointError: Another robot, action space, action size, set of cameras or proprioception.
    """
    found = robot.differences(RobotFacts.of(profile))
    if found:
        raise CheckpointError(f"checkpoint {folder} does not fit robot {profile.name!r}: its {'; its '.join(found)}")


def checkpoint_version(folder: str | Path) -> str:
    """12 hex digits of what the policy is: every file but the provenance, whatever the times of the files.

    Raises:
        CheckpointError: No such folder.
    """
    folder = Path(folder)
    if not (folder / _CONFIG).is_file():
        raise CheckpointError(f"{folder}: no checkpoint ({_CONFIG} is missing)")
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix()):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != _PROVENANCE:
            digest.update(f"{name}\0{path.stat().st_size}\0".encode())
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()[:12]


def read_provenance(folder: str | Path) -> dict[str, Any]:
    """What a checkpoint says about its origin.

    Raises:
        CheckpointError: The file is missing or damaged.
    """
    return _read_json(Path(folder) / _PROVENANCE)


def _write(folder: Path, policy: VLAPolicy, provenance: Mapping[str, Any]) -> None:
    backbone = policy.backbone
    config = {
        "format_version": FORMAT_VERSION,
        "model": to_dict(policy.settings),
        "robot": to_dict(policy.robot),
        "backbone": "weights" if backbone.is_kept_whole else "reference",
    }
    _write_json(folder / _CONFIG, config)
    normaliser = policy.normaliser
    _write_json(folder / _NORMALISATION, {"state": normaliser.state.as_dict(), "action": normaliser.action.as_dict()})
    _write_json(folder / _PROVENANCE, dict(provenance))
    backbone.vlm.config.save_pretrained(folder / _VLM)
    policy.processor.vlm.save_pretrained(folder / _VLM)
    save_tensors(folder / _HEADS, policy.action_head.state_dict())
    if backbone.is_kept_whole:
        save_tensors(folder / _BACKBONE, backbone.vlm.state_dict())
    elif backbone.tuning == "lora":
        save_tensors(folder / _ADAPTER, backbone.adapter_state())


def _read_normaliser(folder: Path, robot: RobotFacts) -> Normaliser:
    path = folder / _NORMALISATION
    document = _read_json(path)
    if not isinstance(document, dict) or not {"state", "action"} <= set(document):
        raise CheckpointError(f"{path}: expected the entries state and action")
    parts = {}
    for name, size in (("state", robot.state_dim), ("action", robot.action_dim)):
        try:
            parts[name] = Affine.from_dict(document[name], f"{path}: {name}")
        except ValueError as error:
            raise CheckpointError(str(error)) from error
        if parts[name].size != size:
            raise CheckpointError(f"{path}: {name} has {parts[name].size} values, {_CONFIG} says {size}")
    return Normaliser(parts["state"], parts["action"])


def _put(module: torch.nn.Module, state: dict[str, Tensor], path: Path) -> None:
    expected = module.state_dict()
    missing, extra = sorted(set(expected) - set(state)), sorted(set(state) - set(expected))
    if missing or extra:
        raise CheckpointError(
            f"{path}: " + (f"weight {missing[0]!r} is missing" if missing else f"unexpected weight {extra[0]!r}")
        )
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"{path}: weight {name!r} has shape {list(tensor.shape)}, expected {list(expected[name].shape)}"
            )
    module.load_state_dict(state)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"{path.parent}: {path.name} is missing from the checkpoint")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error


def _read_json(path: Path) -> Any:
    if not path.is_file():
        raise CheckpointError(f"{path.parent}: {path.name} is missing from the checkpoint")
    try:
        return json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path}: not readable JSON ({error})") from error


def _write_json(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def _move_into_place(partial: Path, folder: Path) -> None:
    """Rename; an older checkpoint steps aside first, since a folder cannot be renamed onto a full one."""
    aside = None
    if folder.exists():
        if not (folder / _CONFIG).is_file() and any(folder.iterdir()):
            raise CheckpointError(f"{folder}: exists and is no checkpoint; choose another folder")
        aside = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}.replaced"
        folder.rename(aside)
    partial.rename(folder)
    sync(folder.parent)
    if aside is not None:
        shutil.rmtree(aside)
