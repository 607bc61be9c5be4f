"""TrialResult -> status: which estimate may be believed, and what noise costs."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lambda_hat.entrypoints.parsl_optuna import FUNCTIONS
from lambda_hat.runners.run_method import run_method_trial
from lambda_hat.store import read_json
from lambda_hat.tables.best import shortlist_of
from lambda_hat.trial import TrialResult
from lambda_hat.trial_gates import ESS_BULK, INTERVAL, KHAT, RHAT, check_trial, interval, noise

GOOD = {"rhat": 1.01, "ess_bulk": 500.0}


def result(llc: float, se: float = 0.05, ref: float | None = 5.0, **found: Any) -> TrialResult:
    return TrialResult(llc_ref=ref, diagnostics={**GOOD, **found}).completed(llc, se)


def test_the_interval_is_joint_and_to_each_side() -> None:
    assert interval(0.3, 0.4, -5.0) == pytest.approx(1.96 * 0.5 / 5.0)
    assert interval(0.3, None, 0.0) == pytest.approx(1.96 * 0.3)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"rhat": RHAT + 0.001}, "rhat"),
        ({"rhat": None}, "rhat"),
        ({"ess_bulk": ESS_BULK - 1}, "ess_bulk"),
        ({"khat": KHAT + 0.01}, "khat"),
        ({"khat": None}, "khat"),
        ({"se": 1.01 * INTERVAL * 5.0 / 1.96}, "interval"),
    ],
)
def test_each_gate_alone_makes_a_trial_noisy(change: dict, name: str) -> None:
    found = result(5.0, **change)
    (failed,) = [gate for gate in found.gates if not gate.passed]
    assert found.status == "noisy" and failed.name == name and found.estimate == 5.0
    assert found.error_msg == failed.sentence and found.error == 0.0


def test_a_trial_on_the_thresholds_is_complete() -> None:
    found = result(5.0, INTERVAL * 5.0 / 1.96, rhat=RHAT, ess_bulk=ESS_BULK)
    assert (found.status, found.error_msg) == ("complete", None) and len(found.gates) == 3


def test_without_a_reference_only_the_chains_are_asked() -> None:
    assert result(5.0, 50.0, None).status == "complete"
    assert result(5.0, 50.0, None, rhat=1.2).status == "noisy"


def test_a_result_is_judged_anew_against_another_reference_and_an_old_one_by_its_diagnostics() -> (
    None
):
    alone = result(5.0, 0.2, None)
    judged = alone.judged(5.0, 0.2)
    assert judged.status == "noisy" and judged.judged(5.0, 0.0) == result(5.0, 0.2)
    old = {"status": "complete", "llc_hat": 5.0, "se_hat": 0.01, "llc_ref": 5.0}
    assert TrialResult.from_json(old).judged(5.0, 0.0).status == "complete"
    old["diagnostics"] = {"rhat": 1.95, "ess": 7.0}
    assert TrialResult.from_json(old).judged(5.0, 0.0).status == "noisy"
    failed = replace(alone, status="failed", llc_hat=None)
    assert failed.judged(5.0, 0.0) == failed


def test_noise_grows_from_ten_percent_with_what_is_missing() -> None:
    def of(**found: Any) -> float:
        return noise(check_trial({**GOOD, **found}, se=0.1, llc_ref=5.0, se_ref=0.0))

    assert of(rhat=RHAT) == pytest.approx(INTERVAL) == of(ess_bulk=ESS_BULK)
    assert of(rhat=1.1) == pytest.approx(2 * INTERVAL)
    assert of(ess_bulk=ESS_BULK / 9) == pytest.approx(3 * INTERVAL)
    assert of(rhat=None) == math.inf


@pytest.mark.parametrize("delta", [None, 0.1])
def test_luck_does_not_win(delta: float | None) -> None:
    """A noisy trial on the spot scores worse than a complete one that is 9 % off."""
    lucky, honest = result(5.0, rhat=1.06), result(5.45)
    scores = [FUNCTIONS.score(one.to_json(), 5.0, huber_delta=delta) for one in (lucky, honest)]
    assert scores[0] > scores[1]
    own = replace(FUNCTIONS, objective_from_metrics=lambda m, ref: (m["llc_hat"] - ref) ** 2)
    assert own.score(lucky.to_json(), 5.0, huber_delta=None) == pytest.approx((0.12 * 5) ** 2)


def test_no_noisy_trial_is_the_best_while_one_is_complete() -> None:
    said = [("noisy", 0.1), ("complete", 9.0), ("complete", 8.0), ("noisy", 0.0)]
    given = {"se_hat": 0.1, "llc_ref": 5.0, "se_ref": 0.1}
    rows = [
        {**given, "status": status, "error": score, "objective": score, "trial_number": number}
        | {"hyperparams": {"lr": number}}
        for number, (status, score) in enumerate(said)
    ]
    assert [row["error"] for row in shortlist_of(rows).best] == [8.0, 9.0, 0.0]
    assert shortlist_of([rows[0], rows[3]]).best[0] is rows[3]


def test_an_sgld_that_does_not_move_is_noisy(tmp_path: Path) -> None:
    cfg = {"name": "sgld", "eta0": 1e-12, "steps": 3_000}
    problem = {"model": "quadratic", "data": "small"}
    found = run_method_trial(problem, cfg, 1.3146, str(tmp_path / "metrics.json"), seed=1)
    assert found["status"] == "noisy" and abs(found["llc_hat"]) < 1e-4
    assert "R-hat is" in found["error_msg"] and read_json(tmp_path / "metrics.json") == found
    rhat = next(gate for gate in found["gates"] if gate["name"] == "rhat")
    assert not rhat["passed"] and rhat["threshold"] == RHAT and rhat["value"] > RHAT
