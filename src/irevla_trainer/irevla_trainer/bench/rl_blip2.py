"""Stage 1 of a BLIP-2-sized model: does it fit one GPU of 24 GB?

On a GPU stage 1 runs and its peak is read off. Without one it is calculated, from parts that all lie at the same place
at the same time: the backbone's weights, its forward pass, the stored latents of a whole rollout, and the updates of
the heads on such latents, whose peak is measured on the CPU.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from irevla_policy.model import pretrained
from irevla_policy.model.config import ModelSettings, RobotFacts
from irevla_policy.model.normalisation import Normaliser
from irevla_policy.model.policy import Latent, VLAPolicy
from irevla_policy.model.processor import Processor
from irevla_trainer.bench.forward import write_large_backbone
from irevla_trainer.bench.rl_domain import Domain
from irevla_trainer.bench.rl_memory import PeakMemory
from irevla_trainer.bench.rl_samples import rollout_of
from irevla_trainer.bench.rl_stage1 import per_decision, take_turns
from irevla_trainer.rl.latents import LatentStore
from irevla_trainer.rl.ppo import Ppo
from irevla_trainer.rl.settings import PpoSettings
from irevla_trainer.rl.worlds import Worlds

GIB = 2**30
_WEIGHT_BYTES = 2  # bfloat16
_FORWARD_BYTES = GIB
"""Of the activations of one forward pass without gradient of 8 images; the widest layer of them takes 0.1 GiB."""


def on_gpu(domain: Domain, worlds: Worlds, device: str, episodes: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Run stage 1 of the large model.

    Args:
        domain: Whose task.
        worlds: Run the episodes, of the domain's world.
        device: A GPU.
        episodes: Per rollout.

    Returns:
        Figures and details.
    """
    with tempfile.TemporaryDirectory(prefix="irevla-blip2-") as folder:
        write_large_backbone(Path(folder))
        settings = ModelSettings(backbone=folder, dtype="bfloat16")
        policy = VLAPolicy.create(settings, RobotFacts.of(domain.profile), device=device)
    memory = PeakMemory(torch.device(device))
    memory.reset()
    algorithm = Ppo(policy, PpoSettings(episodes=episodes))
    _, turns = take_turns(policy, worlds, algorithm, domain, rounds=1, episodes=episodes)
    figures = {"blip2_stage1_gib": memory.peak() / GIB, "blip2_decisions_per_s": 1.0 / per_decision(turns)}
    return figures, {"how": "measured", "decisions": turns[0].decisions, "updates": turns[0].updates}


def calculated(domain: Domain, episodes: int, decisions: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Add up what stage 1 of the large model takes.

    Args:
        domain: Whose instructions and images the model reads.
        episodes: Of a rollout, each as long as the domain allows.
        decisions: On which the memory of the updates is measured; minibatches do not grow with more.

    Returns:
        Figures and details.
    """
    tokens, width, parameters = shape(domain)
    stored = 2 * tokens * width * domain.observations(episodes)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        updates = pool.apply(update_bytes, (domain, tokens, width, decisions))
    parts = {
        "weights": _WEIGHT_BYTES * parameters,
        "forward_pass": _FORWARD_BYTES,
        "stored_latents": stored,
        "updates_of_the_heads": updates,
    }
    details = {
        "how": "calculated: no GPU; only updates_of_the_heads is measured, on the CPU",
        "parameters": parameters,
        "tokens": tokens,
        "width": width,
        "gib": {name: round(size / GIB, 3) for name, size in parts.items()},
    }
    return {"blip2_stage1_gib": sum(parts.values()) / GIB}, details


def shape(domain: Domain) -> tuple[int, int, int]:
    """Tokens of its longest latent, their width, and parameters of the large model."""
    from transformers import AutoModelForImageTextToText

    profile, tasks = domain.profile, domain.tasks
    with tempfile.TemporaryDirectory(prefix="irevla-blip2-") as folder:
        write_large_backbone(Path(folder))
        source = pretrained.find(folder)
        config = pretrained.load_config(source)
        vlm_processor = pretrained.load_processor(source, image_splitting=False)
    normaliser = Normaliser.identity(profile.state_dim, profile.action_dim)
    cameras = [camera.name for camera in profile.cameras]
    processor = Processor(vlm_processor, config, cameras, normaliser)
    texts = sorted({tasks.instruction(domain.task, "", seed) for seed in range(100)})
    images = {
        camera.name: np.zeros((len(texts), camera.height, camera.width, 3), np.uint8) for camera in profile.cameras
    }
    tokens = processor(images, texts, np.zeros((len(texts), profile.state_dim))).vlm["input_ids"].shape[1]
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    return tokens, config.get_text_config().hidden_size, sum(weight.numel() for weight in model.parameters())


def update_bytes(domain: Domain, tokens: int, width: int, decisions: int) -> int:
    """Peak memory of the heads, their optimiser and one pass of updates on random latents, measured in this process."""
    from transformers import AutoConfig

    profile = domain.profile
    with tempfile.TemporaryDirectory(prefix="irevla-blip2-") as folder:
        write_large_backbone(Path(folder))
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        # Only the heads matter here: a backbone as wide and as shallow as can be.
        config.text_config.num_hidden_layers, config.text_config.ffn_dim = 1, 64
        config.vision_config.num_hidden_layers = config.qformer_config.num_hidden_layers = 1
        config.save_pretrained(folder)
        policy = VLAPolicy.create(ModelSettings(backbone=folder, dtype="bfloat16"), RobotFacts.of(profile))
    heads = sum(4 * weight.numel() for weight in policy.action_head.parameters())
    store = LatentStore(decisions)
    for first in range(0, decisions, 64):
        count = min(64, decisions - first)
        store.add(
            Latent(
                torch.randn(count, tokens, width),
                torch.ones(count, tokens, dtype=torch.bool),
                torch.randn(count, profile.state_dim),
            )
        )
    settings = dataclasses.replace(PpoSettings(), epochs=1, warmup=0)
    mean = np.zeros((decisions, profile.action_dim), np.float32)
    action = settings.noise * np.random.default_rng(0).standard_normal(mean.shape, dtype=np.float32)
    memory = PeakMemory(torch.device("cpu"))
    algorithm = Ppo(policy, settings)
    memory.reset()
    algorithm.learn(rollout_of(store, mean, action, settings.noise), seed=0)
    return memory.peak() + heads
