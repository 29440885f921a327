"""Finding a vision-language model: the shipped one, a local folder or a hub id; its configuration, processor, weights.

Only a hub id reaches for the network. torchvision is never needed: every image processor is the PIL variant.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from irevla_policy.errors import UserError
from irevla_policy.model import shipped

_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")


class BackboneError(UserError, ValueError):
    """A backbone cannot be found, read or used; says which and what was expected."""


@dataclass(frozen=True)
class Source:
    """Where a vision-language model comes from.

    Attributes:
        name: As the user gave it.
        location: Folder, or hub id.
        local: Whether `location` is a folder.
        revision: Revision of a hub id.
        has_weights: Whether there are pretrained weights; without, the model starts from its configuration.
    """

    name: str
    location: str
    local: bool
    revision: str
    has_weights: bool

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of every `from_pretrained`."""
        return {"local_files_only": True} if self.local else {"revision": self.revision}


def find(name: str, revision: str = "main") -> Source:
    """Find a backbone by name.

    Args:
        name: 'tiny' or 'small', a folder, or a hub id 'owner/name'.
        revision: Of a hub id.

    Raises:
        BackboneError: None of the three.
    """
    folder = shipped.folder_of(name) if name in shipped.SIZES else Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise BackboneError(f"backbone {name!r}: the folder {folder} has no config.json of a transformers model")
        weights = any(folder.glob("*.safetensors"))
        if not weights and any(folder.glob("*.bin")):
            raise BackboneError(f"backbone {name!r}: {folder} has pickled weights only; convert them to safetensors")
        return Source(name, str(folder.resolve()), True, revision, weights)
    if not _HUB_ID.match(name) or name.startswith((".", "/", "~")):
        known = " or ".join(repr(shipped_name) for shipped_name in shipped.SIZES)
        raise BackboneError(f"backbone {name!r}: expected {known}, a folder that exists, or a hub id 'owner/name'")
    return Source(name, name, False, revision, True)


def lasting_name(source: Source) -> tuple[str, str]:
    """Name and revision that find the same backbone again, from any folder and whatever is published later.

    Args:
        source: Of `find`; loaded already.
    """
    if source.local:
        relative = source.name not in shipped.SIZES and not source.name.startswith("~")
        return os.path.abspath(source.name) if relative else source.name, source.revision
    from transformers.utils.hub import cached_file, extract_commit_hash

    file = cached_file(source.location, "config.json", revision=source.revision, local_files_only=True)
    return source.name, extract_commit_hash(file, None) or source.revision


def load_config(source: Source) -> Any:
    """The transformers configuration of a vision-language model.

    Raises:
        BackboneError: Cannot be read.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(source.location, **source.options)
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable(source, "configuration", error) from error


def load_model(source: Source, config: Any, dtype: torch.dtype, *, weights: bool = True) -> Any:
    """Build a vision-language model.

    Args:
        source: Where from.
        config: Of `load_config`.
        dtype: Number type of the weights.
        weights: Load the pretrained ones if there are any; False where others will be put in their place.

    Raises:
        BackboneError: The weights cannot be read, or the class is no image-text-to-text model.
    """
    from transformers import AutoModelForImageTextToText

    try:
        if weights and source.has_weights:
            return AutoModelForImageTextToText.from_pretrained(
                source.location, config=config, dtype=dtype, use_safetensors=True, **source.options
            )
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise _unreadable(source, "weights", error) from error
    if config.model_type == "blip-2":
        shipped.initialise(model)
    return model


def load_processor(source: Source, *, image_splitting: bool = False) -> Any:
    """The processor (tokenizer and image processor) of a vision-language model, without torchvision.

    Some families bundle a video processor that only exists with torchvision. Still images need none: for those the
    processor is put together from tokenizer and image processor alone.

    Args:
        source: Where from.
        image_splitting: Whether families that can cut images into tiles do so.

    Raises:
        BackboneError: Cannot be read, or needs a package that is not installed.
    """
    processor = _load_processor(source)
    if hasattr(processor.image_processor, "do_image_splitting"):
        processor.image_processor.do_image_splitting = image_splitting
    return processor


def _load_processor(source: Source) -> Any:
    from transformers import AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(source.location, backend="pil", **source.options)
        if hasattr(processor, "image_processor"):
            return processor
    except (ImportError, OSError, ValueError, KeyError, TypeError):
        pass  # what it lacked may be the video processor: the way below does without, and names the cause if it fails
    try:
        return _still_image_processor(source)
    except ImportError as error:
        raise BackboneError(
            f"backbone {source.name!r}: its processor needs a package that is not installed "
            f"({' '.join(str(error).split())})"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unreadable(source, "processor", error) from error


def _still_image_processor(source: Source) -> Any:
    from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES, processor_class_from_name
    from transformers.processing_utils import ProcessorMixin

    images = AutoImageProcessor.from_pretrained(source.location, backend="pil", **source.options)
    tokenizer = AutoTokenizer.from_pretrained(source.location, **source.options)
    kind = AutoConfig.from_pretrained(source.location, **source.options).model_type
    settings, _ = ProcessorMixin.get_processor_dict(source.location, **source.options)
    # SmolVLM lays images out as Idefics3 does; its own class asks for num2words, which only videos need.
    name = "Idefics3Processor" if kind == "smolvlm" else PROCESSOR_MAPPING_NAMES.get(kind)
    base: Any = processor_class_from_name(name) if name else None
    if base is None:
        raise ImportError(f"torchvision (for the processor of model type {kind})")

    class StillImageProcessor(base):
        video_processor = None

        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in base.get_attributes() if name != "video_processor"]

    StillImageProcessor.__name__ = base.__name__
    kept = {key: settings[key] for key in ("image_seq_len",) if key in settings}
    template = settings.get("chat_template") or getattr(tokenizer, "chat_template", None)
    video = {"video_processor": None} if "video_processor" in base.get_attributes() else {}
    return StillImageProcessor(image_processor=images, tokenizer=tokenizer, chat_template=template, **video, **kept)


def _unreadable(source: Source, what: str, error: Exception) -> BackboneError:
    place = f"in {source.location}" if source.local else f"of {source.location} (revision {source.revision}) on the hub"
    return BackboneError(f"backbone {source.name!r}: the {what} {place} cannot be loaded: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
