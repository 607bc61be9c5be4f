"""Has workers that would be idle help with references that others compute."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future

from lambda_hat.execution import TaskPool
from lambda_hat.execution.event_loop import EventLoop, error_of
from lambda_hat.store import Store, wanted_beside
from lambda_hat.trial import ProblemItem

HELP_SEC = 30.0
"""How long a worker helps until it is asked whether there is something better to do: no trial
waits longer for it."""


class IdleWorkers:
    """Sends help to references under way that want draws, while no task waits for a worker.

    Args:
        store: Where references say what they want.
        pool: Runs the tasks.
        loop: Knows how many tasks there are.
        most: Helpers of one reference, at most.
        submit: Has a worker help the reference of a problem for so many seconds.
    """

    def __init__(
        self,
        store: Store,
        pool: TaskPool,
        loop: EventLoop,
        *,
        most: int,
        submit: Callable[[ProblemItem, float], Future],
    ):
        self._store, self._pool, self._loop = store, pool, loop
        self._most, self._submit = most, submit
        self._under_way: list[ProblemItem] = []
        self._helpers: Counter[ProblemItem] = Counter()

    def reference_started(self, problem: ProblemItem) -> None:
        """From now on it may want help."""
        self._under_way.append(problem)

    def reference_ended(self, problem: ProblemItem) -> None:
        """It wants none any more."""
        if problem in self._under_way:
            self._under_way.remove(problem)

    def look(self) -> None:
        """Sends as much help as there is."""
        for problem in list(self._under_way):
            wanted = wanted_beside(self._store.reference(problem.pid))
            while (
                self._loop.num_outstanding < self._pool.num_workers
                and self._helpers[problem] < self._most
                and wanted.exists()
            ):
                self._send(problem)

    def _send(self, problem: ProblemItem) -> None:
        self._helpers[problem] += 1

        def ended(future: Future) -> None:
            self._helpers[problem] -= 1
            if error_of(future) is not None:  # It is not needed: the reference goes on alone.
                self.reference_ended(problem)

        self._loop.follow(self._submit(problem, HELP_SEC), ended)
