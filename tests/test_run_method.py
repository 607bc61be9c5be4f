"""TrialSpec -> TrialResult: one trial by hand, as the contract shows it."""

from __future__ import annotations

import errno
import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from lambda_hat.conf import compose_problem
from lambda_hat.conf.samplers import SAMPLERS
from lambda_hat.runners import boundary, trial_run
from lambda_hat.runners.boundary import artifacts_of
from lambda_hat.runners.run_method import run_method_trial
from lambda_hat.store import read_json, strict

QUADRATIC = {"model": "quadratic", "data": "small"}
EXACT = 1.3146414244730944
FIELDS = (
    "status llc_hat se_hat llc_ref objective error runtime_sec seconds work budget_exhausted "
    "diagnostics hyperparams error_msg"
).split()
SHORT: dict[str, dict[str, Any]] = {
    "hmc": {"steps": 1_000, "num_warmup": 200},
    "mclmc": {"steps": 2_000, "step_size": 0.3},
    "sgld": {"eta0": 1e-3, "steps": 40_000},
    "vi": {"M": 1, "r": 0, "steps": 2_000},
}


def trial(folder: Path, method: str = "sgld", *, problem: Any = QUADRATIC, **kw: Any) -> dict:
    """A trial in the contract's layout."""
    out = folder / "artifacts" / "runs" / "p_0" / method / kw.pop("trial_id", "r_0")
    settings = {**SHORT.get(method, {}), **kw.pop("settings", {})}
    cfg = {"name": method, **settings}
    return run_method_trial(problem, cfg, EXACT, str(out / "metrics.json"), **{"seed": 1, **kw})


@pytest.mark.parametrize("method", sorted(SAMPLERS))
def test_metrics_are_what_the_contract_says(method: str, tmp_path: Path) -> None:
    found = trial(tmp_path, method, budget_sec=300)
    path = tmp_path / "artifacts/runs/p_0" / method / "r_0" / "metrics.json"
    assert found["status"] == "complete", found["error_msg"]
    assert read_json(path) == found == strict(found) and set(FIELDS) <= set(found)
    json.dumps(found, allow_nan=False)
    assert abs(found["llc_hat"] - EXACT) < max(4 * found["se_hat"], 0.05 * EXACT)
    assert found["error"] == pytest.approx(abs(found["llc_hat"] - EXACT))
    assert found["objective"] is None and found["error_msg"] is None
    assert found["pid"] == compose_problem(QUADRATIC).pid
    assert {"setup", "compile", "sample"} <= set(found["seconds"])
    assert sum(found["seconds"].values()) == pytest.approx(found["runtime_sec"])
    assert min(found["seconds"].values()) >= 0
    assert found["work"]["full_gradients"] > 0
    assert found["diagnostics"]["ess"] > 0 and not found["budget_exhausted"]
    assert set(SHORT[method]) <= set(found["hyperparams"])


@pytest.mark.parametrize("method", sorted(SAMPLERS))
def test_a_trial_with_other_numbers_compiles_nothing(method: str, tmp_path: Path) -> None:
    """Not even a conversion: an array a length of warm-up was one program a trial."""
    compiled: list[str] = []

    def note(event: str, seconds: float, **about: Any) -> None:
        if "backend_compile" in event:
            compiled.append(event)

    trial(tmp_path, method, seed=1, trial_id="r_1")
    shorter = {key: int(0.9 * n) for key, n in SHORT[method].items() if n >= 200}
    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        found = trial(tmp_path, method, seed=2, trial_id="r_2", settings=shorter)
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    assert shorter and found["status"] == "complete" and not compiled


def test_the_same_seed_gives_the_same_numbers(tmp_path: Path) -> None:
    same = ("llc_hat", "se_hat", "diagnostics", "work", "hyperparams", "seed")
    first, again = (trial(tmp_path, trial_id=name) for name in ("r_1", "r_2"))
    assert [first[name] for name in same] == [again[name] for name in same]
    assert trial(tmp_path, seed=2)["llc_hat"] != first["llc_hat"]


@pytest.mark.skipif(boundary.memory_maps() == 0, reason="this kernel does not count memory maps")
def test_programs_are_forgotten_before_a_process_can_hold_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = trial(tmp_path, trial_id="r_1")
    for method in sorted(SHORT):
        trial(tmp_path, method)
    full = boundary.memory_maps()
    monkeypatch.setattr(boundary, "MOST_MAPS", full - 1)
    again = trial(tmp_path, trial_id="r_2")
    assert boundary.memory_maps() < 0.8 * full
    assert again["seconds"]["compile"] > 0
    assert again["llc_hat"] == first["llc_hat"]


def test_without_a_seed_the_settings_decide(tmp_path: Path) -> None:
    first, again = trial(tmp_path, seed=None), trial(tmp_path, seed=None)
    assert first["seed"] == again["seed"] and first["llc_hat"] == again["llc_hat"]
    assert trial(tmp_path, seed=None, settings={"eta0": 2e-3})["seed"] != first["seed"]


def test_the_budget_is_wall_time_of_everything(tmp_path: Path) -> None:
    trial(tmp_path)  # Compiles.
    began = time.monotonic()
    found = trial(tmp_path, settings={"steps": 20_000_000}, budget_sec=2.0)
    took = time.monotonic() - began
    assert found["llc_hat"] is not None and found["budget_exhausted"], found["error_msg"]
    assert found["runtime_sec"] <= took < 3.0
    assert found["budget_sec"] == 2.0


def test_a_budget_that_is_gone_before_the_first_draw_is_a_failure(tmp_path: Path) -> None:
    found = trial(tmp_path, budget_sec=0.001)
    assert found["status"] == "failed" and found["llc_hat"] is None and found["error"] is None
    assert "draws >= 20" in found["error_msg"]


def test_a_budget_too_short_for_training_is_a_failure(tmp_path: Path) -> None:
    endless = {"model": "small", "data": "small", "overrides": {"training": {"steps": 10**9}}}
    found = trial(tmp_path, problem=endless, budget_sec=1.0)
    assert found["status"] == "failed" and found["llc_hat"] is None and found["traceback"] is None
    assert found["error_msg"].startswith("Training must end within the budget, but had taken")
    assert "Raise --method-budget" in found["error_msg"] and found["budget_exhausted"]
    assert found["runtime_sec"] < 10.0  # Compiling is not interrupted.
    assert not list(tmp_path.rglob("target.[jn]*"))


@pytest.mark.parametrize(
    "method, settings, words",
    [
        ("sgld", {"eta0": 1e5}, "diverged"),
        ("sgld", {"eta0": -1.0}, "eta0 > 0"),
        ("sgld", {"eta": 1.0}, "eta0"),
        ("sgld", {"precond_type": "sgd"}, "none, rmsprop, adam"),
        ("nuts", {}, "hmc"),
    ],
)
def test_failure_is_a_value_with_a_sentence(
    method: str, settings: dict, words: str, tmp_path: Path
) -> None:
    found = trial(tmp_path, method, settings=settings)
    assert found["status"] == "failed" and found["llc_hat"] is None
    assert words in found["error_msg"] and found["traceback"] is None
    assert read_json(next(tmp_path.rglob("metrics.json"))) == found


def test_a_method_without_a_name_is_refused(tmp_path: Path) -> None:
    found = run_method_trial(QUADRATIC, {"eta0": 1.0}, 1.0, str(tmp_path / "metrics.json"))
    assert found["status"] == "failed" and "`name`" in found["error_msg"]


def test_chains_that_leave_the_basin_fail(tmp_path: Path) -> None:
    """A step just below the limit of stability: finite losses, and none from the posterior."""
    nbeta = 100 / np.log(100)
    eta0 = 0.99 * 4 / (4 * nbeta + 1)
    found = trial(tmp_path, settings={"eta0": float(eta0)})
    assert found["status"] == "failed" and "basin" in found["error_msg"]


@pytest.mark.parametrize(
    "error, words",
    [
        (MemoryError(), "out of memory"),
        (RuntimeError("RESOURCE_EXHAUSTED: 99 GiB"), "out of memory"),
        (ZeroDivisionError("unforeseen\nand long"), "ZeroDivisionError: unforeseen"),
    ],
)
def test_what_is_unforeseen_is_told(
    error: Exception, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(trial_run, "Runner", fail)
    found = trial(tmp_path)
    assert found["status"] == "failed" and words in found["error_msg"]
    assert "\n" not in found["error_msg"]


def test_a_full_disk_is_no_failure_of_the_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(trial_run, "load_target", full)
    with pytest.raises(OSError, match="No space left"):
        trial(tmp_path)
    assert not list(tmp_path.rglob("metrics.json"))


def test_a_damaged_target_is_noticed_and_built_again(tmp_path: Path) -> None:
    before = trial(tmp_path)
    assert before["notices"] == []
    (target,) = tmp_path.rglob("target.npz")
    target.write_bytes(target.read_bytes()[:-20])
    boundary.load_problem.cache_clear()
    boundary.load_target.cache_clear()
    after = trial(tmp_path)
    assert len(after["notices"]) == 1 and "is broken and is built again" in after["notices"][0]
    assert after["llc_hat"] == before["llc_hat"]


def test_by_hand_without_the_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    linear = {"model": "linear", "data": "small"}
    cfg = {"name": "sgld", "eta0": 1e-3, "batch": 32, "steps": 2_000}
    found = run_method_trial(linear, cfg, 2.0, "here.json", seed=1)
    assert found["status"] == "noisy" and read_json(tmp_path / "here.json") == found
    stored = list((tmp_path / "artifacts" / "problems").glob("p_*/target.npz"))
    assert [path.parent.name for path in stored] == [found["pid"]]
    found = run_method_trial(linear, cfg, 2.0, "there.json", seed=1, artifacts_dir="else")
    assert (tmp_path / "else" / "problems" / found["pid"] / "target.npz").exists()


@pytest.mark.parametrize(
    ("path", "layout"),
    [("runs/p/sgld/r/metrics.json", "runs/*/*/*/*"), ("problems/p/ref.json", "problems/*/*")],
)
def test_artifacts_are_where_the_layout_says(path: str, layout: str, tmp_path: Path) -> None:
    assert artifacts_of(tmp_path / "a" / path, layout, None) == tmp_path / "a"
    assert artifacts_of(tmp_path / "a" / path, layout, str(tmp_path / "b")) == tmp_path / "b"
    assert artifacts_of(tmp_path / "by_hand.json", layout, None) == Path("artifacts").absolute()


def test_strict_json_has_no_nan() -> None:
    value = {1: [float("nan"), (float("inf"), 2.0)], "x": {"y": -float("inf")}}
    assert strict(value) == {"1": [None, [None, 2.0]], "x": {"y": None}}


def test_a_trial_that_is_lost_at_once_blames_its_step_and_not_its_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lambda_hat.runners.watch.LEFT_BASIN", 0.0)  # It leaves with a first draw.
    out, folder = str(tmp_path / "metrics.json"), str(tmp_path / "artifacts")
    settings = {"name": "sgld", "steps": 40_000, "max_draws": 10_000}
    metrics = run_method_trial(
        {"model": "quadratic", "data": "small"}, settings, 1.3, out, artifacts_dir=folder
    )
    assert metrics["status"] == "failed" and "basin" in metrics["error_msg"]
    assert "smaller step" in metrics["error_msg"] and "budget" not in metrics["error_msg"]
