"""Camera messages to RGB arrays and back; the only module that knows image encodings.

Raw images go through `cv_bridge` where it is installed and through numpy views elsewhere; the environment variable
`IREVLA_IMAGE_BACKEND` (`cv_bridge` or `numpy`) forces one. Both give the same pixels, and the checks that name what
is wrong with a message run before either. JPEG and PNG go through Pillow.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import os
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from irevla_policy.errors import UserError
from irevla_policy.robot.camera import Camera

RGBImage = npt.NDArray[np.uint8]

BACKENDS = ("cv_bridge", "numpy")

# Encoding -> bytes a pixel. Everything here is 8 bits a channel, so `is_bigendian` changes nothing.
CHANNELS = {"rgb8": 3, "8UC3": 3, "bgr8": 3, "rgba8": 4, "8UC4": 4, "bgra8": 4, "mono8": 1, "8UC1": 1}
_RGB_ORDER = {"rgb8": (0, 1, 2), "bgr8": (2, 1, 0), "rgba8": (0, 1, 2), "bgra8": (2, 1, 0)}
SAME_AS = {"8UC1": "mono8", "8UC3": "bgr8", "8UC4": "bgra8"}
"""Encoding to the other name of the same layout."""
_SIXTEEN_BIT = ("mono16", "16UC1", "16SC1", "16UC3", "rgb16", "bgr16", "rgba16", "bgra16")
# ITU-R BT.601, as OpenCV and Pillow use for grey
_LUMA = (0.299, 0.587, 0.114)


class ImageError(UserError, ValueError):
    """A camera message is not what the robot profile promises, or cannot be decoded."""


class ImageFields(Protocol):
    """What is read of a sensor_msgs/Image, whichever library made it."""

    @property
    def height(self) -> int:
        """Rows."""

    @property
    def width(self) -> int:
        """Columns."""

    @property
    def encoding(self) -> str:
        """Name of the layout of a pixel."""

    @property
    def step(self) -> int:
        """Bytes of a row."""

    @property
    def data(self) -> Any:
        """The bytes."""


class CompressedImageFields(Protocol):
    """What is read of a sensor_msgs/CompressedImage."""

    @property
    def format(self) -> str:
        """Name of the format."""

    @property
    def data(self) -> Any:
        """The bytes."""


def backend() -> str:
    """The backend in use: `cv_bridge` where it can be imported, otherwise `numpy`.

    Raises:
        ImageError: `IREVLA_IMAGE_BACKEND` names another, or one that is not installed.
    """
    installed = _cv_bridge_is_installed()
    chosen = os.environ.get("IREVLA_IMAGE_BACKEND") or ("cv_bridge" if installed else "numpy")
    if chosen not in BACKENDS:
        raise ImageError(f"IREVLA_IMAGE_BACKEND: expected one of {', '.join(BACKENDS)}, found {chosen!r}")
    if chosen == "cv_bridge" and not installed:
        raise ImageError("IREVLA_IMAGE_BACKEND is cv_bridge, but the package cv_bridge of ROS 2 is not installed")
    return chosen


@functools.cache
def _cv_bridge_is_installed() -> bool:
    # Looking through all folders of packages costs more than decoding an image.
    return importlib.util.find_spec("cv_bridge") is not None


def decode_image(message: ImageFields, camera: Camera | None = None) -> RGBImage:
    """The pixels of a sensor_msgs/Image.

    Args:
        message: The message, or any object with its fields.
        camera: What the robot profile promises; size and encoding are then checked against it.

    Returns:
        RGB image, uint8 `[H, W, 3]`: a read-only view of the message's data where the encoding allows one.

    Raises:
        ImageError: Wrong size, encoding, row step or data length; names field, found and expected.
    """
    where = f"image of camera {camera.name!r} ({camera.topic})" if camera else "image"
    encoding = _checked_encoding(message.encoding, camera, where)
    height, width, step = int(message.height), int(message.width), int(message.step)
    if height == 0 or width == 0:
        raise ImageError(f"{where}: width and height must be above 0, found {width} x {height}")
    _check_size(width, height, camera, where)
    row = width * CHANNELS[encoding]
    if step < row:
        raise ImageError(f"{where}: step must be at least width x {CHANNELS[encoding]} = {row} bytes, found {step}")
    data = _bytes_of(message.data)
    # A driver may leave out the padding of the last row.
    if data.size not in (step * height, step * (height - 1) + row):
        raise ImageError(f"{where}: data must hold step x height = {step * height} bytes, found {data.size}")
    pixels = _rows(data, height, width, step, encoding)
    return _by_cv_bridge(pixels, encoding) if backend() == "cv_bridge" else _by_numpy(pixels, encoding)


def decode_compressed(message: CompressedImageFields, camera: Camera | None = None) -> RGBImage:
    """The pixels of a sensor_msgs/CompressedImage that holds JPEG or PNG.

    Args:
        message: The message, or any object with its fields.
        camera: What the robot profile promises; the size is then checked against it.

    Returns:
        RGB image, uint8 `[H, W, 3]`.

    Raises:
        ImageError: Not a JPEG or PNG, truncated, or of another size.
    """
    from PIL import Image, UnidentifiedImageError

    where = f"compressed image of camera {camera.name!r} ({camera.topic}/compressed)" if camera else "compressed image"
    data = _bytes_of(message.data)
    if data.size == 0:
        raise ImageError(f"{where}: data is empty, expected JPEG or PNG")
    try:
        with Image.open(io.BytesIO(data.tobytes()), formats=("JPEG", "PNG")) as picture:
            pixels = np.asarray(picture.convert("RGB"))
    except UnidentifiedImageError:
        raise ImageError(
            f"{where}: expected JPEG or PNG, found format {message.format!r} that starts with {bytes(data[:8])!r}"
        ) from None
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"{where}: cannot be decoded as {message.format!r} ({error})") from error
    _check_size(pixels.shape[1], pixels.shape[0], camera, where)
    return pixels


def encode_image(rgb: RGBImage, encoding: str = "rgb8") -> dict[str, Any]:
    """The fields of a sensor_msgs/Image for an RGB image.

    Args:
        rgb: uint8 `[H, W, 3]`.
        encoding: One of the encodings that a robot profile may promise.

    Returns:
        `height`, `width`, `encoding`, `is_bigendian`, `step` and `data` (bytes, rows without padding).

    Raises:
        ImageError: Wrong shape or type, or an encoding that the profile does not know.
    """
    _check_rgb(rgb)
    if encoding == "mono8":
        pixels = np.rint(rgb @ np.array(_LUMA)).astype(np.uint8)
    elif encoding in _RGB_ORDER:
        pixels = rgb[..., _RGB_ORDER[encoding]] if encoding.startswith("bgr") else rgb
        if CHANNELS[encoding] == 4:
            pixels = np.concatenate([pixels, np.full((*rgb.shape[:2], 1), 255, np.uint8)], axis=2)
    else:
        raise ImageError(f"image: encoding must be one of mono8, {', '.join(_RGB_ORDER)}, found {encoding!r}")
    height, width = rgb.shape[:2]
    return {
        "height": height,
        "width": width,
        "encoding": encoding,
        "is_bigendian": 0,
        "step": width * CHANNELS[encoding],
        "data": np.ascontiguousarray(pixels).tobytes(),
    }


def encode_compressed(rgb: RGBImage, image_format: str = "jpeg", quality: int = 95) -> bytes:
    """An RGB image as JPEG or PNG.

    Args:
        rgb: uint8 `[H, W, 3]`.
        image_format: `jpeg` or `png`.
        quality: JPEG quality in [1, 100]; PNG is lossless and ignores it.

    Raises:
        ImageError: Wrong shape, type or format.
    """
    from PIL import Image

    _check_rgb(rgb)
    if image_format not in ("jpeg", "png"):
        raise ImageError(f"compressed image: format must be jpeg or png, found {image_format!r}")
    stream = io.BytesIO()
    picture = Image.fromarray(np.ascontiguousarray(rgb))
    if image_format == "jpeg":
        picture.save(stream, "JPEG", quality=quality)
    else:
        # Level 1 is five times as quick as the default and a tenth larger.
        picture.save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _checked_encoding(encoding: str, camera: Camera | None, where: str) -> str:
    if encoding in _SIXTEEN_BIT:
        raise ImageError(
            f"{where}: encoding {encoding!r} has 16 bits a channel (depth?), which the model cannot see; "
            "expected an 8-bit encoding such as rgb8: convert it before it is published"
        )
    if encoding not in CHANNELS:
        raise ImageError(f"{where}: encoding must be one of {', '.join(CHANNELS)}, found {encoding!r}")
    encoding = SAME_AS.get(encoding, encoding)
    if camera is not None and encoding != camera.encoding:
        raise ImageError(f"{where}: the robot profile promises encoding {camera.encoding!r}, found {encoding!r}")
    return encoding


def _check_size(width: int, height: int, camera: Camera | None, where: str) -> None:
    if camera is not None and (width, height) != (camera.width, camera.height):
        raise ImageError(
            f"{where}: the robot profile promises width {camera.width} and height {camera.height}, "
            f"found {width} x {height}"
        )


def _check_rgb(rgb: RGBImage) -> None:
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or rgb.size == 0:
        raise ImageError(f"image: expected uint8 [H, W, 3], found {rgb.dtype} {list(rgb.shape)}")


def _bytes_of(data: Any) -> npt.NDArray[np.uint8]:
    # array.array (rclpy), ndarray (rosbags), bytes and memoryview all share their memory.
    return np.frombuffer(data, np.uint8) if len(data) else np.zeros(0, np.uint8)


def _rows(data: npt.NDArray[np.uint8], height: int, width: int, step: int, encoding: str) -> npt.NDArray[np.uint8]:
    """A view of the pixels without the padding of rows, `[H, W, channels]`."""
    channels = CHANNELS[encoding]
    return np.lib.stride_tricks.as_strided(data, (height, width, channels), (step, channels, 1), writeable=False)


def _by_numpy(pixels: npt.NDArray[np.uint8], encoding: str) -> RGBImage:
    if encoding == "mono8":
        return np.broadcast_to(pixels, (*pixels.shape[:2], 3))
    return pixels[..., 2::-1] if encoding.startswith("bgr") else pixels[..., :3]


@functools.cache
def _bridge() -> Any:
    from cv_bridge import CvBridge

    return CvBridge()


def _by_cv_bridge(pixels: npt.NDArray[np.uint8], encoding: str) -> RGBImage:
    from types import SimpleNamespace

    height, width, channels = pixels.shape
    # cv_bridge misreads rows whose padding is no whole number of pixels: it gets none.
    packed = np.ascontiguousarray(pixels)
    fields = SimpleNamespace(
        height=height, width=width, encoding=encoding, step=width * channels, data=packed.reshape(-1), is_bigendian=0
    )
    decoded = np.asarray(_bridge().imgmsg_to_cv2(fields, desired_encoding="rgb8"))
    decoded.flags.writeable = False
    return decoded
