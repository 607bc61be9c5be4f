"""Studies -> results folder: the table, the best of each study, and the pickled studies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from lambda_hat.rows import Rows
from lambda_hat.store import Store, set_aside
from lambda_hat.table import read_rows, same_rows, write_best, write_table
from lambda_hat.trial import ProblemItem

_Key = tuple[str, str]
"""A study: the problem's pid and the method."""


class TrialStudy(Protocol):
    """The part of a study that its results need."""

    problem: ProblemItem
    method: str
    rows: Rows

    def snapshot(self) -> None: ...


class Results(Iterable[dict[str, Any]]):
    """The results of a run on disk: the table, the best, and the snapshots of its studies.

    Rows of studies that an earlier run left in the table and that are not of this run stay.
    Iterating gives all rows: by study, in the order they were begun, and by trial number. They
    are held packed, and each is unpacked when it is its turn.

    Args:
        store: Where the files are.
        say: Told when an earlier table is damaged.
    """

    def __init__(self, store: Store, *, say: Callable[[str], None]):
        self._store = store
        self._earlier = rows_if_whole(store.trials_table, say)
        self._studies: dict[_Key, TrialStudy] = {}
        self._written: dict[_Key, int] | None = None
        """How many rows of each study the files hold; None before this run has written any."""

    def add(self, study: TrialStudy) -> None:
        """From now on the rows of this study are its own, not those of an earlier table."""
        self._studies[study.problem.pid, study.method] = study

    def __iter__(self) -> Iterator[dict[str, Any]]:
        yield from (row for row in self._earlier.values() if _key(row) not in self._studies)
        for study in self._studies.values():
            yield from (study.rows[number] for number in sorted(study.rows))

    def write(self) -> None:
        """Writes the table and the best, and the snapshots of the studies that have changed.

        The table comes last: where it stands as it would be written, so do the others.
        """
        if self._stand():
            return
        written = self._written or {}
        for key, study in self._studies.items():
            if written.get(key) != len(study.rows):
                study.snapshot()
        write_best(self._store.best, self)
        write_table(self._store.trials_table, self)
        self._written = self._lengths()
        self._forget_taken_over()

    def _lengths(self) -> dict[_Key, int]:
        return {key: len(study.rows) for key, study in self._studies.items()}

    def _stand(self) -> bool:
        """Whether all files are as they would be written now."""
        snapshots = (self._store.snapshot(*key) for key in self._studies)
        files = (self._store.trials_table, self._store.best, *snapshots)
        if not all(file.exists() for file in files):
            return False
        if self._written is None:
            return same_rows(self, self._earlier.values())
        return self._written == self._lengths()

    def _forget_taken_over(self) -> None:
        """Drops the earlier rows of this run's studies, now that there is a newer table."""
        for number, row in list(self._earlier.items()):
            if _key(row) in self._studies:
                self._earlier.drop(number)


def _key(row: Mapping[str, Any]) -> _Key:
    return row["pid"], row["method"]


def rows_if_whole(path: Path, say: Callable[[str], None]) -> Rows:
    """The rows of a table, in its order, or none; a damaged one is set aside and said."""
    rows = Rows()
    if not path.exists():
        return rows
    try:
        for number, row in enumerate(read_rows(path)):
            rows.add(number, row)
    except (OSError, pa.ArrowInvalid, KeyError, AttributeError) as error:
        if getattr(error, "errno", None) is not None:
            raise  # The disk speaks, not the file's content.
        kept = set_aside(path)
        say(f"{path} is damaged ({error}). It is kept as {kept.name} and made again.")
        return Rows()
    return rows
