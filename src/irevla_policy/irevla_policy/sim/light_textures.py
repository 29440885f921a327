"""Textures of one colour each: of a large scene, pictures of wood and marble take most of the memory.

The kitchen's are up to a million pixels each, and every compiled task of every world keeps them, once for the model
and once more, larger, for the renderer, of which an image of 128 pixels shows little but the mean colour.
"""

from __future__ import annotations

import functools
from pathlib import Path

import mujoco
import numpy as np
from PIL import Image

_SIDE = 16
"""Pixels of what is left."""


def plain(spec: mujoco.MjSpec) -> None:
    """Let the textures of a scene show their mean colours; the sky, which is never drawn, goes.

    Args:
        spec: The scene.
    """
    for texture in list(spec.textures):
        if texture.type == mujoco.mjtTexture.mjTEXTURE_SKYBOX:
            texture.delete()
            continue
        if texture.file:
            path = (Path(spec.modelfiledir) / spec.texturedir / texture.file).resolve()
            texture.file = ""
            texture.builtin, texture.rgb1 = mujoco.mjtBuiltin.mjBUILTIN_FLAT, _mean_colour(path)
        texture.width = texture.height = _SIDE


@functools.lru_cache(maxsize=64)
def _mean_colour(path: Path) -> tuple[float, float, float]:
    """RGB in [0, 1]."""
    with Image.open(path) as image:
        red, green, blue = np.asarray(image.convert("RGB"), dtype=np.float64).mean(axis=(0, 1)) / 255.0
    return float(red), float(green), float(blue)
