"""TrialSpec, TrialResult: what crosses the wire."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from pathlib import Path

import pytest

from lambda_hat.references.gate import Gate
from lambda_hat.references.result import ReferenceResult
from lambda_hat.store import Store, read_json
from lambda_hat.trial import Reference, TrialResult, TrialSpec, derive_seed, finite

SPEC = TrialSpec("p_1", {"model": "small"}, "vi", {"lr": 0.1, "M": 2}, seed=3, budget_sec=10)


@pytest.mark.parametrize(
    "change",
    [
        {"pid": "p_2"},
        {"method": "sgld"},
        {"hyperparams": {"lr": 0.2, "M": 2}},
        {"seed": 4},
        {"budget_sec": 11},
    ],
)
def test_everything_that_decides_a_result_is_in_its_id(change: dict) -> None:
    assert replace(SPEC, **change).trial_id != SPEC.trial_id


def test_a_trial_id_does_not_depend_on_spelling() -> None:
    other = replace(SPEC, problem={}, hyperparams={"M": 2, "lr": 0.1}, budget_sec=10.0)
    assert other.trial_id == SPEC.trial_id == "r_" + SPEC.trial_id[2:]


def test_seeds_are_the_same_on_every_machine_and_differ_by_trial() -> None:
    assert derive_seed("trial", 0, "p_1", "vi", 0) == 1119376097
    assert len({derive_seed("trial", 0, "p_1", "vi", number) for number in range(1000)}) == 1000


def test_the_manifest_is_what_the_id_is_of(tmp_path: Path) -> None:
    store = Store.at(tmp_path / "a", tmp_path / "r")
    SPEC.write_manifest(store)
    manifest = read_json(store.manifest("p_1", "vi", SPEC.trial_id))
    assert manifest.pop("problem") == {"model": "small"}
    assert manifest == SPEC.manifest


def test_a_result_is_complete_with_a_finite_estimate_only() -> None:
    assert TrialResult(status="complete", llc_hat=1.0).estimate == 1.0
    for nothing in (None, math.nan, math.inf):
        assert TrialResult(status="complete", llc_hat=nothing).estimate is None
    assert TrialResult(status="failed", llc_hat=1.0).estimate is None
    assert [finite(x) for x in (1, 2.5, True, None, "1", float("nan"))] == [1.0, 2.5] + [None] * 4


def test_a_failure_says_what_was_asked_for() -> None:
    failure = SPEC.failure("It was late.", llc_ref=4.5)
    assert failure.status == "failed" and failure.error_msg == "It was late."
    asked = (failure.pid, failure.method, failure.hyperparams, failure.seed, failure.budget_sec)
    assert asked == (SPEC.pid, SPEC.method, {"lr": 0.1, "M": 2}, SPEC.seed, SPEC.budget_sec)


def test_a_result_is_strict_json_and_comes_back() -> None:
    result = TrialResult(
        llc_ref=4.0, diagnostics={"rhat": math.nan, "z": [math.inf]}, notices=["!"]
    )
    stored = json.loads(json.dumps(result.completed(4.5, 0.1).to_json(), allow_nan=False))
    assert stored["diagnostics"] == {"rhat": None, "z": [None]} and stored["error"] == 0.5
    assert TrialResult.from_json(stored).to_json() == stored
    assert list(stored) == [field.name for field in fields(TrialResult)]


def test_metrics_of_an_earlier_version_are_read() -> None:
    old = {"status": "complete", "llc_hat": 1.0, "hyperparams": {"lr": 0.1}, "gone": 1}
    result = TrialResult.from_json(old)
    assert result.estimate == 1.0 and result.objective is None and not result.worker_died
    assert result.is_of("t_1")  # Nothing is known of its target.
    assert not TrialResult.from_json({**old, "target": "t_2"}).is_of("t_1")


def test_a_reference_of_an_earlier_version_is_read() -> None:
    old = {"llc_ref": 4.5, "se_ref": 0.1, "status": "unreliable", "budget_sec": 60.0}
    stored = ReferenceResult.from_json({**old, "mendable": False, "reasons": ["R-hat is 1.4."]})
    assert not stored.fixable_by_more_draws and stored.is_final(1e9) and stored.gates == ()
    assert ReferenceResult.from_json({**old, "mendable": True}).is_final(60.0)
    assert not ReferenceResult.from_json(old).is_final(61.0)
    assert Reference.from_json(old) == Reference(4.5, 0.1, "unreliable", budget_sec=60.0)


def test_a_reference_result_is_strict_json_and_comes_back() -> None:
    gate = Gate("rhat", math.inf, 1.01, False, True, "R-hat is inf. Raise it.")
    result = ReferenceResult(gates=[gate], diagnostics={"rhat": math.nan}, notices=("!",))
    stored = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert stored["gates"][0]["value"] is None and stored["diagnostics"] == {"rhat": None}
    assert ReferenceResult.from_json(stored).to_json() == stored


def test_a_reference_without_a_number_has_failed() -> None:
    refused = {"llc_ref": None, "status": "unreliable", "reasons": ["w* is no minimum"]}
    reference = Reference.from_json(refused)
    assert (reference.status, reference.why) == ("failed", "w* is no minimum")
