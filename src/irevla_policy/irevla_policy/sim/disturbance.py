"""What a simulated robot's sensors get wrong: noise and light of the cameras, noise of the joints, late images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from irevla_policy.robot.observation import UInt8Image, Vector
from irevla_policy.settings import setting


@dataclass(frozen=True)
class DisturbanceSettings:
    """How wrong the sensors are; not at all by default."""

    image_noise: float = setting(
        0.0, "Standard deviation of every pixel's noise, in grey levels of 255", at_least=0.0, at_most=128.0
    )
    brightness: float = setting(
        0.0, "Largest relative change of each camera's brightness, drawn for every episode", at_least=0.0, at_most=0.9
    )
    joint_noise: float = setting(
        0.0, "Standard deviation of the noise of joint positions", unit="rad", at_least=0.0, at_most=0.1
    )
    latency: float = setting(0.0, "How long images take to arrive", unit="s", at_least=0.0, at_most=1.0)


class Disturbance:
    """The disturbances of one episode; the same seed disturbs the same observations alike.

    Args:
        settings: How wrong.
        seed: Of all that is drawn.
    """

    def __init__(self, settings: DisturbanceSettings, seed: int) -> None:
        self.settings = settings
        self._joints, self._pixels, lights = (np.random.default_rng([seed, part]) for part in range(3))
        self._lights = lights
        self._brightness: dict[str, float] = {}

    def images(self, images: Mapping[str, UInt8Image]) -> dict[str, UInt8Image]:
        """Images as the cameras give them.

        Args:
            images: Of all cameras, RGB uint8 `[H, W, 3]`.
        """
        settings = self.settings
        if not (settings.image_noise or settings.brightness):
            return dict(images)
        return {name: self._image(name, image) for name, image in images.items()}

    def _image(self, name: str, image: UInt8Image) -> UInt8Image:
        if name not in self._brightness:
            self._brightness[name] = 1.0 + self.settings.brightness * self._lights.uniform(-1.0, 1.0)
        seen = image.astype(np.float32) * np.float32(self._brightness[name])
        if self.settings.image_noise:
            seen += np.float32(self.settings.image_noise) * self._pixels.standard_normal(seen.shape, dtype=np.float32)
        return np.clip(np.rint(seen), 0, 255).astype(np.uint8)

    def joints(self, positions: Vector) -> Vector:
        """Joint positions as the encoders give them, rad, `[n]`."""
        if not self.settings.joint_noise:
            return positions
        return positions + self.settings.joint_noise * self._joints.standard_normal(len(positions))
