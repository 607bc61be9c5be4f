"""The main job as a user runs it: a subprocess, real references, real trials, real workers."""

from __future__ import annotations

import math
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import yaml

from lambda_hat.store import TEMPORARY, read_json
from lambda_hat.tables.confirmation import confirm
from lambda_hat.tables.reading import read_table
from lambda_hat.trial import ESTIMATED, NOISY

CONFIG = Path(__file__).with_name("test_optuna_config.yaml")
COMMAND = Path(sys.executable).with_name("parsl-optuna")
METHODS = ("vi", "sgld", "mclmc")


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Calls the command by its absolute path, from another folder, with no environment active."""
    paths = [p for p in os.environ["PATH"].split(os.pathsep) if Path(p) != COMMAND.parent]
    env = {**os.environ, "PATH": os.pathsep.join(paths)}
    env.pop("VIRTUAL_ENV", None)
    return subprocess.run(
        [str(COMMAND), "--config", str(CONFIG), "--local", *options],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=580,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder into which the command has been run once, from another one."""
    path = tmp_path_factory.mktemp("workflow")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    folders = [f"--{name}-dir={path / name}" for name in ("artifacts", "results")]
    done = run(elsewhere, *folders)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(elsewhere.iterdir())
    (path / "stdout.txt").write_text(done.stdout)
    yield path
    shutil.rmtree(path)


def table_of(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "results" / "optuna_trials.parquet")


def test_optuna_workflow_integration(folder: Path) -> None:
    table = table_of(folder)
    assert len(table) == 2 * 3 * 2 and table.trial_id.is_unique
    assert table.groupby(["pid", "method"]).trial_number.apply(sorted).tolist() == [[0, 1]] * 6
    references = {ref.parent.name: read_json(ref) for ref in references_of(folder)}
    assert set(references) == set(table.pid)
    for row in table.itertuples():
        assert row.status in ESTIMATED, row.error_msg
        reference = references[row.pid]
        assert reference["status"] == "ok" == row.ref_status
        assert row.target == reference["target"] is not None
        assert (row.llc_ref, row.se_ref) == (reference["llc_ref"], reference["se_ref"])
        assert row.error == pytest.approx(abs(row.llc_hat - row.llc_ref))
        assert row.objective == row.error or (row.status == NOISY and row.objective > row.error)
        assert row.se_hat > 0 and 0 < row.runtime_sec < 120


def references_of(folder: Path) -> list[Path]:
    return sorted((folder / "artifacts" / "problems").glob("*/ref.json"))


def test_the_reference_of_a_quadratic_agrees_with_its_exact_value(folder: Path) -> None:
    [quadratic] = [
        ref
        for ref in map(read_json, references_of(folder))
        if ref["problem"]["model"]["family"] == "quadratic"
    ]
    nbeta = 100 / math.log(100)
    exact = sum(0.5 * nbeta * h / (nbeta * h + 1.0) for h in (1.0, 4.0, 0.1))
    assert quadratic["llc_exact"] == pytest.approx(exact)
    assert abs(quadratic["llc_ref"] - quadratic["llc_exact"]) < 4 * quadratic["se_ref"]


def test_every_trial_has_its_manifest_and_metrics(folder: Path) -> None:
    for row in table_of(folder).itertuples():
        run_folder = folder / "artifacts" / "runs" / row.pid / row.method / row.trial_id
        manifest = read_json(run_folder / "manifest.json")
        metrics = read_json(run_folder / "metrics.json")
        asked = {key: v for key, v in row.hyperparams.items() if v is not None}
        assert manifest["hyperparams"].keys() == asked.keys()
        assert manifest["seed"] == metrics["seed"] == row.seed
        assert metrics["llc_hat"] == row.llc_hat
        assert asked.items() <= metrics["hyperparams"].items()


def test_the_studies_are_there_and_the_best_is_what_other_seeds_confirm(folder: Path) -> None:
    table = pd.DataFrame(read_table(folder / "results" / "optuna_trials.parquet"))
    best = yaml.safe_load((folder / "results" / "optuna_best.yaml").read_text())
    studies = folder / "results" / "studies" / "optuna_llc"
    runs = read_table(folder / "results" / "llc_runs.parquet")
    for (pid, method), rows in table.groupby(["pid", "method"]):
        told = {row["trial_id"]: confirm(row, runs) for _, row in rows.iterrows()}
        nearest = min(told, key=lambda trial_id: told[trial_id].rank)
        assert best[pid]["methods"][method]["trial_id"] == nearest
        study = pickle.loads((studies / f"{pid}:{method}.pkl").read_bytes())
        assert study.best_value == rows.objective.min()
        assert (studies / f"{pid}.{method}.journal").exists()


def test_the_output_says_what_ran_and_where_it_is(folder: Path) -> None:
    out = (folder / "stdout.txt").read_text()
    for said in ("small/small", "quadratic/small", "on this machine", "R-hat", *METHODS):
        assert said in out
    assert str(folder / "results" / "optuna_trials.parquet") in out


def test_a_second_run_computes_nothing_again(folder: Path) -> None:
    kept = [
        path
        for pattern in ("**/ref.json", "**/target.npz", "**/metrics.json", "**/*.journal")
        for path in sorted(folder.glob(pattern))
    ]
    confirming = 6 * (2 + 1)  # Both settings of each study, and the method's defaults.
    assert len(kept) == 2 + 2 + 12 + confirming + 6
    before = [(path.stat().st_ino, path.stat().st_mtime_ns) for path in kept]
    table = table_of(folder)
    again = run(folder)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "from an earlier run" in again.stdout and "under way" not in again.stdout
    assert [(path.stat().st_ino, path.stat().st_mtime_ns) for path in kept] == before
    pd.testing.assert_frame_equal(table_of(folder), table)


def test_nothing_temporary_is_left(folder: Path) -> None:
    assert list(folder.rglob(f"{TEMPORARY}*")) == []
    assert list(folder.rglob("*.broken*")) == []
    assert list(folder.rglob("*.journal.lock")) == []
