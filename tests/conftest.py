"""What holds for the whole test run: the order of the tests, and signals that arrive."""

from __future__ import annotations

import signal

import pytest

POOLS_FIRST = ("test_execution", "test_pbs", "test_slurm")
"""Parsl forks to start its workers. The commands never load JAX, but a test process that has used
it holds threads that a fork does not survive cleanly."""


def pytest_configure() -> None:
    """A run in the background of a shell ignores Ctrl-C, and so would the commands under test."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem not in POOLS_FIRST)
