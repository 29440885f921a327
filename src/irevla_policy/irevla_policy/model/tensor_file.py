"""Tensors in a safetensors file."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


def save_tensors(path: Path, tensors: Mapping[str, Tensor], header: dict[str, str] | None = None) -> None:
    """Write tensors; a file that stood there is replaced whole.

    Args:
        path: The file.
        tensors: By name, on any device.
        header: Texts to go with them.

    Raises:
        OSError: The disk is full or the place not writable.
    """
    # Clones: safetensors refuses tensors that share memory, as tied weights do.
    copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(copies, path, metadata=header)
    except SafetensorError as error:
        # It says in words alone what the system said.
        number = re.search(r"os error (\d+)", str(error))
        code = int(number[1]) if number else errno.EIO
        raise OSError(code, os.strerror(code), str(path)) from error
