"""Deadline of training: past it, training stops with a sentence and stores nothing.

The deadline stands in the context and not among the arguments: a target is the same whenever it
has to be there, so neither its address nor a cache of it may know. Looking at the clock never
changes a number; it only ends the training.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

PIECE_SECONDS = 1.0
"""How long one piece of a long phase should take: the clock is looked at between pieces."""


class TrainingUnfinished(Exception):
    """The deadline came before the target; the text says how far training was."""


class _Deadline(NamedTuple):
    began: float
    at: float


_DEADLINE: ContextVar[_Deadline | None] = ContextVar("training_deadline", default=None)


@contextmanager
def training_until(deadline: float) -> Iterator[None]:
    """Targets that are made in this block must be there at `deadline` (`time.monotonic()`)."""
    token = _DEADLINE.set(_Deadline(time.monotonic(), deadline))
    try:
        yield
    finally:
        _DEADLINE.reset(token)


def seconds_left() -> float:
    """Seconds until the deadline, 0 after it; infinity where there is none."""
    deadline = _DEADLINE.get()
    return math.inf if deadline is None else max(0.0, deadline.at - time.monotonic())


def check_deadline(reached: str) -> None:
    """Ends training if the deadline has passed.

    Args:
        reached: how far training is, in words that go on from "after".

    Raises:
        TrainingUnfinished: the deadline has passed.
    """
    deadline = _DEADLINE.get()
    if deadline is not None and time.monotonic() >= deadline.at:
        took = time.monotonic() - deadline.began
        raise TrainingUnfinished(
            f"Training must end within the budget, but had taken {took:.3g} s of it "
            f"after {reached}."
        )


def pieces(total: int, what: str) -> Iterator[int]:
    """Cuts `total` steps into pieces of about `PIECE_SECONDS`, and checks the deadline before each.

    Args:
        total: steps of the phase.
        what: what the steps are, as in "10 of 300 steps of Adam".

    Yields:
        The step before which to stop next; its piece must be over when the next one is asked for.

    Raises:
        TrainingUnfinished: the deadline has passed.
    """
    done, size = 0, 1
    while done < total:
        check_deadline(f"{done} of {total} {what}")
        stop, began = min(total, done + size), time.monotonic()
        yield stop
        per_step = (time.monotonic() - began) / (stop - done)
        done, size = stop, max(1, int(PIECE_SECONDS / max(per_step, 1e-9)))
