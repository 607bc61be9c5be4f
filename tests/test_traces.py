"""Draws -> trace.nc: what ArviZ reads from it is what ref.json and metrics.json say."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lambda_hat import traces
from lambda_hat.report.svg import to_svg
from lambda_hat.report.traces import autocorrelation, draw_traces
from lambda_hat.runners.hmc_reference import run_hmc_reference
from lambda_hat.runners.run_method import run_method_trial
from lambda_hat.store import Store, read_json, trace_beside
from lambda_hat.traces import Trace, write_trace

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    import arviz

QUADRATIC = {"model": "quadratic", "overrides": {"model": {"curvature": [1.0, 0.5, 0.1]}}}
DEEP = {
    "model": "deep_linear",
    "overrides": {"model": {"widths": [3, 2, 2], "rank": 1}, "data": {"n": 500}},
}


def summary_of(path: Path) -> dict[str, Any]:
    """ArviZ's own numbers of the LLC, unrounded, by its names."""
    data = arviz.from_netcdf(str(path))
    table = arviz.summary(data, var_names=["llc"], round_to="none")
    return {str(name): float(table.loc["llc", name]) for name in table.columns}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """An artifacts folder with the reference of a quadratic by HMC."""
    home = tmp_path_factory.mktemp("traces")
    store = Store.at(home / "artifacts", home / "results")
    reference = run_hmc_reference(
        QUADRATIC, str(home / "artifacts/problems/p_1/ref.json"), 60.0, settings={"method": "hmc"}
    )
    assert reference["status"] == "ok"
    return store


def run(store: Store, method: str, **hyperparams: Any) -> tuple[dict[str, Any], Path]:
    """Metrics of a trial, and where its trace is."""
    out = store.metrics("p_1", method, "r_1")
    metrics = run_method_trial(QUADRATIC, {"name": method, **hyperparams}, 1.0, str(out), 60.0, 1)
    assert metrics["llc_hat"] is not None, metrics["error_msg"]
    return metrics, store.trace("p_1", method, "r_1")


def test_arviz_gives_the_numbers_of_ref_json(store: Store) -> None:
    reference = read_json(store.reference("p_1"))
    found, said = summary_of(store.reference_trace("p_1")), reference["diagnostics"]
    assert found["mean"] == pytest.approx(reference["llc_ref"], rel=1e-9)
    assert found["r_hat"] == pytest.approx(said["rhat"], rel=1e-6)
    assert found["ess_bulk"] == pytest.approx(said["ess_bulk"], rel=1e-3)
    error = next(found[name] for name in ("mcse_mean", "mcse") if name in found)
    assert error == pytest.approx(reference["se_ref"], rel=0.02)


def test_the_file_says_whose_draws_it_holds(store: Store) -> None:
    reference = read_json(store.reference("p_1"))
    attrs = arviz.from_netcdf(str(store.reference_trace("p_1"))).attrs
    assert attrs["pid"] == reference["pid"] and attrs["target"] == reference["target"]
    assert attrs["method"] == "hmc" and attrs["nbeta"] == pytest.approx(reference["nbeta"])


def test_a_reference_that_stands_keeps_its_trace(store: Store) -> None:
    before = store.reference_trace("p_1").stat().st_mtime_ns
    run_hmc_reference(QUADRATIC, str(store.reference("p_1")), 60.0, settings={"method": "hmc"})
    assert store.reference_trace("p_1").stat().st_mtime_ns == before


def test_a_reference_of_an_earlier_version_stands_without_a_trace(store: Store) -> None:
    trace = store.reference_trace("p_1")
    kept = trace.rename(trace.with_name("kept"))
    again = run_hmc_reference(
        QUADRATIC, str(store.reference("p_1")), 60.0, settings={"method": "hmc"}
    )
    assert again["status"] == "ok" and not trace.exists()
    kept.rename(trace)


@pytest.mark.parametrize("method", ["mclmc", "sgld"])
def test_arviz_gives_the_diagnostics_of_a_trial(store: Store, method: str) -> None:
    metrics, path = run(store, method, steps=4000)
    found, said = summary_of(path), metrics["diagnostics"]
    assert found["r_hat"] == pytest.approx(said["rhat"], rel=1e-4)
    assert found["ess_bulk"] == pytest.approx(said["ess_bulk"], rel=2e-2)


def test_the_weighted_draws_of_sgld_give_its_estimate(store: Store) -> None:
    metrics, path = run(store, "sgld", steps=4000, gamma=0.33)
    data = arviz.from_netcdf(str(path))
    kept = {"draw": slice(int(data.attrs["burn_in"]), None)}
    llc = data["posterior"]["llc"].isel(kept).values
    weight = data["sample_stats"]["weight"].isel(kept).values
    assert np.ptp(weight) > 0
    assert float((weight * llc).sum() / weight.sum()) == pytest.approx(metrics["llc_hat"], rel=1e-6)


def test_a_trial_that_fails_leaves_no_trace_of_an_earlier_one(store: Store) -> None:
    _, path = run(store, "sgld", steps=4000)
    out = store.metrics("p_1", "sgld", "r_1")
    failed = run_method_trial(QUADRATIC, {"name": "sgld", "eta0": -1.0}, 1.0, str(out), 60.0, 1)
    assert failed["status"] == "failed" and not path.exists()


@pytest.mark.parametrize(("method", "budget"), [("gibbs", 20.0), ("smc", 60.0)])
def test_every_engine_leaves_a_trace(tmp_path: Path, method: str, budget: float) -> None:
    settings = {"method": method, "num_draws": 500}
    if method == "smc":
        settings |= {"num_particles": 256}
    out = tmp_path / "artifacts/problems/p_2/ref.json"
    reference = run_hmc_reference(DEEP, str(out), budget, settings=settings)
    assert reference["llc_ref"] is not None, reference["reasons"]
    assert summary_of(trace_beside(out))["mean"] == pytest.approx(reference["llc_ref"], rel=1e-9)


def test_the_size_of_a_file_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "MOST_DRAWS", 100)
    llc = np.arange(250.0)[:, None] + np.zeros((250, 4))
    write_trace(tmp_path / "t.nc", Trace(llc, llc, {"diverging": llc > 9}), {"pid": "p_1"})
    posterior = arviz.from_netcdf(str(tmp_path / "t.nc"))["posterior"]
    assert posterior["llc"].shape == (4, 25)
    assert posterior["draw"].values.tolist() == list(range(0, 250, 10))
    assert posterior["llc"].values[0].tolist() == list(range(0, 250, 10))


def test_a_run_by_hand_has_its_trace_beside_its_metrics() -> None:
    assert trace_beside(Path("a/metrics.json")) == Path("a/trace.nc")
    assert trace_beside(Path("a/mine.json")) == Path("a/mine.trace.nc")


# In the report.


def test_the_report_draws_reference_and_best_trials(tmp_path: Path) -> None:
    store = Store.at(tmp_path / "artifacts", tmp_path / "results")
    llc = np.random.default_rng(0).gamma(2.0, size=(500, 4))
    for path in (store.reference_trace("p_1"), store.trace("p_1", "sgld", "r_1")):
        write_trace(path, Trace(llc, None, {}), {"pid": "p_1"})
    known = {"method": "sgld", "trial_number": 7, "diagnostics": {"rhat": 1.004, "ess_bulk": 1234}}
    best = [SimpleNamespace(trial_id=name, **known) for name in ("r_1", "r_2")]
    drawn = draw_traces(store, "p_1", {"method": "hmc", "diagnostics": {"rhat": 1.0}}, best)
    assert [one.title for one in drawn] == ["Draws of the reference", "Draws of the best sgld"]
    titles = [one.figure.get_suptitle() for one in drawn]
    assert titles[0] == "HMC reference: 4 chains, R-hat 1.000"
    assert titles[1] == "sgld, trial 7: 4 chains, R-hat 1.004, ESS 1,234"
    for one in drawn:
        labels = [axes.get_xlabel() for axes in one.figure.axes]
        assert labels == ["draw", "rank", "lag"]
        assert len(to_svg(one.figure, "f0")) < 150_000


def test_the_autocorrelation_of_a_first_order_chain() -> None:
    rng, chain = np.random.default_rng(0), np.zeros(100_000)
    for t in range(1, len(chain)):
        chain[t] = 0.7 * chain[t - 1] + rng.normal()
    found = autocorrelation(chain)[:5]
    assert found == pytest.approx(0.7 ** np.arange(5), abs=0.03)


def test_a_chain_that_never_moves_has_no_autocorrelation() -> None:
    assert autocorrelation(np.ones(4)).tolist() == [1.0, 0.0, 0.0, 0.0]
