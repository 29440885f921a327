"""Rollouts on the disk: from the process that acts to the one that learns."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from irevla_policy.durable import put_in_place
from irevla_policy.model.policy import Latent
from irevla_policy.model.tensor_file import save_tensors
from irevla_trainer.rl.latents import LatentStore
from irevla_trainer.rl.rollout import Rollout, Trajectory
from irevla_trainer.rl.worlds import EpisodeRequest

_TENSORS = "rollout.safetensors"
_ARRAYS = ("index", "next_index", "action", "mean", "reward", "terminated", "ended", "success", "intervened")
_OF_TRAJECTORY = ("state", "executed", "intended", "intervened")


def write_rollout(folder: Path, rollout: Rollout) -> None:
    """Write a rollout whose observations are stored latents; a crash leaves all of it or nothing.

    Raises:
        OSError: The disk is full.
    """
    store = rollout.observations
    if not isinstance(store, LatentStore):
        raise TypeError("observations: only stored latents can be written")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    latent = store.latent(np.arange(len(store)))
    tensors = {"hidden": latent.hidden.to(store.dtype), "mask": latent.mask, "state": latent.state}
    tensors |= {name: torch.from_numpy(np.asarray(getattr(rollout, name))) for name in _ARRAYS}
    requests = [[request.task, request.variation, request.seed] for request in rollout.requests]
    header = {"requests": json.dumps(requests), "std": repr(rollout.std)}
    save_tensors(partial / _TENSORS, tensors, header)
    for number, trajectory in enumerate(rollout.trajectories):
        _write_trajectory(partial / f"success-{number:05d}.npz", rollout.requests, trajectory)
    put_in_place(partial, folder)


def read_rollout(folders: Sequence[Path], store: LatentStore) -> Rollout:
    """Rollouts of one policy, one after the other as one.

    Args:
        folders: What `write_rollout` wrote, in order.
        store: Gets their observations.
    """
    parts: dict[str, list[Any]] = {name: [] for name in _ARRAYS}
    requests, trajectories, std = [], [], 0.0
    for folder in folders:
        with safe_open(folder / _TENSORS, framework="pt") as file:
            header = file.metadata()
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        places = store.add(Latent(found["hidden"].float(), found["mask"], found["state"]))
        for name in _ARRAYS:
            values = found[name].numpy()
            parts[name].append(places[values] if name in ("index", "next_index") else values)
        asked = [EpisodeRequest(*request) for request in json.loads(header["requests"])]
        requests += asked
        std = float(header["std"])
        trajectories += [_read_trajectory(path, asked) for path in sorted(folder.glob("success-*.npz"))]
    joined: dict[str, Any] = {name: np.concatenate(values) for name, values in parts.items()}
    for name in ("success", "intervened"):
        joined[name] = [bool(value) for value in joined[name]]
    return Rollout(observations=store, std=std, requests=requests, trajectories=trajectories, **joined)


def _write_trajectory(path: Path, requests: Sequence[EpisodeRequest], trajectory: Trajectory) -> None:
    arrays: dict[str, Any] = {f"images/{camera}": frames for camera, frames in trajectory.images.items()}
    arrays |= {name: getattr(trajectory, name) for name in _OF_TRAJECTORY}
    with path.open("wb") as file:
        np.savez(
            file,
            request=np.array(requests.index(trajectory.request)),
            instructions=np.array(trajectory.instructions),
            **arrays,
        )


def _read_trajectory(path: Path, requests: Sequence[EpisodeRequest]) -> Trajectory:
    with np.load(path, allow_pickle=False) as arrays:
        return Trajectory(
            request=requests[int(arrays["request"])],
            images={name.removeprefix("images/"): arrays[name] for name in arrays.files if name.startswith("images/")},
            instructions=[str(text) for text in arrays["instructions"]],
            **{name: arrays[name] for name in _OF_TRAJECTORY},
        )
