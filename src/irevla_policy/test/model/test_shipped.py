"""The backbones that ship with the suite."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from irevla_policy.model.config import ModelSettings
from irevla_policy.model.policy import VLAPolicy
from irevla_policy.model.shipped import SIZES, WORDS, folder_of, write_assets


@pytest.mark.parametrize("name", list(SIZES))
def test_shipped_files_are_those_that_the_sizes_give(name: str, tmp_path: Path):
    write_assets(tmp_path, SIZES[name], WORDS.read_text())
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == sorted(path.name for path in folder_of(name).iterdir() if path != WORDS)
    for file in written:
        assert (tmp_path / file).read_text() == (folder_of(name) / file).read_text()


@pytest.mark.parametrize(("name", "tokens", "millions"), [("tiny", 16, 1.3), ("small", 32, 3.4)])
def test_shipped_backbones_encode_and_learn_as_a_whole(name, tokens, millions, robot, observe):
    policy = VLAPolicy.create(ModelSettings(backbone=name), robot)
    size = sum(p.numel() for p in policy.backbone.parameters()) / 1e6
    assert size == pytest.approx(millions, rel=0.1)
    assert len(policy.backbone.tunable()) == len(list(policy.backbone.parameters()))
    inputs = policy.prepare([observe(0), observe(1)], np.zeros((2, 4)))
    latent = policy.latent(inputs)
    assert latent.hidden.shape[1] >= tokens and latent.hidden.shape[2] == SIZES[name].width
    assert not torch.allclose(latent.hidden[0], latent.hidden[1])
