"""Images: every encoding gives the same RGB, and what is wrong with a message is named."""

from __future__ import annotations

import importlib.util
import os
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from irevla_policy.recording.images import (
    ImageError,
    decode_compressed,
    decode_image,
    encode_compressed,
    encode_image,
)
from irevla_policy.robot.camera import Camera

CAMERA = Camera(name="corner", topic="/camera/image_raw", width=6, height=4, encoding="rgb8")
RGB = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)

BACKENDS = [
    pytest.param(
        "cv_bridge",
        marks=pytest.mark.skipif(importlib.util.find_spec("cv_bridge") is None, reason="cv_bridge is not installed"),
    ),
    "numpy",
]


@pytest.fixture(params=BACKENDS, autouse=True)
def image_backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    forced = os.environ.get("IREVLA_IMAGE_BACKEND")
    if forced and forced != request.param:
        pytest.skip(f"IREVLA_IMAGE_BACKEND is {forced}")
    monkeypatch.setenv("IREVLA_IMAGE_BACKEND", request.param)
    return str(request.param)


def message(**changes: Any) -> SimpleNamespace:
    return SimpleNamespace(**(encode_image(RGB) | changes))


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8"])
def test_colour_encodings_give_the_same_pixels(encoding: str) -> None:
    np.testing.assert_array_equal(decode_image(SimpleNamespace(**encode_image(RGB, encoding))), RGB)


def test_grey_has_three_equal_channels() -> None:
    pixels = decode_image(SimpleNamespace(**encode_image(RGB, "mono8")))
    assert pixels.shape == RGB.shape
    assert (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all()
    np.testing.assert_allclose(pixels[..., 0], RGB @ np.array([0.299, 0.587, 0.114]), atol=0.51)


@pytest.mark.parametrize("whole_last_row", [True, False])
def test_row_padding_is_skipped(whole_last_row: bool) -> None:
    padded = np.full((4, 32), 99, np.uint8)
    padded[:, :18] = RGB.reshape(4, 18)
    data = padded.tobytes() if whole_last_row else padded.tobytes()[:-14]
    np.testing.assert_array_equal(decode_image(message(step=32, data=data)), RGB)


def test_numpy_shares_the_memory_of_the_message(image_backend: str) -> None:
    if image_backend != "numpy":
        pytest.skip("only the numpy backend promises views")
    data = np.ascontiguousarray(RGB).reshape(-1).copy()
    for encoding in ("rgb8", "bgr8"):
        assert np.shares_memory(decode_image(message(data=data, encoding=encoding)), data)


def test_byte_order_of_eight_bit_images_does_not_matter() -> None:
    np.testing.assert_array_equal(decode_image(message(is_bigendian=1)), RGB)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"encoding": "bgr8"}, "promises encoding 'rgb8', found 'bgr8'"),
        ({"encoding": "yuv422"}, "encoding must be one of .*found 'yuv422'"),
        ({"encoding": "16UC1"}, "16 bits a channel"),
        ({"encoding": "mono16"}, "16 bits a channel"),
        ({"width": 0}, "must be above 0, found 0 x 4"),
        ({"height": 0, "data": b""}, "must be above 0"),
        ({"width": 5}, "promises width 6 and height 4, found 5 x 4"),
        ({"step": 17}, "step must be at least width x 3 = 18 bytes, found 17"),
        ({"data": b"\0" * 71}, "must hold step x height = 72 bytes, found 71"),
        ({"data": b"\0" * 73}, "must hold step x height = 72 bytes, found 73"),
        ({"data": b""}, "found 0"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ImageError, match=expected) as caught:
        decode_image(message(**changes), CAMERA)
    assert "'corner'" in str(caught.value) and "/camera/image_raw" in str(caught.value)


def test_png_is_exact_and_jpeg_is_near() -> None:
    smooth = np.linspace(0, 255, 48 * 64 * 3).reshape(48, 64, 3).astype(np.uint8)
    png = SimpleNamespace(format="rgb8; png compressed bgr8", data=encode_compressed(smooth, "png"))
    np.testing.assert_array_equal(decode_compressed(png), smooth)
    jpeg = SimpleNamespace(format="jpeg", data=np.frombuffer(encode_compressed(smooth, "jpeg", 95), np.uint8))
    assert np.abs(decode_compressed(jpeg).astype(int) - smooth).max() < 12


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "data is empty"),
        (b"GIF89a......", "expected JPEG or PNG"),
        (encode_compressed(RGB, "png")[:-25], "cannot be decoded"),
        (encode_compressed(RGB, "jpeg")[:-40], "cannot be decoded"),
        (encode_compressed(np.zeros((8, 8, 3), np.uint8), "png"), "promises width 6 and height 4, found 8 x 8"),
    ],
)
def test_what_is_wrong_with_a_compressed_image_is_named(data: bytes, expected: str) -> None:
    with pytest.raises(ImageError, match=expected):
        decode_compressed(SimpleNamespace(format="jpeg", data=data), CAMERA)


def test_an_unknown_backend_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IREVLA_IMAGE_BACKEND", "opencv")
    with pytest.raises(ImageError, match=r"IREVLA_IMAGE_BACKEND.*cv_bridge, numpy.*'opencv'"):
        decode_image(message())


@pytest.mark.parametrize("bad", [RGB[..., :2], RGB.astype(np.float32), RGB[0], np.zeros((0, 4, 3), np.uint8)])
def test_only_rgb_can_be_encoded(bad: Any) -> None:
    with pytest.raises(ImageError, match="expected uint8"):
        encode_image(bad)
    with pytest.raises(ImageError, match="expected uint8"):
        encode_compressed(bad)
