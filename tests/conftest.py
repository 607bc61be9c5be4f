"""What holds for the whole test run: the order of the tests, and signals that arrive."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator

import pytest

FIRST = ("test_internals", "test_execution", "test_pbs", "test_slurm")
"""First what says that Parsl or Optuna has moved. Then what opens pools: Parsl forks to start its
workers. The commands never load JAX, but a test process that has used it holds threads that a fork
does not survive cleanly."""


def pytest_configure() -> None:
    """A run in the background of a shell ignores Ctrl-C, and so would the commands under test."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {stem: place for place, stem in enumerate(FIRST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(FIRST)))


@pytest.fixture(autouse=True, scope="module")
def _room_for_programs() -> Iterator[None]:
    """The programs of the whole suite are more than one process can hold."""
    yield
    if "jax" in sys.modules:
        from lambda_hat.runners.boundary import make_room

        make_room()
