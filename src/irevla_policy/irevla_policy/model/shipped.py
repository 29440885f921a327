"""The backbones that ship with the suite: small BLIP-2s whose configuration and tokenizer lie in `assets`.

They have no weights: they start from the initialisation below and are trained in full. `python -m
irevla_policy.model.shipped NAME FOLDER` writes the files of one of them again.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

_ASSETS = Path(__file__).parent / "assets"


@dataclass(frozen=True)
class Size:
    """Of a shipped backbone.

    Attributes:
        image: Side of the image, px.
        patch: Side of a patch, px.
        width: Of every layer.
        vision_layers: Of the vision transformer.
        queries: Tokens that an image becomes.
        text_layers: Of the language model.
    """

    image: int
    patch: int
    width: int
    vision_layers: int
    queries: int
    text_layers: int


SIZES = {
    "tiny": Size(image=96, patch=12, width=128, vision_layers=3, queries=16, text_layers=2),
    "small": Size(image=144, patch=12, width=192, vision_layers=4, queries=32, text_layers=3),
}
"""By name."""


def folder_of(name: str) -> Path:
    """Folder of a shipped backbone."""
    return _ASSETS / name


WORDS = folder_of("tiny") / "words.txt"
"""Words that are whole tokens of all of them."""

_SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
_IMAGE_TOKEN = "<image>"


def initialise(model: Any) -> None:
    """Give an untrained BLIP-2 a start from which it learns to localise within minutes.

    The library starts the query tokens at zero, all alike, because it expects trained weights; alike they get alike
    gradients and never part. And it starts the patches' positions as small noise, which hides where a patch is from
    the first updates; sines and cosines say it from the start.
    """
    embeddings = model.vision_model.embeddings
    with torch.no_grad():
        nn.init.normal_(model.query_tokens, std=1.0)
        side = math.isqrt(embeddings.num_patches)
        embeddings.position_embedding.zero_()
        embeddings.position_embedding[0, 1:] = sine_positions(side, embeddings.embed_dim)
        # Patches of [-1, 1] pixels and positions start at a like magnitude.
        fan_in = embeddings.patch_embedding.weight[0].numel()
        nn.init.normal_(embeddings.patch_embedding.weight, std=fan_in**-0.5)
        for module in model.modules():
            if isinstance(module, nn.Linear) and module.in_features <= 1024:
                nn.init.xavier_uniform_(module.weight)


def sine_positions(side: int, width: int) -> Tensor:
    """Sines and cosines of row and column for a square grid of patches, `[side * side, width]` in [-1, 1]."""
    quarter = width // 4
    # From half a period over the whole grid up to a period of two patches.
    frequency = math.pi / side * (side ** torch.linspace(0.0, 1.0, quarter))
    place = torch.arange(side) + 0.5
    angle = place[:, None] * frequency
    wave = torch.cat([angle.sin(), angle.cos()], dim=1)
    rows = wave[:, None].expand(side, side, -1)
    columns = wave[None].expand(side, side, -1)
    grid = torch.cat([rows, columns], dim=-1).reshape(side * side, -1)
    return nn.functional.pad(grid, (0, width - grid.shape[1]))


def write_assets(folder: Path, size: Size, words: str) -> None:
    """Write configuration, tokenizer and processor files.

    Args:
        folder: Where to.
        size: Of the backbone.
        words: Text whose words become whole tokens; anything else is spelled in bytes.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import (
        Blip2Config,
        Blip2QFormerConfig,
        Blip2VisionConfig,
        OPTConfig,
        PreTrainedTokenizerFast,
    )

    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1536,
        special_tokens=[*_SPECIAL.values(), _IMAGE_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([words], trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, **_SPECIAL)
    width = size.width
    config = Blip2Config(
        vision_config=Blip2VisionConfig(
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=size.vision_layers,
            num_attention_heads=4,
            image_size=size.image,
            patch_size=size.patch,
            initializer_range=0.02,
        ).to_dict(),
        qformer_config=Blip2QFormerConfig(
            hidden_size=width,
            encoder_hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=4,
            cross_attention_frequency=1,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            vocab_size=tokenizer.vocab_size,
            max_position_embeddings=64,
        ).to_dict(),
        text_config=OPTConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            word_embed_proj_dim=width,
            ffn_dim=2 * width,
            num_hidden_layers=size.text_layers,
            num_attention_heads=4,
            max_position_embeddings=256,
            dropout=0.0,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        ).to_dict(),
        num_query_tokens=size.queries,
        image_token_index=tokenizer.convert_tokens_to_ids(_IMAGE_TOKEN),
    )
    config.architectures = ["Blip2ForConditionalGeneration"]
    save_assets(folder, config, tokenizer)


def save_assets(folder: Path, config: Any, tokenizer: Any) -> None:
    """Write a BLIP-2 that has a configuration, a tokenizer and an image processor, and no weights.

    Args:
        folder: Where to; made when missing.
        config: A `transformers.Blip2Config`.
        tokenizer: With the image token of the configuration.
    """
    from transformers import Blip2Processor
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    side = config.vision_config.image_size
    half = [0.5, 0.5, 0.5]
    images = BlipImageProcessorPil(size={"height": side, "width": side}, image_mean=half, image_std=half)
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    Blip2Processor(images, tokenizer, num_query_tokens=config.num_query_tokens).save_pretrained(folder)


if __name__ == "__main__":
    write_assets(Path(sys.argv[2]), SIZES[sys.argv[1]], WORDS.read_text())
