"""Waits for tasks to end and calls back for each, one after the other: the loop behind a run.

It waits for what happens and never polls. Everything it calls runs in this one thread, so that
nothing else needs a lock; a signal ends it between two calls, so that no write is torn.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from lambda_hat.execution.errors import PoolLost

CHECKPOINT_SEC = 30.0
"""Least time between two checkpoints. One that takes long comes less often: checkpoints take a
twentieth of the time at most."""

LOOK_SEC = 0.2
"""Time between two looks at what tasks tell while they run."""

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Each ends the run, unless it is ignored (as under nohup)."""


@dataclass(frozen=True)
class Outcome:
    """How a run, or a part of one, ended; `+` appends a later part."""

    failures: tuple[str, ...] = ()
    """A sentence for each."""
    interrupted: bool = False
    """Whether a signal ended it."""
    cut_short: bool = False
    """Whether the pool was lost with work left to do."""

    def __add__(self, later: Outcome) -> Outcome:
        return Outcome(
            self.failures + later.failures,
            self.interrupted or later.interrupted,
            self.cut_short or later.cut_short,
        )


@dataclass(frozen=True)
class _Ended:
    """A followed future is done: `on_end` takes it."""

    on_end: Callable[[Future], None]
    future: Future


class EventLoop:
    """Calls back for each future that ends, until there is none left.

    Args:
        checkpoint: Called now and then while something has changed, and at the end.
    """

    def __init__(self, checkpoint: Callable[[], None]):
        self._checkpoint = checkpoint
        self._look: Callable[[], None] | None = None
        self._next_look = 0.0
        self._events: SimpleQueue[_Ended | None] = SimpleQueue()
        self._outstanding = 0
        self._changed = False
        self._due = 0.0
        self.stopping = False
        """Whether a signal has come: nothing new is to be begun."""

    def follow(self, future: Future, on_end: Callable[[Future], None]) -> None:
        """Has `on_end(future)` called from the loop when the future is done."""
        self._outstanding += 1
        future.add_done_callback(lambda done: self._events.put(_Ended(on_end, done)))

    @property
    def num_outstanding(self) -> int:
        """How many futures are followed that have not ended."""
        return self._outstanding

    def look_with(self, look: Callable[[], None]) -> None:
        """Has `look()` called every `LOOK_SEC`."""
        self._look = look

    def changed(self) -> None:
        """Says that there is something for the next checkpoint."""
        self._changed = True

    def run(self, begin: Callable[[], None]) -> Outcome:
        """Calls `begin` and then back, until all is done, a signal comes or the pool is lost."""
        self._due = time.monotonic() + CHECKPOINT_SEC
        lost: PoolLost | None = None
        with self._signals_stop():
            try:
                begin()
                while self._outstanding and not self.stopping:
                    self._take(self._next())
            except PoolLost as error:
                lost = error
            self._checkpoint()
        failures = () if lost is None else (str(lost),)
        return Outcome(failures, interrupted=self.stopping, cut_short=lost is not None)

    @contextmanager
    def _signals_stop(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(signum: int, frame: object) -> None:
            if self.stopping:
                raise KeyboardInterrupt  # Asked twice: at once, then.
            self.stopping = True
            self._events.put(None)

        kinds = [k for k in STOP_SIGNALS if signal.getsignal(k) is not signal.SIG_IGN]
        before = {kind: signal.signal(kind, stop) for kind in kinds}
        try:
            yield
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)

    def _next(self) -> _Ended | None:
        times = [self._due] * self._changed + [self._next_look] * (self._look is not None)
        try:
            return self._events.get(
                timeout=max(0.0, min(times) - time.monotonic()) if times else None
            )
        except Empty:
            return None

    def _take(self, event: _Ended | None) -> None:
        if event is not None and not self.stopping:
            self._outstanding -= 1
            event.on_end(event.future)
        if self._look is not None and time.monotonic() >= self._next_look:
            self._look()
            self._next_look = time.monotonic() + LOOK_SEC
        if self._changed and time.monotonic() >= self._due:
            begun = time.monotonic()
            self._checkpoint()
            ended = time.monotonic()
            self._due = ended + max(CHECKPOINT_SEC, 20 * (ended - begun))
            self._changed = False


def error_of(future: Future) -> BaseException | None:
    """What the task ended with.

    Raises:
        PoolLost: It says nothing about the task, and concerns all tasks.
    """
    error = PoolLost("The task was cancelled.") if future.cancelled() else future.exception()
    if isinstance(error, PoolLost):
        raise error
    return error


def sentence(error: BaseException) -> str:
    """The first line of an error, or its kind."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
