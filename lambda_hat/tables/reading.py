"""Reads a Parquet table of trials back, row by row, and sets a damaged one aside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lambda_hat.store import quarantine
from lambda_hat.tables.trials import COLUMNS, GROUP, MAPPINGS


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Reads the rows that `write_table` wrote, each with only the settings of its own method."""
    names = [*COLUMNS, "hyperparams", *MAPPINGS]
    with pq.ParquetFile(path) as file:  # Unlike `pq.read_table`, it imports no pandas.
        for batch in file.iter_batches(GROUP, columns=names):
            for row in batch.to_pylist():
                given = row["hyperparams"].items()
                row["hyperparams"] = {name: value for name, value in given if value is not None}
                yield row


def read_table(path: Path) -> list[dict[str, Any]]:
    """Reads all rows of a table into a list."""
    return list(read_rows(path))


def readable_rows(path: Path, warn: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """The rows of a table, in its order, each read when it is its turn.

    There are none without a table; a damaged one is set aside and said, and ends them.
    """
    if not path.exists():
        return
    try:
        yield from read_rows(path)
    except (OSError, pa.ArrowInvalid, KeyError, AttributeError) as error:
        if getattr(error, "errno", None) is not None:
            raise  # The disk speaks, not the file's content.
        kept = quarantine(path)
        warn(f"{path} is damaged ({error}). It is kept as {kept.name} and made again.")
