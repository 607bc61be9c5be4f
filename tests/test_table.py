"""Trials -> Parquet: one row a trial, one schema."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from lambda_hat.tables.best_file import write_best
from lambda_hat.tables.reading import read_table, readable_rows
from lambda_hat.tables.trials import MAPPINGS, trial_row, write_table
from lambda_hat.trial import Reference, TrialResult, TrialSpec

REFERENCE = Reference(4.5, 0.1, "ok")
VI = {"lr": 1e-3, "M": 2, "r": 1, "whitening_mode": "none", "steps": 30, "batch_size": 32}


def row(number: int, llc: float | None, *, method: str = "vi", hyperparams: dict = VI) -> dict:
    spec = TrialSpec("p_1", {}, method, hyperparams, seed=number, budget_sec=10)
    if llc is None:
        result = spec.failure("NaN", llc_ref=4.5)
    else:
        result = TrialResult(
            status="complete",
            llc_hat=llc,
            se_hat=0.2,
            runtime_sec=3.0,
            work={"full_gradients": 120.0},
            diagnostics={"ess": 10, "per_chain": [1, 2.5], "nested": {"x": 1, "y": None}},
        )
    objective = 9.0 if llc is None else abs(llc - 4.5)
    return trial_row(
        spec, result, number=number, label="small/small", objective=objective, reference=REFERENCE
    )


def test_columns_and_dtypes(tmp_path: Path) -> None:
    write_table(tmp_path / "t.parquet", [row(0, 4.0), row(1, None)])
    table = pd.read_parquet(tmp_path / "t.parquet")
    contract = (
        "pid method trial_id trial_number status hyperparams llc_hat se_hat llc_ref se_ref "
        "objective error runtime_sec diagnostics seed budget_exhausted error_msg ref_status"
    )
    assert set(contract.split()) <= set(table)
    assert {name for name in table if name.startswith("params_")} >= {
        f"params_{name}" for name in [*VI, "eta0", "step_size", "L"]
    }
    for name in ("llc_hat", "se_hat", "llc_ref", "objective", "error", "params_lr"):
        assert table[name].dtype == "float64", name
    assert table.trial_number.dtype == table.params_steps.dtype == "int64"
    assert table.budget_exhausted.dtype == "bool"
    assert table.error.tolist()[0] == 0.5 and table.error.isna().tolist() == [False, True]
    assert table.objective.tolist() == [0.5, 9.0]


def test_mappings_come_back_as_dicts(tmp_path: Path) -> None:
    write_table(tmp_path / "t.parquet", [row(0, 4.0), row(1, None)])
    table = pd.read_parquet(tmp_path / "t.parquet")
    assert VI.items() <= table.hyperparams[0].items()
    assert table.diagnostics[0]["ess"] == 10.0
    assert list(table.diagnostics[0]["per_chain"]) == [1.0, 2.5]
    assert table.diagnostics[0]["nested"]["x"] == 1
    assert table.diagnostics[1]["ess"] is None
    assert [r["hyperparams"] for r in read_table(tmp_path / "t.parquet")] == [VI, VI]


def test_the_plain_schema_does_not_depend_on_the_rows(tmp_path: Path) -> None:
    write_table(tmp_path / "empty.parquet", [])
    write_table(tmp_path / "full.parquet", [row(0, 4.0)])
    assert list(pd.read_parquet(tmp_path / "empty.parquet")) == list(
        pd.read_parquet(tmp_path / "full.parquet")
    )


def test_a_column_without_values_is_one_of_numbers(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_table(path, [{**row(0, 4.0), "diagnostics": {"step_size": None}}])
    assert pq.read_schema(path).field("diagnostics").type.field("step_size").type == pa.float64()


def test_whole_numbers_stay_whole(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_table(path, [row(0, 4.0), row(1, 4.0, method="sgld", hyperparams={"eta0": 0.1})])
    kept = pd.read_parquet(path, dtype_backend="pyarrow").hyperparams[0]
    assert {name: kept[name] for name in VI} == VI and isinstance(kept["M"], int)


def test_a_setting_of_mixed_types_becomes_text(tmp_path: Path) -> None:
    rows = [row(0, 4.0, hyperparams={"batch": 32}), row(1, 4.0, hyperparams={"batch": "all"})]
    write_table(tmp_path / "t.parquet", rows)
    assert pd.read_parquet(tmp_path / "t.parquet").params_batch.tolist() == ["32", "all"]


def mixed_rows() -> list[dict]:
    """Rows of studies that have neither settings nor diagnostics in common."""
    some: list[dict] = [row(k, 4.0 + k) for k in range(3)]
    some += [row(k, None, method="sgld", hyperparams={"eta0": 0.1, "batch": 8}) for k in range(3)]
    some += [row(k, 4.5, method="hmc", hyperparams={"L": 1, "batch": "all"}) for k in range(3)]
    some += [row(3, 4.5, method="hmc", hyperparams={"L": 0.5, "batch": "all"})]
    some[0]["diagnostics"] = {"rhat": None, "per_chain": [1, 2]}
    some[-1]["diagnostics"] = {"nested": {"x": 1.5, "z": True}, "per_chain": []}
    return some


@pytest.mark.parametrize("size", [1, 3, 4])
def test_groups_of_rows_make_the_table_that_all_at_once_make(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    write_table(tmp_path / "once.parquet", mixed_rows())
    monkeypatch.setattr("lambda_hat.tables.trials.GROUP", size)
    write_table(tmp_path / "groups.parquet", mixed_rows())
    once, groups = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("once", "groups"))
    assert pq.ParquetFile(tmp_path / "groups.parquet").num_row_groups == -(-10 // size)
    assert groups.schema.equals(once.schema, check_metadata=True)
    assert groups.equals(once)
    pd.testing.assert_frame_equal(
        pd.read_parquet(tmp_path / "groups.parquet"), pd.read_parquet(tmp_path / "once.parquet")
    )


def test_rows_come_back_as_they_were_and_in_order(tmp_path: Path) -> None:
    some = [row(k, 4.0 + k, method=method) for method in ("vi", "sgld") for k in (2, 0, 1)]
    write_table(tmp_path / "t.parquet", some)
    back = read_table(tmp_path / "t.parquet")
    plain = [name for name in some[0] if name not in MAPPINGS]
    assert [[r[name] for name in plain] for r in back] == [
        [r[name] for name in plain] for r in some
    ]
    assert set(back[0]) == set(some[0])


class Made:
    """Many rows, each made when it is its turn."""

    def __init__(self, count: int):
        self.count = count

    def __iter__(self) -> Iterator[dict]:
        return (row(k, 4.0 + k) for k in range(self.count))


def peak_of_writing(path: Path, rows: Made) -> int:
    tracemalloc.start()
    try:
        write_table(path, rows)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_writing_many_rows_takes_the_memory_of_a_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lambda_hat.tables.trials.GROUP", 100)
    path = tmp_path / "t.parquet"
    write_table(path, Made(1))  # What is imported and cached on first use is none of it.
    group = peak_of_writing(path, Made(100))
    assert peak_of_writing(path, Made(1500)) < 3 * group  # Two are there while they change.


def test_the_best_is_the_smallest_objective_of_a_complete_trial(tmp_path: Path) -> None:
    rows = [row(0, None), row(1, 4.1), row(2, 4.4), row(3, 6.0), row(4, 4.0, method="sgld")]
    rows[0]["objective"] = 0.0
    write_best(tmp_path / "best.yaml", rows)
    best = yaml.safe_load((tmp_path / "best.yaml").read_text())["p_1"]
    assert best["llc_ref"] == 4.5 and best["ref_status"] == "ok"
    assert best["methods"]["vi"]["trial_number"] == 2
    assert best["methods"]["vi"]["hyperparams"] == VI
    assert best["methods"]["sgld"]["trial_number"] == 4


@pytest.mark.parametrize("keep", [0, 4, 300])
def test_a_damaged_table_is_set_aside(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "t.parquet"
    write_table(path, [row(0, 4.0)])
    path.write_bytes(path.read_bytes()[:keep])
    said: list[str] = []
    assert not list(readable_rows(path, said.append))
    assert "damaged" in said[0] and not path.exists()
