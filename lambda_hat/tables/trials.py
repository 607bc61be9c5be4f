"""The table of trials: one row per trial, written as Parquet."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lambda_hat.conf.search_space import SEARCH_SPACE
from lambda_hat.store import replacing
from lambda_hat.trial import Reference, TrialResult, TrialSpec, finite

_TEXT, _REAL, _WHOLE, _TRUTH = pa.string(), pa.float64(), pa.int64(), pa.bool_()

COLUMNS: dict[str, pa.DataType] = {
    "pid": _TEXT,
    "target": _TEXT,
    "problem": _TEXT,
    "method": _TEXT,
    "trial_id": _TEXT,
    "trial_number": _WHOLE,
    "joint_trial": _WHOLE,
    "status": _TEXT,
    "llc_hat": _REAL,
    "se_hat": _REAL,
    "llc_ref": _REAL,
    "se_ref": _REAL,
    "ref_status": _TEXT,
    "objective": _REAL,
    "pareto": _TRUTH,
    "within_max_seconds": _TRUTH,
    "error": _REAL,
    "runtime_sec": _REAL,
    "budget_sec": _REAL,
    "budget_exhausted": _TRUTH,
    "seed": _WHOLE,
    "error_msg": _TEXT,
}
"""The scalar columns; the table also has the mappings below and a `params_<name>` per setting."""

MAPPINGS: dict[str, tuple[str, ...]] = {
    "objectives": ("error",),
    "diagnostics": ("ess", "ess_bulk", "rhat"),
    "seconds": ("setup", "compile", "sample"),
    "work": ("full_gradients",),
}
"""The columns that hold mappings, with the keys (floats) that are always present."""

GROUP = 500
"""Number of rows converted to or from columns at a time."""

_EXAMPLES = {
    name: entry.probes[0] for ranges in SEARCH_SPACE.values() for name, entry in ranges.items()
}
"""An example value of every setting searched by default: their columns are always present."""


def trial_row(
    spec: TrialSpec,
    result: TrialResult,
    *,
    number: int,
    label: str,
    objective: float | None,
    reference: Reference | None,
    pareto: bool | None = None,
    max_seconds: float | None = None,
    joint: bool = False,
) -> dict[str, Any]:
    """Makes one row of the table.

    Args:
        spec: The trial that ran.
        result: Its result, as in metrics.json.
        number: The trial's number in its study.
        label: The problem's readable name.
        objective: The value told to Optuna; None if the trial was told as failed.
        reference: The reference that the trial is compared with, if any.
        pareto: Whether it is on the study's Pareto front; None where there is one objective.
        max_seconds: What a trial may take to be the best; None where there is no limit.
        joint: Whether it is one problem's run of a joint trial, which has the same number in each.
    """
    llc_ref = reference.llc_ref if reference else None
    took = finite(result.runtime_sec)
    within = None if max_seconds is None else took is not None and took <= max_seconds
    result = result.judged(llc_ref, reference.se_ref if reference else None)
    return {
        "pid": spec.pid,
        "target": result.target,
        "problem": label,
        "method": spec.method,
        "trial_id": spec.trial_id,
        "trial_number": number,
        "joint_trial": number if joint else None,
        "status": result.status,
        "hyperparams": dict(spec.hyperparams),
        "llc_hat": finite(result.llc_hat),
        "se_hat": finite(result.se_hat),
        "llc_ref": llc_ref,
        "se_ref": reference.se_ref if reference else None,
        "ref_status": reference.status if reference else None,
        "objective": finite(objective),
        "pareto": pareto,
        "within_max_seconds": within,
        "objectives": dict(result.objectives),
        "error": None if result.estimate is None else result.error,
        "runtime_sec": took,
        "budget_sec": float(spec.budget_sec),
        "budget_exhausted": bool(result.budget_exhausted),
        "seed": spec.seed,
        "error_msg": result.error_msg,
        "diagnostics": dict(result.diagnostics),
        "seconds": dict(result.seconds),
        "work": dict(result.work),
    }


def write_table(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes rows as Parquet, atomically.

    `hyperparams` maps every setting that occurs in any row (null where a method does not have
    it). Each setting is also a column `params_<name>`.

    Args:
        path: The file.
        rows: Iterated twice: once for the schema, once to write. `GROUP` rows at a time are
            converted to columns, so that rows made on the fly need little memory.
    """
    schema = _schema(rows)
    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema) as file:
        for group in _groups(rows):
            file.write_table(pa.table(_columns(group, schema), schema=schema))
    pa.default_memory_pool().release_unused()


def same_rows(some: Iterable[Mapping[str, Any]], others: Iterable[Mapping[str, Any]]) -> bool:
    """Whether two tables agree in every scalar column, row by row."""
    pairs = zip_longest(some, others, fillvalue={})
    return all(all(row.get(name) == other.get(name) for name in COLUMNS) for row, other in pairs)


def _schema(rows: Iterable[Mapping[str, Any]]) -> pa.Schema:
    """The Parquet schema for these rows."""
    hyperparams, mappings = _Seen(), {name: _Seen() for name in MAPPINGS}
    hyperparams.add(_EXAMPLES)
    for name, known in MAPPINGS.items():
        mappings[name].add(dict.fromkeys(known, 0.0))
    for row in rows:
        hyperparams.add(row["hyperparams"])
        for name, seen in mappings.items():
            seen.add(row.get(name))
    params = hyperparams.struct
    nested = [("hyperparams", params), *((name, seen.struct) for name, seen in mappings.items())]
    settings = [(f"params_{param.name}", param.type) for param in params]
    return pa.schema([*COLUMNS.items(), *nested, *settings])


def _groups(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    """Yields the rows in lists of `GROUP`; the last list may be shorter."""
    left = iter(rows)
    while group := list(islice(left, GROUP)):
        yield group


def _columns(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> list[pa.Array]:
    """Converts rows to one array per column."""
    columns = []
    for field in schema:
        cells = _cells(rows, field.name)
        if pa.types.is_nested(field.type) or pa.types.is_string(field.type):
            cells = [_fit(cell, field.type) for cell in cells]
        columns.append(pa.array(cells, field.type))
    return columns


def _cells(rows: Sequence[Mapping[str, Any]], column: str) -> list[Any]:
    """The values of one column, one per row."""
    if column in MAPPINGS:
        return [row.get(column) or {} for row in rows]
    if column.startswith("params_"):
        setting = column.removeprefix("params_")
        return [row["hyperparams"].get(setting) for row in rows]
    return [row.get(column) for row in rows]


class _Seen:
    """Collects the types seen in one column, to infer its Parquet type without keeping values."""

    def __init__(self) -> None:
        self._kinds: set[type] = set()
        self._items: _Seen | None = None
        self._fields: dict[str, _Seen] = {}

    def add(self, value: Any) -> None:
        if value is None:
            return
        self._kinds.add(type(value))
        if isinstance(value, Mapping):
            for key, item in value.items():
                self._fields.setdefault(key, _Seen()).add(item)
        elif isinstance(value, list):
            self._items = self._items or _Seen()
            for item in value:
                self._items.add(item)

    @property
    def type(self) -> pa.DataType:
        """The narrowest type that holds every value; text if they have no type in common.

        A column without any value is given the type of real numbers.
        """
        if self._kinds == {bool}:
            return _TRUTH
        if self._kinds == {int}:
            return _WHOLE
        if self._kinds <= {int, float}:
            return _REAL
        if self._kinds == {list} and self._items:
            return pa.list_(self._items.type)
        if self._kinds == {dict} and self._fields:
            return self.struct
        return _TEXT

    @property
    def struct(self) -> pa.StructType:
        """A mapping type with every key that was seen."""
        return pa.struct([pa.field(key, seen.type) for key, seen in self._fields.items()])


def _fit(value: Any, kind: pa.DataType) -> Any:
    """Converts a value to its column's type: values in text columns are written as JSON."""
    if value is None or not pa.types.is_nested(kind):
        as_text = pa.types.is_string(kind) and value is not None and not isinstance(value, str)
        return json.dumps(value) if as_text else value
    if isinstance(kind, pa.StructType):
        return {key: _fit(item, kind.field(key).type) for key, item in value.items()}
    return [_fit(item, kind.field(0).type) for item in value]
