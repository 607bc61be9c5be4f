"""Reading of the table of trials, row by row; a damaged table is moved aside."""

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
    """Yields the rows of a table; none if the file is missing.

    A damaged table is moved aside with a warning, and yields no further rows.
    """
    if not path.exists():
        return
    try:
        yield from read_rows(path)
    except (OSError, pa.ArrowInvalid, KeyError, AttributeError) as error:
        if getattr(error, "errno", None) is not None:
            raise  # The disk failed; the content of the file may be fine.
        kept = quarantine(path)
        warn(f"{path} is damaged ({error}). It is kept as {kept.name} and made again.")
