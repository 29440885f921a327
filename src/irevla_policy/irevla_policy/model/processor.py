"""The one chain from observation to model input and from model output to action, for training and serving alike."""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from irevla_policy.errors import UserError
from irevla_policy.model.normalisation import Normaliser

_CACHED_TEXTS = 1024


class InstructionError(UserError, ValueError):
    """An instruction that the language model has no room for."""


@dataclass(frozen=True)
class ModelInputs:
    """A batch as the model takes it.

    Attributes:
        vlm: Keyword arguments of the backbone: input_ids `[B, m]`, attention_mask `[B, m]`, pixel_values, ...
        state: Normalised proprioceptive state `[B, s]`, float32.
    """

    vlm: dict[str, Tensor]
    state: Tensor

    def to(self, device: torch.device) -> ModelInputs:
        """The same on another device."""
        if device.type == "cpu":
            return self
        return ModelInputs(
            {key: value.to(device, non_blocking=True) for key, value in self.vlm.items()},
            self.state.to(device, non_blocking=True),
        )


class Processor:
    """Turns images, instructions and states into `ModelInputs`.

    Attributes:
        vlm: The transformers processor of the backbone.
        normaliser: Of states and actions.
    """

    def __init__(self, vlm_processor: Any, config: Any, cameras: Sequence[str], normaliser: Normaliser) -> None:
        """Args: config: Of the backbone. cameras: Names, in the order the model sees them."""
        self.vlm = vlm_processor
        self.model_type = str(config.model_type)
        self._positions = getattr(config.get_text_config(), "max_position_embeddings", None)
        self.cameras = tuple(cameras)
        self.normaliser = normaliser
        self._texts: dict[tuple[Any, ...], dict[str, Tensor]] = {}
        self._tokenising = threading.Lock()
        self._plain = _PlainImages.of(vlm_processor.image_processor)

    def __deepcopy__(self, memo: dict[int, Any]) -> Processor:
        """The tokenizer is shared: nothing changes it."""
        return self.with_normaliser(self.normaliser)

    def with_normaliser(self, normaliser: Normaliser) -> Processor:
        """The same with other statistics; both may be used at the same time, each in a thread of its own."""
        twin = copy.copy(self)
        twin.normaliser, twin._texts = normaliser, dict(self._texts)
        return twin

    def __call__(
        self,
        images: Mapping[str, Sequence[npt.NDArray[np.uint8]] | npt.NDArray[np.uint8]],
        instructions: Sequence[str],
        states: npt.ArrayLike,
    ) -> ModelInputs:
        """Prepare a batch.

        Args:
            images: Camera name to B RGB images, uint8 `[H, W, 3]` each.
            instructions: B texts.
            states: Raw proprioceptive states `[B, s]`.

        Raises:
            ValueError: A camera is missing, or the numbers of images, texts and states differ.
            InstructionError: Images and instruction are longer than the language model can take.
        """
        missing = [camera for camera in self.cameras if camera not in images]
        if missing:
            raise ValueError(f"image of camera {missing[0]!r} is missing; found {', '.join(images) or 'none'}")
        state = np.asarray(states, dtype=np.float64).reshape(len(instructions), -1)
        size = self.normaliser.state.size
        if state.shape[1] != size:
            raise ValueError(f"expected a proprioceptive state of {size} values, found {state.shape[1]}")
        for camera in self.cameras:
            if len(images[camera]) != len(instructions):
                raise ValueError(
                    f"camera {camera!r} has {len(images[camera])} images for {len(instructions)} instructions"
                )
        rows = [[images[camera][index] for camera in self.cameras] for index in range(len(instructions))]
        shapes = tuple(image.shape for image in rows[0])
        tensors = self._texts_of(instructions, shapes) | self._pixels_of(rows)
        return ModelInputs(tensors, torch.from_numpy(self.normaliser.normalise_state(state)))

    def _pixels_of(self, rows: list[list[npt.NDArray[np.uint8]]]) -> dict[str, Tensor]:
        if self._plain is not None:
            return {"pixel_values": self._plain([image for row in rows for image in row])}
        pixels = self.vlm.image_processor(rows, return_tensors="pt")
        return {key: value for key, value in pixels.items() if isinstance(value, Tensor)}

    def _texts_of(self, instructions: Sequence[str], shapes: tuple[tuple[int, ...], ...]) -> dict[str, Tensor]:
        rows = [self._text_of(instruction, shapes) for instruction in instructions]
        longest = max(row["input_ids"].shape[0] for row in rows)
        batch = {}
        for key in rows[0]:
            fill = (self.vlm.tokenizer.pad_token_id or 0) if key == "input_ids" else 0
            padded = torch.full((len(rows), longest), fill, dtype=torch.int64)
            for index, row in enumerate(rows):
                padded[index, : len(row[key])] = row[key]
            batch[key] = padded
        return batch

    def _text_of(self, instruction: str, shapes: tuple[tuple[int, ...], ...]) -> dict[str, Tensor]:
        """Token ids of an instruction with the placeholders of its images; cached, since instructions repeat."""
        key = (instruction, shapes)
        if key not in self._texts:
            if len(self._texts) >= _CACHED_TEXTS:
                self._texts.clear()
            with self._tokenising:
                self._texts[key] = self._checked(instruction, self._tokenise(instruction, shapes))
        return self._texts[key]

    def _checked(self, instruction: str, tokens: dict[str, Tensor]) -> dict[str, Tensor]:
        """Refuse what the model would look up beyond its positions, which on a GPU no later call survives."""
        length = len(tokens["input_ids"])
        if self._positions is not None and length > self._positions:
            raise InstructionError(
                f"instruction {instruction[:40]!r}...: expected at most {self._positions} tokens, those of the images "
                f"among them, found {length}"
            )
        return tokens

    def _tokenise(self, instruction: str, shapes: tuple[tuple[int, ...], ...]) -> dict[str, Tensor]:
        blank = [np.zeros(shape, np.uint8) for shape in shapes]
        if self.model_type == "blip-2":
            # Its processor knows one image; further cameras put their query tokens in front.
            encoded = self.vlm(images=blank[0], text=instruction, return_tensors="pt")
            ids = encoded["input_ids"][0]
            more = ids[: self.vlm.num_query_tokens].repeat(len(shapes) - 1)
            ids = torch.cat([more, ids])
            return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        encoded = self.vlm(images=[blank], text=[self._prompt(instruction, len(shapes))], return_tensors="pt")
        length = encoded["input_ids"].shape
        # What is as long as the text belongs to it (masks, token types); labels are for the layer that is dropped.
        return {
            key: value[0]
            for key, value in encoded.items()
            if isinstance(value, Tensor) and value.shape == length and key != "labels"
        }

    def _prompt(self, instruction: str, images: int) -> str:
        if getattr(self.vlm, "chat_template", None):
            content = [{"type": "image"}] * images + [{"type": "text", "text": instruction}]
            return self.vlm.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        token = self.vlm.image_token
        token = token if isinstance(token, str) else token.content
        if self.model_type.startswith("qwen"):
            token = f"<|vision_start|>{token}<|vision_end|>"
        return token * images + instruction


class _PlainImages:
    """Resize, rescale, normalise: what most image processors do, without their overhead of milliseconds an image."""

    def __init__(self, height: int, width: int, resample: int, scale: float, mean: Tensor, std: Tensor) -> None:
        self.size = (height, width)
        self.resample = Image.Resampling(resample)
        self.gain = (scale / std).view(1, 3, 1, 1)
        self.offset = (-mean / std).view(1, 3, 1, 1)

    @classmethod
    def of(cls, processor: Any) -> _PlainImages | None:
        """The plain chain of an image processor; None when it does more than these three steps."""
        size = processor.size
        known = type(processor).__name__.startswith(("BlipImageProcessor", "SiglipImageProcessor"))
        if not known or "height" not in size or not (processor.do_rescale and processor.do_normalize):
            return None
        mean, std = torch.tensor(processor.image_mean), torch.tensor(processor.image_std)
        return cls(size["height"], size["width"], processor.resample, processor.rescale_factor, mean, std)

    def __call__(self, images: Sequence[npt.NDArray[np.uint8]]) -> Tensor:
        """N RGB images to `[N, 3, height, width]`, float32."""
        batch = torch.from_numpy(np.stack([self._resized(image) for image in images]))
        pixels = batch.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        return pixels * self.gain + self.offset

    def _resized(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        if image.shape[:2] == self.size:
            return image
        height, width = self.size
        return np.asarray(Image.fromarray(image).resize((width, height), self.resample))
