"""Studies -> results folder: the table, the best of each study, and the pickled studies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from lambda_hat.store import Store, set_aside
from lambda_hat.table import Rows, read_table, same_rows, write_best, write_table
from lambda_hat.trial import ProblemItem


class TrialStudy(Protocol):
    """The part of a study that its results need."""

    problem: ProblemItem
    method: str
    rows: Rows

    def snapshot(self) -> None: ...


class Results:
    """The results of a run on disk: the table, the best, and the snapshots of its studies.

    Rows of studies that an earlier run left in the table and that are not of this run stay.

    Args:
        store: Where the files are.
        say: Told when an earlier table is damaged.
    """

    def __init__(self, store: Store, *, say: Callable[[str], None]):
        self._store = store
        self._earlier = rows_if_whole(store.trials_table, say)
        self._studies: dict[tuple[str, str], TrialStudy] = {}
        self._written: dict[tuple[str, str], int] = {}

    def add(self, study: TrialStudy) -> None:
        """From now on the rows of this study are its own, not those of an earlier table."""
        self._studies[study.problem.pid, study.method] = study

    def rows(self) -> list[dict[str, Any]]:
        """All rows: by study, in the order they were begun, and by trial number."""
        earlier = [r for r in self._earlier if (r["pid"], r["method"]) not in self._studies]
        own = (study.rows[n] for study in self._studies.values() for n in sorted(study.rows))
        return [*earlier, *own]

    def write(self) -> None:
        """Writes the table and the best, and the snapshots of the studies that have changed.

        The table comes last: where it stands as it would be written, so do the others.
        """
        rows = self.rows()
        if self._stand(rows):
            return
        for key, study in self._studies.items():
            if self._written.get(key) != len(study.rows):
                study.snapshot()
                self._written[key] = len(study.rows)
        write_best(self._store.best, rows)
        write_table(self._store.trials_table, rows)

    def _stand(self, rows: list[dict[str, Any]]) -> bool:
        """Whether an earlier run has left all files as they would be written now."""
        snapshots = (self._store.snapshot(*key) for key in self._studies)
        files = (self._store.trials_table, self._store.best, *snapshots)
        return same_rows(rows, self._earlier) and all(file.exists() for file in files)


def rows_if_whole(path: Path, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """The rows of a table, or none; a damaged one is set aside and said."""
    if not path.exists():
        return []
    try:
        return read_table(path)
    except (OSError, pa.ArrowInvalid, KeyError, AttributeError) as error:
        if getattr(error, "errno", None) is not None:
            raise  # The disk speaks, not the file's content.
        kept = set_aside(path)
        say(f"{path} is damaged ({error}). It is kept as {kept.name} and made again.")
        return []
