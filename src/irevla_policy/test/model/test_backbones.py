"""Every family of vision-language models: load from a folder, train a step with LoRA, act, store and load again."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

from irevla_policy.model import pretrained
from irevla_policy.model.backbone import VisionLanguageBackbone
from irevla_policy.model.checkpoint import form_of, load_checkpoint, load_twin, save_checkpoint
from irevla_policy.model.config import ModelSettings
from irevla_policy.model.policy import VLAPolicy
from irevla_policy.model.pretrained import BackboneError
from irevla_policy.model.processor import InstructionError

IMAGE_TOKENS = {
    "idefics3": "<image>",
    "smolvlm": "<image>",
    "paligemma": "<image>",
    "qwen2_vl": "<|image_pad|>",
    "qwen2_5_vl": "<|image_pad|>",
}
FAMILIES = ("blip2", "idefics3", "smolvlm", "paligemma", "qwen2_vl", "qwen2_5_vl")


def lora_settings(folder) -> ModelSettings:
    return ModelSettings(backbone=str(folder), lora_rank=4, learner_slots=4, head_width=32, head_layers=1)


@pytest.mark.parametrize("cameras", [("front",), ("front", "wrist")])
@pytest.mark.parametrize("family", FAMILIES)
def test_family_trains_with_lora_and_survives_storage(family, cameras, backbones, robot, observe, tmp_path):
    robot = dataclasses.replace(robot, cameras=cameras)
    policy = VLAPolicy.create(lora_settings(backbones(family)), robot, seed=3)
    observations = [observe(1, "open the drawer", cameras=cameras), observe(2, "close", cameras=cameras)]
    states = np.zeros((2, 4))
    before = policy.act(observations, states)
    assert before.shape == (2, 1, 4)
    assert np.isfinite(before).all()

    base = {name: p.clone() for name, p in policy.backbone.vlm.named_parameters() if "lora_" not in name}
    policy.train()
    optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(16):
        loss = (policy(policy.prepare(observations, states)) - 1.0).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    policy.eval()
    assert losses[-1] < 0.5 * losses[0]
    for name, parameter in policy.backbone.vlm.named_parameters():
        if name in base:
            assert torch.equal(parameter, base[name]), f"{name} of the pretrained model changed"
    moved = [p.abs().max() > 0 for name, p in policy.backbone.vlm.named_parameters() if "lora_B" in name]
    assert any(moved), "no adapter learnt"

    trained = policy.act(observations, states)
    save_checkpoint(tmp_path / "policy", policy)
    assert not (tmp_path / "policy" / "backbone.safetensors").exists(), "the base model is kept by reference"
    assert np.array_equal(load_checkpoint(tmp_path / "policy").act(observations, states), trained)

    save_checkpoint(tmp_path / "untrained", VLAPolicy.create(lora_settings(backbones(family)), robot, seed=3))
    first = load_checkpoint(tmp_path / "untrained")
    assert form_of(tmp_path / "untrained") == form_of(tmp_path / "policy")
    twin = load_twin(tmp_path / "policy", first)
    assert np.array_equal(twin.act(observations, states), trained)
    assert np.array_equal(first.act(observations, states), before)
    shared = {p.data_ptr() for p in first.parameters()} & {p.data_ptr() for p in twin.parameters()}
    assert len(shared) == len(base), "the pretrained weights are there twice, or adapters are shared"


@pytest.mark.parametrize("family", FAMILIES)
def test_images_and_instruction_reach_the_latent(family, backbones, robot, observe):
    policy = VLAPolicy.create(lora_settings(backbones(family)), robot)
    states = np.zeros((1, 4))

    def latent(observation):
        with torch.no_grad():
            return policy.latent(policy.prepare([observation], states)).hidden

    one = latent(observe(1))
    other_image = latent(observe(2))
    other_text = latent(observe(1, "close the window"))
    assert one.shape == other_image.shape
    assert not torch.allclose(one, other_image, atol=1e-5)
    assert one.shape != other_text.shape or not torch.allclose(one, other_text, atol=1e-5)


@pytest.mark.parametrize("cameras", [("front",), ("front", "wrist")])
@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_of_the_vision_encoder(family, cameras, backbones, robot, observe):
    robot = dataclasses.replace(robot, cameras=cameras)
    settings = dataclasses.replace(lora_settings(backbones(family)), vision_tokens=True)
    policies = [VLAPolicy.create(one, robot, seed=3) for one in (settings, lora_settings(backbones(family)))]
    observations = [
        observe(seed, text, cameras=cameras) for seed, text in ((1, "open the drawer"), (1, "close"), (2, "close"))
    ]
    with torch.no_grad():
        both, last = (policy.latent(policy.prepare(observations, np.zeros((3, 4)))) for policy in policies)
        inputs = policies[0].prepare(observations, np.zeros((3, 4))).vlm
        vlm = policies[0].backbone.vlm
        patches = vlm.vision_model(inputs["pixel_values"]).last_hidden_state if family == "blip2" else None
        words = vlm.get_input_embeddings()(inputs["input_ids"])
    count = last.hidden.shape[1]
    torch.testing.assert_close(both.hidden[:, :count], last.hidden)
    assert torch.equal(both.mask[:, :count], last.mask)
    seen, mask = both.hidden[:, count:], both.mask[:, count:]
    if patches is not None:
        torch.testing.assert_close(seen, patches.reshape(seen.shape))
        assert mask.all()
        return
    # In the place of every image token there is what its image says, and nothing else counts.
    image_token = policies[0].processor.vlm.tokenizer.convert_tokens_to_ids(IMAGE_TOKENS[family])
    assert torch.equal(mask, inputs["input_ids"] == image_token) and mask.any()
    one, other_text, other_image = (tokens[row] for tokens, row in zip(seen, mask, strict=True))
    assert not torch.allclose(one, words[0][mask[0]], atol=1e-3)
    torch.testing.assert_close(one, other_text)
    assert not torch.allclose(one, other_image, atol=1e-6)


def test_vision_encoder_wider_than_the_language_model(backbones, robot):
    from transformers import Blip2Config

    folder = backbones("blip2")
    settings = dataclasses.replace(lora_settings(folder), vision_tokens=True)
    source, config = pretrained.find(str(folder), "main"), Blip2Config.from_pretrained(folder)
    config.vision_config.hidden_size = 48
    with pytest.raises(BackboneError, match="its vision encoder is 48 wide, expected at most the 32"):
        VisionLanguageBackbone(settings, source, config, weights=False)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_decides_as_its_single_members_do(family, backbones, robot, observe):
    policy = VLAPolicy.create(lora_settings(backbones(family)), robot)
    observations = [observe(1, "open the drawer"), observe(2, "press the button from above with the hand")]
    states = np.random.default_rng(0).normal(size=(2, 4))
    together = policy.act(observations, states)
    alone = [policy.act([seen], state[None])[0] for seen, state in zip(observations, states, strict=True)]
    np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("family", ["blip2", "paligemma"])
def test_fast_image_path_equals_the_library_processor(family, backbones, robot, observe):
    policy = VLAPolicy.create(lora_settings(backbones(family)), robot)
    seen = observe(4, size=80)
    ours = policy.prepare([seen], np.zeros((1, 4))).vlm["pixel_values"]
    reference = policy.processor.vlm.image_processor([seen.images["front"]], return_tensors="pt")["pixel_values"]
    np.testing.assert_allclose(ours.numpy(), reference.numpy(), atol=1e-5)


def test_last_layer_is_dropped(backbones, robot, observe):
    """The hidden states are what the language-model head of the original would have got."""
    from transformers import Blip2ForConditionalGeneration

    folder = backbones("blip2")
    policy = VLAPolicy.create(lora_settings(folder), robot)
    inputs = policy.prepare([observe(1)], np.zeros((1, 4))).vlm
    original = Blip2ForConditionalGeneration.from_pretrained(folder).eval()
    with torch.no_grad():
        hidden, mask = policy.backbone(inputs)
        logits = original(**inputs).logits
        assert mask.all()
        torch.testing.assert_close(original.get_output_embeddings()(hidden), logits, atol=1e-5, rtol=1e-5)


def test_adapters_learn_in_small_steps_on_weights_in_half_precision(backbones, robot, observe):
    settings = dataclasses.replace(lora_settings(backbones("blip2")), dtype="bfloat16")
    policy = VLAPolicy.create(settings, robot)
    policy.unfreeze_backbone()
    before = [p.detach().clone() for p in policy.backbone.tunable()]
    optimizer = torch.optim.Adam(policy.backbone.tunable(), lr=1e-6)
    for _ in range(2):
        optimizer.zero_grad()
        policy(policy.prepare([observe(1)], np.zeros((1, 4)))).square().mean().backward()
        optimizer.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, policy.backbone.tunable(), strict=True))
    assert {p.dtype for p in policy.backbone.parameters()} == {torch.float32, torch.bfloat16}
    whole = VLAPolicy.create(dataclasses.replace(settings, tuning="full"), robot)
    with pytest.raises(BackboneError, match="dtype: weights that learn must be float32, found bfloat16"):
        whole.unfreeze_backbone()


def test_frozen_backbone_of_a_reference(backbones, robot):
    settings = dataclasses.replace(lora_settings(backbones("blip2")), tuning="frozen")
    policy = VLAPolicy.create(settings, robot)
    assert policy.backbone.tunable() == []
    policy.unfreeze_backbone()
    assert not any(p.requires_grad for p in policy.backbone.parameters())


def test_heads_on_a_frozen_backbone_learn_what_serving_sees(backbones, robot, tmp_path, observe):
    folder = tmp_path / "blip2"
    shutil.copytree(backbones("blip2"), folder)
    config = json.loads((folder / "config.json").read_text())
    for part in ("text_config", "qformer_config"):
        config[part] |= {"dropout": 0.5, "hidden_dropout_prob": 0.5}
    (folder / "config.json").write_text(json.dumps(config))
    policy = VLAPolicy.create(ModelSettings(backbone=str(folder), tuning="frozen"), robot)
    inputs = policy.prepare([observe(1)], np.zeros((1, robot.state_dim)))
    serving = policy.latent(inputs).hidden
    policy.unfreeze_backbone()
    policy.train()
    assert torch.equal(policy.latent(inputs).hidden, serving)


def test_an_instruction_beyond_the_models_positions_is_refused(robot, observe):
    policy = VLAPolicy.create(ModelSettings(), robot)
    longest = dataclasses.replace(observe(1), instruction="open the drawer " * 20)
    policy.act([longest], np.zeros((1, robot.state_dim)))
    too_long = dataclasses.replace(observe(1), instruction="q" * 400)
    with pytest.raises(InstructionError, match=r"instruction 'q+'\.\.\.: expected at most 256 tokens, .* found 4\d\d"):
        policy.act([too_long], np.zeros((1, robot.state_dim)))


def test_a_backbone_in_a_folder_is_found_from_elsewhere(backbones, robot, tmp_path, monkeypatch):
    folder = tmp_path / "models" / "vlm"
    shutil.copytree(backbones("blip2"), folder)
    monkeypatch.chdir(tmp_path)
    policy = VLAPolicy.create(ModelSettings(backbone="models/vlm", tuning="lora"), robot)
    save_checkpoint(tmp_path / "checkpoint", policy)
    monkeypatch.chdir("/")
    assert load_checkpoint(tmp_path / "checkpoint").settings.backbone == str(folder.resolve())


def test_a_backbone_of_the_hub_stays_the_one_that_was_trained_on(backbones, robot, tmp_path, monkeypatch):
    cache, revision = tmp_path / "hub", "0a1b" * 10
    found = cache / "models--owner--name"
    shutil.copytree(backbones("blip2"), found / "snapshots" / revision)
    (found / "refs").mkdir()
    (found / "refs" / "main").write_text(revision)
    for name in ("huggingface_hub.constants.HF_HUB_CACHE", "transformers.utils.hub.constants.HF_HUB_CACHE"):
        monkeypatch.setattr(name, str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    policy = VLAPolicy.create(ModelSettings(backbone="owner/name"), robot)
    assert (policy.settings.backbone, policy.settings.revision) == ("owner/name", revision)


def test_a_checkpoint_that_holds_its_backbone_does_not_say_where_it_came_from(backbones, robot, tmp_path, monkeypatch):
    folder = tmp_path / "models" / "vlm"
    shutil.copytree(backbones("blip2"), folder)
    monkeypatch.chdir(tmp_path)
    assert (
        VLAPolicy.create(ModelSettings(backbone="models/vlm", tuning="full"), robot).settings.backbone == "models/vlm"
    )


def test_lora_targets_that_match_nothing_are_named(backbones, robot):
    settings = dataclasses.replace(lora_settings(backbones("blip2")), lora_targets=("nowhere",))
    with pytest.raises(BackboneError, match="no linear layer is named nowhere"):
        VLAPolicy.create(settings, robot)


@pytest.mark.parametrize("name", ["no/such/folder/here", "./missing", "tinyy"])
def test_unknown_backbone_is_named(name, robot):
    with pytest.raises(BackboneError, match="expected 'tiny' or 'small', a folder that exists, or a hub id"):
        VLAPolicy.create(ModelSettings(backbone=name), robot)


def test_folder_without_configuration(tmp_path, robot):
    with pytest.raises(BackboneError, match=r"no config\.json"):
        VLAPolicy.create(ModelSettings(backbone=str(tmp_path)), robot)


def test_damaged_pretrained_weights(backbones, robot, tmp_path):
    import shutil

    folder = tmp_path / "damaged"
    shutil.copytree(backbones("blip2"), folder)
    (folder / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(BackboneError, match="weights"):
        VLAPolicy.create(lora_settings(folder), robot)


def test_slots_must_divide_the_width(backbones, robot):
    settings = dataclasses.replace(lora_settings(backbones("blip2")), learner_slots=5)
    with pytest.raises(BackboneError, match="learner_slots"):
        VLAPolicy.create(settings, robot)


def test_tiles_only_when_asked_for(backbones, robot, observe):
    lengths = []
    for splitting in (False, True):
        settings = dataclasses.replace(lora_settings(backbones("smolvlm")), image_splitting=splitting)
        policy = VLAPolicy.create(settings, robot)
        policy.processor.vlm.image_processor.size = {"longest_edge": 64}
        inputs = policy.prepare([observe(1)], np.zeros((1, 4)))
        with torch.no_grad():
            lengths.append(policy.latent(inputs).hidden.shape[1])
    assert lengths[1] > 3 * lengths[0]
