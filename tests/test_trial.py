"""TrialSpec, TrialResult: what crosses the wire."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lambda_hat.store import Store, read_json
from lambda_hat.trial import Reference, TrialSpec, derive_seed, finite, is_complete

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
    assert is_complete({"status": "complete", "llc_hat": 1.0})
    assert not is_complete({"status": "complete", "llc_hat": None})
    assert not is_complete({"status": "failed", "llc_hat": 1.0})
    assert [finite(x) for x in (1, 2.5, True, None, "1", float("nan"))] == [1.0, 2.5] + [None] * 4


def test_a_failure_has_the_keys_of_a_result() -> None:
    failure = SPEC.failure("It was late.", llc_ref=4.5)
    assert failure["status"] == "failed" and failure["error_msg"] == "It was late."
    assert failure["hyperparams"] == {"lr": 0.1, "M": 2}


def test_a_reference_without_a_number_has_failed() -> None:
    refused = {"llc_ref": None, "status": "unreliable", "reasons": ["w* is no minimum"]}
    reference = Reference.from_json(refused)
    assert (reference.status, reference.why) == ("failed", "w* is no minimum")
