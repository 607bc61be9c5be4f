"""Handles signals such that they neither orphan the workers nor hang the command."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def blocked(*signals: int) -> Iterator[None]:
    """Holds signals back until the end; threads and processes started inside never get them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def raised_as_exit() -> Iterator[None]:
    """Has SIGTERM and SIGHUP raise SystemExit, unless something else handles them already."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    chosen = [s for s in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) == signal.SIG_DFL]
    for number in chosen:
        signal.signal(number, _exit)
    try:
        yield
    finally:
        for number in chosen:
            signal.signal(number, signal.SIG_DFL)


def _exit(number: int, frame: object) -> None:
    raise SystemExit(128 + number)
