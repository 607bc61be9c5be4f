"""Has workers that would be idle compile what trials will need, while references are computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass

from lambda_hat.conf.checks import ConfigError
from lambda_hat.execution import TaskPool
from lambda_hat.execution.event_loop import EventLoop, error_of, sentence
from lambda_hat.store import Store
from lambda_hat.trial import ProblemItem
from lambda_hat.tuning.study import Study


@dataclass
class _Programs:
    """How far one study's programs are."""

    study: Study
    number: int = 0
    """Of the program whose turn it is."""
    under_way: bool = False
    wait: bool = False
    """Whether their shapes are not known before the target is stored."""


class CompileAhead:
    """Sends one program at a time to each worker that no task waits for.

    Every study's first program comes before any study's second. It ends with the reference: from
    then on trials compile what they need.

    Args:
        store: Where targets are.
        pool: Runs the tasks.
        loop: Knows how many tasks there are.
        submit: Has a worker compile the program of a study and number.
        failed: Told why a study's programs could not be compiled, which harms nothing.
    """

    def __init__(
        self,
        store: Store,
        pool: TaskPool,
        loop: EventLoop,
        *,
        submit: Callable[[Study, int], Future],
        failed: Callable[[Study, str], None],
    ):
        self._store, self._pool, self._loop = store, pool, loop
        self._submit, self._failed = submit, failed
        self._left: list[_Programs] = []

    def reference_started(self, studies: Iterable[Study]) -> None:
        """From now on, what these studies of a problem need is compiled."""
        self._left += [_Programs(study) for study in studies]

    def reference_ended(self, problem: ProblemItem) -> None:
        """From now on, trials of the problem do so themselves."""
        self._left = [one for one in self._left if one.study.problem != problem]

    def look(self) -> None:
        """Sends as many programs as there are idle workers."""
        for one in sorted(self._left, key=lambda one: one.number):
            if self._loop.num_outstanding >= self._pool.num_workers:
                return
            if not one.under_way and not self._must_wait(one):
                self._send(one)

    def _must_wait(self, one: _Programs) -> bool:
        return one.wait and not self._store.target(one.study.problem.pid).exists()

    def _send(self, one: _Programs) -> None:
        def ended(future: Future) -> None:
            one.under_way = False
            if (error := error_of(future)) is not None:
                self._failed(one.study, sentence(error))
                self._drop(one)
                return
            programs = future.result()["programs"]
            one.wait = programs is None
            one.number += programs is not None
            if programs is not None and one.number >= programs:
                self._drop(one)

        try:
            future = self._submit(one.study, one.number)
        except ConfigError as mistake:  # In a function that users edit: the study will say so.
            self._failed(one.study, str(mistake))
            self._drop(one)
            return
        one.under_way = True
        self._loop.follow(future, ended)

    def _drop(self, one: _Programs) -> None:
        self._left = [other for other in self._left if other is not one]
