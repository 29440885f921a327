"""Images of an episode on disk, read frame by frame: memory does not grow with the number of episodes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt


class FrameFile:
    """Images `[T, H, W, 3]` in a file, indexed like an array; nothing of it stays in memory.

    Args:
        path: File of raw bytes.
        shape: `(T, H, W, 3)`.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, path: Path, shape: tuple[int, int, int, int]) -> None:
        self.path = path
        self.shape = shape
        self._frame = shape[1] * shape[2] * shape[3]

    @classmethod
    def write(cls, path: Path, images: npt.NDArray[np.uint8]) -> FrameFile:
        """Write images `[T, H, W, 3]` to a file.

        Raises:
            OSError: The disk is full.
        """
        images = np.ascontiguousarray(images)
        with path.open("wb") as file:
            file.write(images.data if images.size else b"")
        count, height, width, channels = images.shape
        return cls(path, (count, height, width, channels))

    @property
    def is_whole(self) -> bool:
        """Whether the file is there with all of its images."""
        return self.path.is_file() and self.path.stat().st_size == self.shape[0] * self._frame

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | np.integer | slice) -> npt.NDArray[np.uint8]:
        """One image `[H, W, 3]`, or those of a slice `[N, H, W, 3]`."""
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step != 1:
                return np.stack([self[place] for place in range(start, stop, step)])
            count = max(0, stop - start)
            return self._read(start, count).reshape(count, *self.shape[1:])
        place = int(index) + (len(self) if index < 0 else 0)
        if not 0 <= place < len(self):
            raise IndexError(f"frame {index} of {len(self)}")
        return self._read(place, 1).reshape(self.shape[1:])

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[np.uint8]:
        return self[:].astype(dtype) if dtype is not None else self[:]

    def _read(self, start: int, count: int) -> npt.NDArray[np.uint8]:
        file = os.open(self.path, os.O_RDONLY)
        try:
            data = os.pread(file, count * self._frame, start * self._frame)
        finally:
            os.close(file)
        if len(data) != count * self._frame:
            raise OSError(f"{self.path}: ends before frame {start + count}")
        return np.frombuffer(data, np.uint8)
