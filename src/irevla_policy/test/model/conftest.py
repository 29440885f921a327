"""Tiny random checkpoints of the classes that users bring, written and loaded through the real path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from irevla_policy.model.config import RobotFacts
from irevla_policy.model.normalisation import Normaliser
from irevla_policy.robot.observation import Observation

WORDS = "open the drawer press button from above close window and door with hand"


@pytest.fixture
def robot() -> RobotFacts:
    return RobotFacts(
        name="test_arm",
        cameras=("front",),
        action_space="ee_delta",
        action_dim=4,
        state_dim=4,
        proprioception=("ee_position", "gripper"),
        control_rate=20.0,
    )


@pytest.fixture
def normaliser() -> Normaliser:
    random = np.random.default_rng(5)
    return Normaliser.fit(random.normal(size=(50, 4)), random.normal(size=(50, 4)))


@pytest.fixture
def observe() -> Callable[..., Observation]:
    """Makes observations with random images."""

    def make(
        seed: int = 0, instruction: str = "open the drawer", size: int = 96, cameras: tuple[str, ...] = ("front",)
    ):
        random = np.random.default_rng(seed)
        images = {name: random.integers(0, 255, (size, size, 3), dtype=np.uint8) for name in cameras}
        return Observation(0, images, np.zeros(7), 0.0, instruction)

    return make


def make_tokenizer(special: list[str]):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = ["<pad>", "<s>", "</s>", "<unk>", *special, *dict.fromkeys(WORDS.split())]
    tokenizer = Tokenizer(models.WordLevel({name: index for index, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=special,
    )


def write_blip2(folder: Path) -> None:
    from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2Processor
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    tokenizer = make_tokenizer(["<image>"])
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Blip2Config(
        vision_config=small | {"image_size": 32, "patch_size": 16},
        qformer_config=small | {"encoder_hidden_size": 32, "cross_attention_frequency": 1, "vocab_size": 64},
        text_config={
            "model_type": "opt",
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "word_embed_proj_dim": 32,
            "ffn_dim": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "max_position_embeddings": 64,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    Blip2ForConditionalGeneration(config).save_pretrained(folder)
    images = BlipImageProcessorPil(size={"height": 32, "width": 32})
    Blip2Processor(images, tokenizer, num_query_tokens=4).save_pretrained(folder)


_LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def _write_idefics(folder: Path, config_class, model_class, images) -> None:
    from transformers import Idefics3Processor

    tokenizer = make_tokenizer(["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"])
    config = config_class(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
        },
        text_config=_LLAMA | {"model_type": "llama", "vocab_size": len(tokenizer)},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=0,
    )
    model_class(config).save_pretrained(folder)
    Idefics3Processor(images, tokenizer, image_seq_len=4).save_pretrained(folder)


def write_idefics3(folder: Path) -> None:
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    images = Idefics3ImageProcessorPil(
        size={"longest_edge": 32}, max_image_size={"longest_edge": 32}, do_image_splitting=False
    )
    _write_idefics(folder, Idefics3Config, Idefics3ForConditionalGeneration, images)


def write_smolvlm(folder: Path) -> None:
    import json

    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    images = SmolVLMImageProcessorPil(
        size={"longest_edge": 32}, max_image_size={"longest_edge": 32}, do_image_splitting=False
    )
    _write_idefics(folder, SmolVLMConfig, SmolVLMForConditionalGeneration, images)
    # As the published ones have it.
    path = folder / "processor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"processor_class": "SmolVLMProcessor"}))
    (folder / "chat_template.jinja").write_text(_chat_template("<image>"))


def write_paligemma(folder: Path) -> None:
    from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration, PaliGemmaProcessor
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    tokenizer = make_tokenizer(["<image>"])
    config = PaliGemmaConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 16,
            "projection_dim": 32,
            "vision_use_head": False,
        },
        text_config=_LLAMA | {"model_type": "gemma", "vocab_size": len(tokenizer) + 1100, "head_dim": 16},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=32,
        hidden_size=32,
    )
    PaliGemmaForConditionalGeneration(config).save_pretrained(folder)
    images = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    images.image_seq_length = 4
    PaliGemmaProcessor(images, tokenizer).save_pretrained(folder)


def write_qwen2_vl(folder: Path) -> None:
    _write_qwen(folder, "2")


def write_qwen2_5_vl(folder: Path) -> None:
    _write_qwen(folder, "2_5")


def _write_qwen(folder: Path, generation: str) -> None:
    import json

    import transformers
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    special = ["<|vision_start|>", "<|image_pad|>", "<|video_pad|>", "<|vision_end|>"]
    tokenizer = make_tokenizer(special)
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in special}
    vision = {"depth": 1, "num_heads": 2, "patch_size": 8, "spatial_merge_size": 2}
    if generation == "2":
        vision |= {"embed_dim": 32, "hidden_size": 32, "mlp_ratio": 1}
        config_class, model_class = transformers.Qwen2VLConfig, transformers.Qwen2VLForConditionalGeneration
    else:
        vision |= {"hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 32, "window_size": 32}
        config_class, model_class = transformers.Qwen2_5_VLConfig, transformers.Qwen2_5_VLForConditionalGeneration
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    config = config_class(
        vision_config=vision,
        text_config=_LLAMA | {"vocab_size": len(tokenizer), "rope_parameters": rope},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    model_class(config).save_pretrained(folder)
    if generation == "2_5":
        tokenizer.chat_template = _chat_template("<|vision_start|><|image_pad|><|vision_end|>")
    tokenizer.save_pretrained(folder)
    images = Qwen2VLImageProcessorPil(patch_size=8, merge_size=2, min_pixels=32 * 32, max_pixels=32 * 32)
    images.save_pretrained(folder)
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"processor_class": f"Qwen{generation}VLProcessor"}))


def _chat_template(image: str) -> str:
    """The core of the templates that the published checkpoints bring."""
    return (
        "{% for message in messages %}{% for part in message['content'] %}{% if part['type'] == 'image' %}"
        + image
        + "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
    )


FAMILIES = {
    "blip2": write_blip2,
    "idefics3": write_idefics3,
    "smolvlm": write_smolvlm,
    "paligemma": write_paligemma,
    "qwen2_vl": write_qwen2_vl,
    "qwen2_5_vl": write_qwen2_5_vl,
}


@pytest.fixture(scope="session")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder with a tiny pretrained checkpoint of a family, made once."""
    made: dict[str, Path] = {}

    def get(family: str) -> Path:
        if family not in made:
            folder = tmp_path_factory.mktemp(family)
            torch.manual_seed(0)
            FAMILIES[family](folder)
            made[family] = folder
        return made[family]

    return get
