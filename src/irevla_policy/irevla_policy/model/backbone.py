"""The vision-language backbone: images and instruction to the last hidden states of the language model."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from irevla_policy.model import pretrained
from irevla_policy.model.config import ModelSettings
from irevla_policy.model.pretrained import BackboneError, Source

# Linear layers that project queries and values (or all three at once) in the families that transformers has.
_QUERY_VALUE = ("q_proj", "v_proj", "query", "value", "qkv", "c_attn", "query_key_value")


class VisionLanguageBackbone(nn.Module):
    """A generative vision-language model without its last fully connected layer.

    Attributes:
        width: d, the width of the hidden states.
        tuning: 'full', 'lora' or 'frozen'.
    """

    def __init__(self, settings: ModelSettings, source: Source, config: Any, *, weights: bool = True) -> None:
        """Build or load the model.

        Args:
            settings: Of the model.
            source: Where the backbone comes from.
            config: Its transformers configuration.
            weights: Load the pretrained weights; False where a checkpoint brings its own.

        Raises:
            BackboneError: The model cannot be loaded or has no language-model head to drop.
        """
        super().__init__()
        self.source = source
        self.tuning = resolve_tuning(settings, source)
        self.vlm: Any = pretrained.load_model(source, config, getattr(torch, settings.dtype), weights=weights)
        if self.vlm.get_output_embeddings() is None:
            raise BackboneError(f"backbone {source.name!r}: {type(self.vlm).__name__} has no language-model head")
        # What the head would have got comes out as 'logits': the last hidden representation of the paper.
        self.vlm.set_output_embeddings(nn.Identity())
        self.vlm.requires_grad_(self.tuning == "full")
        if _is_encoder_decoder(config):
            raise BackboneError(
                f"backbone {source.name!r}: its language model is an encoder-decoder; expected a decoder-only one"
            )
        self.width = int(config.get_text_config().hidden_size)
        self.vision_tokens = settings.vision_tokens
        self._patches = config.model_type == "blip-2"
        self._image_token = int(
            getattr(config, "image_token_id", None) or getattr(config, "image_token_index", None) or 0
        )
        if self.vision_tokens:
            self._check_vision_tokens(config)
        self.lora = self._add_lora(settings) if self.tuning == "lora" else None

    def _check_vision_tokens(self, config: Any) -> None:
        name = f"vision_tokens: backbone {self.source.name!r}"
        if not self._patches and not self._image_token:
            raise BackboneError(f"{name}: its configuration names no image_token_id")
        if self._patches and config.vision_config.hidden_size > self.width:
            raise BackboneError(
                f"{name}: its vision encoder is {config.vision_config.hidden_size} wide, expected at most the "
                f"{self.width} of its language model"
            )

    def _add_lora(self, settings: ModelSettings) -> Any:
        from peft import LoraConfig, inject_adapter_in_model

        endings = settings.lora_targets or _QUERY_VALUE
        targets = [
            name
            for name, module in self.vlm.named_modules()
            if isinstance(module, nn.Linear) and name.rsplit(".", 1)[-1] in endings
        ]
        if not targets:
            raise BackboneError(
                f"backbone {self.source.name!r}: no linear layer is named {', '.join(endings)}; set lora_targets"
            )
        config = LoraConfig(
            r=settings.lora_rank,
            lora_alpha=settings.lora_alpha,
            lora_dropout=settings.lora_dropout,
            target_modules=targets,
        )
        inject_adapter_in_model(config, self.vlm)
        for adapter in self.tunable():
            # Half precision would round small updates away.
            adapter.data = adapter.data.float()
        return config

    def forward(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Encode a batch.

        Args:
            inputs: What the processor made: token ids `[B, m]`, attention mask, pixels and what else the family needs.

        Returns:
            Last hidden states `[B, m, d]`, float32, and a mask `[B, m]`, True where there is a token. With
            `vision_tokens` the images' tokens before the language model follow, of BLIP-2 its patches.
        """
        dtype = next(p.dtype for name, p in self.vlm.named_parameters() if "lora_" not in name)
        cast = {key: value.to(dtype) if value.is_floating_point() else value for key, value in inputs.items()}
        first = self.vision_tokens and not self._patches
        output = self.vlm(**cast, use_cache=False, output_hidden_states=first)
        hidden, mask = output.logits.float(), inputs["attention_mask"].bool()
        if not self.vision_tokens:
            return hidden, mask
        if first:
            seen = output.hidden_states[0].float()
            seen_mask = inputs["input_ids"].eq(self._image_token)
        else:
            patches = output.vision_outputs.last_hidden_state.float()
            # Those of all cameras, as wide as what they stand beside.
            seen = patches.reshape(len(mask), -1, patches.shape[-1])
            seen = nn.functional.pad(seen, (0, self.width - seen.shape[-1]))
            seen_mask = mask.new_ones(seen.shape[:2])
        return torch.cat([hidden, seen], dim=1), torch.cat([mask, seen_mask], dim=1)

    def __deepcopy__(self, memo: dict[int, Any]) -> VisionLanguageBackbone:
        """A copy that shares what no checkpoint changes."""
        memo |= {id(value): value for value in self.unchanging()}
        twin = self.__class__.__new__(self.__class__)
        memo[id(self)] = twin
        twin.__dict__ = copy.deepcopy(self.__dict__, memo)
        return twin

    def unchanging(self) -> list[Any]:
        """What no checkpoint of this form changes: weights that it refers to, and configurations."""
        brought = {id(one) for one in (self.vlm.parameters() if self.is_kept_whole else self.tunable())}
        found = [self.source, self.lora, *(one for one in self.vlm.parameters() if id(one) not in brought)]
        for module in self.vlm.modules():
            found += [value for name, value in vars(module).items() if name.endswith("config")]
        return found

    @property
    def is_kept_whole(self) -> bool:
        """Whether a checkpoint holds all weights: all of them learn, or the others are from no file."""
        return self.tuning == "full" or not self.source.has_weights

    def tunable(self) -> list[nn.Parameter]:
        """The parameters that stage 2 trains: all, the adapters, or none."""
        if self.tuning == "full":
            return list(self.vlm.parameters())
        return [parameter for name, parameter in self.vlm.named_parameters() if "lora_" in name]

    def set_trainable(self, trainable: bool) -> None:
        """Freeze the backbone (stage 1), or let what `tuning` names learn (stages 0 and 2).

        Raises:
            BackboneError: Weights in half precision would learn: small updates are rounded away.
        """
        if trainable and any(parameter.dtype != torch.float32 for parameter in self.tunable()):
            raise BackboneError(
                f"backbone {self.source.name!r}: dtype: weights that learn must be float32, found bfloat16; set dtype: "
                "float32, or tuning: lora, whose adapters are float32"
            )
        for parameter in self.tunable():
            parameter.requires_grad_(trainable)

    def adapter_state(self) -> dict[str, Tensor]:
        """The LoRA weights alone."""
        from peft import get_peft_model_state_dict

        return get_peft_model_state_dict(self.vlm)

    def load_adapter_state(self, state: dict[str, Tensor]) -> None:
        """Put LoRA weights in place.

        Raises:
            ValueError: Names or shapes do not fit.
        """
        from peft import set_peft_model_state_dict

        expected = self.adapter_state()
        wrong = sorted(set(expected) ^ set(state)) or [k for k in state if state[k].shape != expected[k].shape]
        if wrong:
            raise ValueError(f"adapter weight {wrong[0]!r} does not fit the backbone")
        set_peft_model_state_dict(self.vlm, state)


def resolve_tuning(settings: ModelSettings, source: Source) -> str:
    """What 'auto' means: adapters on a pretrained backbone, everything where there is nothing to preserve."""
    if settings.tuning != "auto":
        return settings.tuning
    return "lora" if source.has_weights else "full"


def _is_encoder_decoder(config: Any) -> bool:
    return bool(getattr(config.get_text_config(), "is_encoder_decoder", False))
