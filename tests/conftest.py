"""The order of the tests: those that start pools come first.

Parsl forks to start its workers. The commands never load JAX, but a test process that has loaded
it holds threads that a fork does not survive cleanly, and JAX warns of that.
"""

from __future__ import annotations

import pytest

POOLS_FIRST = ("test_execution", "test_pbs", "test_slurm")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem not in POOLS_FIRST)
