"""Claims about a command's environment: no shell and no folder changes a number."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lambda_hat.entrypoints import parsl_optuna
from lambda_hat.entrypoints.environment import defined, defined_environment
from lambda_hat.execution import PoolLost, open_pool

COMMAND = Path(sys.executable).parent / "parsl-optuna"
CONFIG = """
problems:
  - {model: quadratic, data: small, seed: 0, overrides: {model: {curvature: [1.0, 4.0]}}}
methods: [sgld]
optuna: {max_trials: 1, batch_size: 1, hmc_budget_sec: 120, method_budget_sec: 60, confirm_seeds: 0}
"""
SHADOWS = ("queue", "struct", "pickle", "random", "types", "tempfile", "jax", "numpy", "zmq")
HOSTILE = {
    "JAX_DEBUG_NANS": "1",
    "JAX_DISABLE_JIT": "1",
    "JAX_DEFAULT_PRNG_IMPL": "rbg",
    "JAX_RANDOM_SEED_OFFSET": "5",
    "JAX_NUMPY_DTYPE_PROMOTION": "strict",
    "XLA_FLAGS": "--no_such_flag",
    "MPLBACKEND": "module://no_such_backend",
    "PYTHONWARNINGS": "error",
    "PYTHONIOENCODING": "ascii",
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "0",
    "PYTHONPATH": ":",
    "LC_ALL": "C",
    "HOME": "/nonexistent",
    "XDG_CACHE_HOME": "/proc/none",
    "TMPDIR": "/no such folder",
    "GIT_DIR": "/nonexistent",
}
"""What a shell may hold; each stopped a process or changed a number at some time."""


def estimate(folder: Path, environ: dict[str, str], cwd: Path) -> float:
    """The LLC of the only trial of a run with an environment, from a folder."""
    folder.mkdir()
    (folder / "config.yaml").write_text(CONFIG)
    places = [
        "--results-dir",
        str(folder / "results"),
        "--artifacts-dir",
        str(folder / "artifacts"),
    ]
    done = subprocess.run(
        [COMMAND, "--local", "--config", str(folder / "config.yaml"), *places],
        env=environ,
        cwd=cwd,
        capture_output=True,
        text=True,
        umask=0o777 if "HOSTILE" in environ else -1,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    if "HOSTILE" in environ:
        assert "JAX_DEBUG_NANS" in done.stderr and "XLA_FLAGS" in done.stderr
    return pd.read_parquet(folder / "results" / "optuna_trials.parquet")["llc_hat"].item()


@pytest.mark.slow
def test_no_shell_and_no_folder_changes_a_number(tmp_path: Path) -> None:
    cwd = tmp_path / "shadows"
    cwd.mkdir()
    for name in SHADOWS:
        (cwd / f"{name}.py").write_text("raise SystemExit('A file of the current folder ran.')")
    kind = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    hostile = {**kind, **HOSTILE, "HOSTILE": "1"}
    assert estimate(tmp_path / "a", hostile, cwd) == estimate(tmp_path / "b", kind, tmp_path)


BY_HAND = """
import json, sys
from lambda_hat.runners.run_method import run_method_trial
spec = {"model": "quadratic", "data": "small", "overrides": {"model": {"curvature": [1.0, 4.0]}}}
done = run_method_trial(spec, {"name": "sgld", "steps": 400}, None, sys.argv[1] + "/metrics.json")
print(json.dumps([done["llc_hat"], done["error_msg"]]))
"""


@pytest.mark.parametrize(
    "environ",
    [
        {"JAX_DEFAULT_PRNG_IMPL": "rbg", "JAX_THREEFRY_PARTITIONABLE": "0"},
        {"JAX_DEBUG_NANS": "1", "JAX_NUMPY_DTYPE_PROMOTION": "strict"},
    ],
    ids=str,
)
def test_a_trial_by_hand_gives_the_same_number_in_any_shell(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    results = []
    for extra in ({}, environ):
        out = tmp_path / str(len(extra))
        out.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", BY_HAND, str(out)],
            env={**os.environ, **extra},
            cwd=out,
            capture_output=True,
            text=True,
            check=True,
        )
        results.append(json.loads(done.stdout.splitlines()[-1]))
    assert results[0] == results[1]
    assert results[0][0] > 0


def test_children_inherit_a_defined_environment(tmp_path: Path) -> None:
    kept = {
        "JAX_PLATFORMS": "cuda",
        "JAX_COMPILATION_CACHE_DIR": "/cache",
        "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": "none",
        "SLURM_CONF": "/etc/slurm.conf",
        "SBATCH_ACCOUNT": "mine",
        "CUDA_VISIBLE_DEVICES": "0",
        "TMPDIR": str(tmp_path) if len(str(tmp_path)) <= 70 else tempfile.gettempdir(),
        "HOME": str(tmp_path),
        "USER": "me",
    }
    gone = {"SLURM_MEM_PER_NODE": "1", "SQUEUE_FORMAT": "%i", "JAX_ENABLE_X64": "1"}
    ours = {"PYTHONSAFEPATH": "1", "PYTHONUTF8": "1", "MPLBACKEND": "agg"}
    assert defined({**kept, **gone}) == {**kept, **ours}


@pytest.mark.parametrize(
    "folder", ["/no/such/folder", "relative", "/tmp/" + 90 * "x", "/tmp/with space"]
)
def test_temporary_files_go_where_a_socket_and_a_shell_can_follow(folder: str) -> None:
    assert "TMPDIR" not in defined({"TMPDIR": folder})


def test_the_users_own_folders_stay_on_the_path_and_the_current_one_does_not() -> None:
    assert defined({"PYTHONPATH": ":/mine:"})["PYTHONPATH"] == "/mine"
    assert "PYTHONPATH" not in defined({"PYTHONPATH": ":"})


def test_after_the_command_the_environment_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_DEBUG_NANS", "1")
    before, mask = dict(os.environ), os.umask(0o777)
    try:
        with defined_environment() as left_out:
            assert "JAX_DEBUG_NANS" in left_out
            assert "JAX_DEBUG_NANS" not in os.environ
            assert os.umask(0o077) == 0o077
    finally:
        assert os.umask(mask) == 0o777
    assert dict(os.environ) == before


def test_a_home_that_is_none_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "none"))
    with defined_environment():
        assert os.environ["HOME"] == tempfile.gettempdir()


def test_a_command_may_open_as_many_files_as_the_system_grants() -> None:
    code = (
        "import resource\n"
        "from lambda_hat.entrypoints.environment import defined_environment\n"
        "with defined_environment(): print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    command = ["bash", "-c", 'ulimit -Sn 64; exec "$0" -c "$1"', sys.executable, code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) == (4096 if hard == resource.RLIM_INFINITY else min(4096, hard))


def test_a_platform_that_is_not_here_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    monkeypatch.setenv("JAX_PLATFORMS", "no_such_platform")
    monkeypatch.chdir(tmp_path)
    assert parsl_optuna.main(["--local", "--config", "config.yaml"]) == 2
    assert "finds none for 'no_such_platform' on this machine" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_an_interchange_that_cannot_start_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[Any]
) -> None:
    (tmp_path / "zmq.py").write_text("raise ImportError('this is no ZeroMQ')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    begun = time.monotonic()
    with pytest.raises(PoolLost, match="exit code 1: ImportError: this is no ZeroMQ"):
        with open_pool(parsl_config=_local(tmp_path), run_dir=tmp_path / "run"):
            pytest.fail("The pool was opened without an interchange.")
    assert time.monotonic() - begun < 30.0  # Parsl itself would wait 120 s.
    assert "Traceback" not in capfd.readouterr().err


def _local(folder: Path) -> Path:
    path = folder / "parsl_config.py"
    path.write_text(
        "from lambda_hat.execution import local_config\n"
        "def fresh_config():\n    return local_config(workers=1)\n"
    )
    return path
