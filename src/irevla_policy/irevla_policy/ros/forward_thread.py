"""The thread that makes forward passes in the background, so that observations are answered meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from irevla_policy.robot.pilot import Question, Thought


class ForwardThread:
    """Makes one forward pass at a time.

    The thread stays from pass to pass: a new one would have the model's libraries set up their own threads anew.

    Args:
        finished: Receives every question with its thought, or with the exception that the model raised, in this thread.
    """

    def __init__(self, finished: Callable[[Question, Thought | Exception], None]) -> None:
        self._finished = finished
        self._changed = threading.Condition()
        self._question: Question | None = None
        self._began = 0.0
        self._running = False
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether a pass is under way."""
        return self._question is not None

    @property
    def elapsed(self) -> float:
        """How long the pass that is under way has taken so far, s; 0 when none is."""
        return time.perf_counter() - self._began if self.busy else 0.0

    def start(self) -> None:
        """Begin; waits for a pass that outlasted `stop`."""
        self.join(None)
        self._running, self._question = True, None
        self._thread = threading.Thread(target=self._run, name="forward", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Make no further pass."""
        with self._changed:
            self._running = False
            self._changed.notify_all()

    def join(self, timeout: float | None) -> None:
        """Wait for the pass that is under way, at most `timeout` s."""
        if self._thread is not None:
            self._thread.join(timeout)

    def ask(self, question: Question) -> None:
        """Make a pass.

        Raises:
            RuntimeError: One is under way.
        """
        with self._changed:
            if self._question is not None:
                raise RuntimeError("ask: a forward pass is under way; expected to be asked when it has finished")
            self._question, self._began = question, time.perf_counter()
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._running or self._question is not None)
                question = self._question
                if not self._running or question is None:
                    return
            result: Thought | Exception
            try:
                result = question.think()
            except Exception as error:
                result = error
            with self._changed:
                self._question = None
            self._finished(question, result)
