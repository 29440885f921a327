"""`irevla bench forward`: time of one decision of the default model and of a BLIP-2-sized one.

The large model has the shape of `Salesforce/blip2-opt-2.7b` with random weights in bfloat16, which cost as much time as
trained ones.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import torch

from irevla_policy.model.config import ModelSettings, RobotFacts
from irevla_policy.model.policy import VLAPolicy
from irevla_policy.model.shipped import folder_of, save_assets
from irevla_policy.robot.observation import Observation
from irevla_policy.robot.profile import load_profile
from irevla_trainer.bench.result import BenchResult

# Bytes of the BLIP-2-sized model's bfloat16 weights, and as much again for building it.
_LARGE_MODEL_BYTES = 16 * 2**30


def run(seconds: float = 10.0, large: bool = True) -> BenchResult:
    """Measure.

    Args:
        seconds: How long each model is measured, at least two decisions.
        large: Whether the BLIP-2-sized model is measured too.
    """
    figures: dict[str, float] = {}
    details: dict[str, object] = {"threads": torch.get_num_threads()}
    _measure("default", ModelSettings(), "cpu", seconds, figures)
    if torch.cuda.is_available():
        _measure("default", ModelSettings(dtype="bfloat16"), "cuda", seconds, figures)
    free = psutil.virtual_memory().available
    if large and free < _LARGE_MODEL_BYTES:
        details["blip2_sized"] = f"not measured: needs {_LARGE_MODEL_BYTES / 1e9:.0f} GB, {free / 1e9:.0f} GB are free"
    elif large:
        with tempfile.TemporaryDirectory(prefix="irevla-blip2-") as folder:
            write_large_backbone(Path(folder))
            settings = ModelSettings(backbone=folder, dtype="bfloat16")
            details["blip2_sized_parameters"] = _measure("blip2_sized", settings, "cpu", seconds, figures)
            if torch.cuda.is_available():
                _measure("blip2_sized", settings, "cuda", seconds, figures)
    return BenchResult("forward", figures, details=details)


def _measure(name: str, settings: ModelSettings, device: str, seconds: float, figures: dict[str, float]) -> int:
    """Add the median and the 99th percentile of one decision; returns the number of parameters."""
    profile = load_profile("sawyer")
    policy = VLAPolicy.create(settings, RobotFacts.of(profile)).to(device)
    random = np.random.default_rng(0)
    images = {
        camera.name: random.integers(0, 255, (camera.height, camera.width, 3), dtype=np.uint8)
        for camera in profile.cameras
    }
    observation = Observation(0, images, np.array(profile.home), 0.0, "open the drawer")
    states = np.zeros((1, profile.state_dim))
    policy.act([observation], states)
    taken: list[float] = []
    end = time.monotonic() + seconds
    while len(taken) < 2 or time.monotonic() < end:
        start = time.perf_counter()
        policy.act([observation], states)
        taken.append(1e3 * (time.perf_counter() - start))
    figures[f"{name}_{device}_p50_ms"] = float(np.median(taken))
    figures[f"{name}_{device}_p99_ms"] = float(np.quantile(taken, 0.99))
    return sum(parameter.numel() for parameter in policy.parameters())


def write_large_backbone(folder: Path) -> None:
    """Configuration of a BLIP-2 of 2.7 B language parameters, with the shipped tokenizer."""
    from transformers import AutoTokenizer, Blip2Config, Blip2QFormerConfig, Blip2VisionConfig, OPTConfig

    tokenizer = AutoTokenizer.from_pretrained(folder_of("tiny"), local_files_only=True)
    config = Blip2Config(
        vision_config=Blip2VisionConfig().to_dict(),
        qformer_config=Blip2QFormerConfig().to_dict(),
        text_config=OPTConfig(
            hidden_size=2560, num_hidden_layers=32, num_attention_heads=32, ffn_dim=10240, word_embed_proj_dim=2560
        ).to_dict(),
        num_query_tokens=32,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    save_assets(folder, config, tokenizer)
