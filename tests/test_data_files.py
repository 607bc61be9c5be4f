"""Data and parameters in files: real labels for shipped families, tables, safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import external_example
import jax
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from safetensors.numpy import save_file

from lambda_hat.conf import ConfigError, compose_problem
from lambda_hat.entrypoints import parsl_optuna
from lambda_hat.entrypoints.plans import read_study_plan
from lambda_hat.problems import build_problem, llc_exact

ROWS = 60
QUICK = {"steps": 300, "restarts": 2, "polish_steps": 200, "shakes": 1}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A table with two inputs and a label, in three kinds of file."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((ROWS, 2)) * [1.0, 0.5]
    y = np.tanh(x @ [1.0, -2.0]) + 0.1 * rng.standard_normal(ROWS)
    table = pa.table({"age": x[:, 0], "grade": y, "size": x[:, 1]})
    pyarrow.csv.write_csv(table, tmp_path / "table.csv")
    pyarrow.parquet.write_table(table, tmp_path / "table.parquet")
    np.savez(tmp_path / "table.npz", x=x, y=y)
    return tmp_path


def spec(folder: Path, file: str, model: Any = None, **data: Any) -> dict[str, Any]:
    label = {} if file.endswith(".npz") else {"label": "grade"}
    linear = {"family": "linear", "in_dim": 2}
    return {"model": model or linear, "data": {"file": file, "path": str(folder), **label, **data}}


def refused(given: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as refusal:
        compose_problem(given)
    (fault,) = refusal.value.faults
    assert "\n" not in fault
    return fault


def test_the_kind_of_a_file_makes_no_other_problem(folder: Path) -> None:
    kinds = ("table.csv", "table.parquet", "table.npz")
    assert len({compose_problem(spec(folder, kind)).pid for kind in kinds}) == 1


def test_a_linear_model_of_real_labels_has_its_exact_answer(folder: Path) -> None:
    config = compose_problem(spec(folder, "table.csv"))
    problem = build_problem(config)
    x, y = problem.data["x"], problem.data["y"][:, 0]
    design = np.column_stack([x, np.ones(ROWS)])
    assert problem.w_star == pytest.approx(np.linalg.lstsq(design, y, rcond=None)[0])
    h = np.linalg.eigvalsh(2 * design.T @ design / ROWS)
    nbeta, gamma = config.nbeta, config.posterior.gamma
    expected = 0.5 * np.sum(nbeta * h / (nbeta * h + gamma))
    assert llc_exact(problem) == pytest.approx(expected, rel=1e-9)
    assert config.teacher is None and config.data.n == ROWS


def test_a_network_is_trained_on_real_labels(folder: Path) -> None:
    model = {"family": "mlp", "in_dim": 2, "widths": [2], "activation": "tanh"}
    problem = build_problem(
        compose_problem({**spec(folder, "table.npz", model), "training": QUICK})
    )
    assert problem.init_loss < 0.02 and problem.evidence["started_at_teacher"] is False


def test_what_does_not_suit_is_refused(folder: Path) -> None:
    def linear(**changes: Any) -> dict[str, Any]:
        return spec(folder, "table.csv", **changes)

    wide = {"family": "linear", "in_dim": 3}
    assert "must be x [60, 3] and y [60, 1]" in refused(spec(folder, "table.csv", wide))
    assert "`label` must name" in refused(linear(label="no_such"))
    assert "the file has age [60], grade [60]" in refused(linear(label=None))
    assert "`n` must be left out" in refused(linear(n=5))
    assert "`noise` must be left out" in refused(linear(noise={"kind": "none"}))
    assert "`teacher: base` must be left out" in refused({**linear(), "teacher": "base"})
    assert "(.npz, .safetensors" in refused(spec(folder, "table.txt"))
    deep = {"family": "deep_linear", "widths": [2, 1], "rank": 1}
    assert "`file` must be left out" in refused(spec(folder, "table.npz", deep))
    lone = {"model": "small", "data": {"label": "grade"}}
    assert "without a `file`" in refused(lone)
    (folder / "text.csv").write_text("age,grade\n1,a\n2,b\n3,c\n")
    assert "'grade' of" in (said := refused(spec(folder, "text.csv"))) and "real numbers" in said
    (folder / "gap.csv").write_text("age,grade\n1.0,2\n,3\n3.0,4\n")
    assert "NaN or infinite" in refused(spec(folder, "gap.csv"))
    (folder / "broken.parquet").write_bytes(b"PAR1")
    assert "broken.parquet is none" in refused(spec(folder, "broken.parquet"))


def test_a_file_lies_where_its_config_does(folder: Path) -> None:
    (folder / "own.yaml").write_text(
        "problems:\n- model: {family: linear, in_dim: 2}\n"
        "  data: {file: table.csv, label: grade}\nmethods: [sgld]\n"
    )
    (item,) = read_study_plan(folder / "own.yaml", [], {}).problems
    assert item.pid == compose_problem(spec(folder, "table.csv")).pid
    assert (
        item.label
        == "small/small data.file=table.csv data.label=grade model.family=linear model.in_dim=2"
        or "table.csv" in item.label
    )
    assert str(folder) not in item.label and item.num_rows == ROWS


def test_parameters_in_safetensors_are_the_same_problem(tmp_path: Path) -> None:
    own = external_example.write(tmp_path / "own")
    with np.load(own / "weights.npz") as file:
        arrays = {name.replace("/", "."): file[name] for name in file.files}
    save_file(arrays, own / "weights.safetensors")
    given = external_example.spec(path=str(own))
    other = external_example.spec(path=str(own), params="weights.safetensors")
    assert compose_problem(given).pid == compose_problem(other).pid


def test_a_point_that_is_no_minimum_ends_the_command_with_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    external_example.write(tmp_path)
    (tmp_path / "own.yaml").write_text(
        "problems:\n- model: {family: external, loss: 'own_logistic:loss', params: weights.npz}\n"
        "  data: {file: data.npz}\nmethods: [sgld]\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(parsl_optuna, "workers_file", lambda *args, **kwargs: None)
    assert parsl_optuna.main(["--config", "own.yaml", "--local", "--max-trials", "2"]) == 1
    said = capsys.readouterr().out
    assert "is not tuned: there is no reference: Problem p_" in said
    assert "shift bias of at most" in said and "set `polish: true` (model)" in said
    assert "Traceback" not in said
