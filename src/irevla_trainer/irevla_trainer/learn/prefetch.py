"""Preparing batches in a thread while the model computes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from typing import TypeVar

T = TypeVar("T")


def prefetch(items: Iterator[T], ahead: int = 2) -> Generator[T, None, None]:
    """Draw items in a thread, up to `ahead` of them in advance, in the same order.

    The thread ends with the iterator, or as soon as the generator is closed.

    Raises:
        Exception: Whatever `items` raises, at its place in the order.
    """
    waiting: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(maxsize=ahead)
    closed = threading.Event()

    def put(item: tuple[T | None, BaseException | None]) -> bool:
        while not closed.is_set():
            try:
                waiting.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def draw() -> None:
        try:
            for item in items:
                if not put((item, None)):
                    return
            put((None, StopIteration()))
        except BaseException as error:
            put((None, error))

    thread = threading.Thread(target=draw, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item, error = waiting.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
    finally:
        closed.set()
        thread.join()
