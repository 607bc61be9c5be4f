"""Trials -> Parquet: one row a trial that was ever asked, one schema."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from lambda_hat.search_space import SEARCH_SPACE
from lambda_hat.store import replacing, write_bytes
from lambda_hat.trial import Reference, TrialResult, TrialSpec, finite, is_complete

_TEXT, _REAL, _WHOLE, _TRUTH = pa.string(), pa.float64(), pa.int64(), pa.bool_()

COLUMNS: dict[str, pa.DataType] = {
    "pid": _TEXT,
    "problem": _TEXT,
    "method": _TEXT,
    "trial_id": _TEXT,
    "trial_number": _WHOLE,
    "status": _TEXT,
    "llc_hat": _REAL,
    "se_hat": _REAL,
    "llc_ref": _REAL,
    "se_ref": _REAL,
    "ref_status": _TEXT,
    "objective": _REAL,
    "error": _REAL,
    "runtime_sec": _REAL,
    "budget_sec": _REAL,
    "budget_exhausted": _TRUTH,
    "seed": _WHOLE,
    "error_msg": _TEXT,
}
"""The plain columns; beside them are the mappings below and one `params_<name>` a setting."""

MAPPINGS: dict[str, tuple[str, ...]] = {
    "diagnostics": ("ess", "rhat"),
    "seconds": ("setup", "compile", "sample"),
    "work": ("full_gradients",),
}
"""Columns of mappings, with keys (of real numbers) that are there even if no trial has them."""

_EXAMPLES = {
    name: entry.probes[0] for ranges in SEARCH_SPACE.values() for name, entry in ranges.items()
}
"""A value of every setting that is searched by default: these columns are always there."""


def trial_row(
    spec: TrialSpec,
    result: TrialResult,
    *,
    number: int,
    label: str,
    objective: float | None,
    reference: Reference | None,
) -> dict[str, Any]:
    """One row of the table.

    Args:
        spec: What was run.
        result: What came back: the content of metrics.json.
        number: The trial's number in its study.
        label: The problem in words a person knows.
        objective: What Optuna was told; None where it was told a failure.
        reference: What the trial is scored against, if anything.
    """
    llc_ref = reference.llc_ref if reference else None
    estimate = finite(result.get("llc_hat"))
    error = None
    if estimate is not None and llc_ref is not None and is_complete(result):
        error = abs(estimate - llc_ref)
    return {
        "pid": spec.pid,
        "problem": label,
        "method": spec.method,
        "trial_id": spec.trial_id,
        "trial_number": number,
        "status": result["status"],
        "hyperparams": dict(spec.hyperparams),
        "llc_hat": estimate,
        "se_hat": finite(result.get("se_hat")),
        "llc_ref": llc_ref,
        "se_ref": reference.se_ref if reference else None,
        "ref_status": reference.status if reference else None,
        "objective": finite(objective),
        "error": error,
        "runtime_sec": finite(result.get("runtime_sec")),
        "budget_sec": float(spec.budget_sec),
        "budget_exhausted": bool(result.get("budget_exhausted")),
        "seed": spec.seed,
        "error_msg": result.get("error_msg"),
        "diagnostics": dict(result.get("diagnostics") or {}),
        "seconds": dict(result.get("seconds") or {}),
        "work": dict(result.get("work") or {}),
    }


class Rows(Mapping[int, dict[str, Any]]):
    """The rows of a study by trial number, packed: a seventh of the memory of as many dicts."""

    def __init__(self) -> None:
        self._packed: dict[int, bytes] = {}

    def add(self, number: int, row: Mapping[str, Any]) -> None:
        self._packed[number] = zlib.compress(json.dumps(row).encode(), 1)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return json.loads(zlib.decompress(self._packed[number]))

    def __iter__(self) -> Iterator[int]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes the rows as Parquet, whole or not at all.

    `hyperparams` is a mapping of every setting that any row has (null where a method has no
    such setting), and each setting is a column `params_<name>` beside it.
    """
    hyperparams = [row["hyperparams"] for row in rows]
    params = _struct([_EXAMPLES, *hyperparams])
    columns: dict[str, tuple[pa.DataType, list[Any]]] = {
        name: (kind, [row.get(name) for row in rows]) for name, kind in COLUMNS.items()
    }
    columns["hyperparams"] = (params, hyperparams)
    for name, known in MAPPINGS.items():
        values = [row.get(name) or {} for row in rows]
        columns[name] = (_struct([dict.fromkeys(known, 0.0), *values]), values)
    for param in params:
        values = [mapping.get(param.name) for mapping in hyperparams]
        columns[f"params_{param.name}"] = (param.type, values)
    arrays = [pa.array([_fit(v, kind) for v in vs], kind) for kind, vs in columns.values()]
    with replacing(path) as temporary:
        pq.write_table(pa.table(arrays, names=list(columns)), temporary)


def read_table(path: Path) -> list[dict[str, Any]]:
    """The rows of a table that `write_table` wrote, with each row's own hyperparameters."""
    with pq.ParquetFile(path) as file:  # Unlike `pq.read_table`, it imports no pandas.
        rows = file.read().to_pylist()
    for row in rows:
        row["hyperparams"] = {k: v for k, v in row["hyperparams"].items() if v is not None}
    return rows


def same_rows(some: Iterable[Mapping[str, Any]], others: Iterable[Mapping[str, Any]]) -> bool:
    """Whether two lists of rows agree in all plain columns."""
    plain = ([[row.get(name) for name in COLUMNS] for row in rows] for rows in (some, others))
    return next(plain) == next(plain)


def best_rows(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], Mapping[str, Any]]:
    """The row with the smallest objective among the complete ones, by (pid, method)."""
    best: dict[tuple[str, str], Mapping[str, Any]] = {}
    for row in rows:
        study = (row["pid"], row["method"])
        if row["status"] == "complete" and row["objective"] is not None:
            if study not in best or row["objective"] < best[study]["objective"]:
                best[study] = row
    return best


def write_best(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes the best hyperparameters of each problem and method as YAML."""
    content: dict[str, Any] = {}
    for (pid, method), row in best_rows(rows).items():
        names = ("problem", "llc_ref", "se_ref", "ref_status")
        entry = content.setdefault(pid, {**{name: row[name] for name in names}, "methods": {}})
        entry["methods"][method] = _best(row)
    text = "# The best hyperparameters of each problem and method, written by parsl-optuna.\n"
    text += yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    write_bytes(path, text.encode())


def _best(row: Mapping[str, Any]) -> dict[str, Any]:
    names = ("llc_hat", "se_hat", "error", "objective", "runtime_sec", "trial_number", "trial_id")
    return {"hyperparams": dict(row["hyperparams"]), **{name: row[name] for name in names}}


def _struct(mappings: Iterable[Mapping[str, Any]]) -> pa.StructType:
    """A struct with every key of the mappings, each with a type that holds all its values."""
    seen: dict[str, list[Any]] = {}
    for mapping in mappings:
        for key, value in mapping.items():
            seen.setdefault(key, []).append(value)
    return pa.struct([pa.field(key, _type(values)) for key, values in seen.items()])


def _type(values: Iterable[Any]) -> pa.DataType:
    """The narrowest type that holds all values; text where they have nothing in common.

    Where there is no value it is that of numbers, which most have elsewhere.
    """
    values = [value for value in values if value is not None]
    kinds = {type(value) for value in values}
    if kinds == {bool}:
        return _TRUTH
    if kinds == {int}:
        return _WHOLE
    if kinds <= {int, float}:
        return _REAL
    if kinds == {list}:
        return pa.list_(_type(item for value in values for item in value))
    if kinds == {dict} and any(values):
        return _struct(values)
    return _TEXT


def _fit(value: Any, kind: pa.DataType) -> Any:
    """The value as its column's type wants it: only text needs help."""
    if value is None or not pa.types.is_nested(kind):
        as_text = pa.types.is_string(kind) and value is not None and not isinstance(value, str)
        return json.dumps(value) if as_text else value
    if isinstance(kind, pa.StructType):
        return {key: _fit(item, kind.field(key).type) for key, item in value.items()}
    return [_fit(item, kind.field(0).type) for item in value]
