"""Engines take turns until one passes, and how near each is to its gates is told."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lambda_hat.references import chains, policy
from lambda_hat.references.engine import Attempt, Cost, EngineResult
from lambda_hat.references.gate import Gate, no_estimate
from lambda_hat.references.gates import check_elsewhere, not_checked_elsewhere
from lambda_hat.references.outlook import budget_that_would_do, seconds_to_gates
from lambda_hat.references.policy import run_in_turns
from lambda_hat.references.verdict import decide_auto
from lambda_hat.runners import hmc_reference
from lambda_hat.runners.hmc_reference import run_hmc_reference
from lambda_hat.store import read_json

FIXABLE = {"rhat", "ess_bulk", "relative_se", "round_trips", "virial", "estimate"}
VALUES = {
    "rhat": (1.03, 1.01),
    "ess_bulk": (100.0, 400.0),
    "relative_se": (0.04, 0.02),
    "round_trips": (2.0, 10.0),
}


def result(
    seconds: float, *failing: str, llc: float | None = 5.0, se: float = 0.05
) -> EngineResult:
    gates = tuple(
        Gate(name, *VALUES.get(name, (1.0, 0.0)), False, name in FIXABLE, f"{name}. Raise it.")
        for name in failing
    )
    return EngineResult(llc, se, {}, gates, Cost({"sample": seconds}, seconds), 10)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A clock that only engines move on."""
    now = [0.0]

    class Clock:
        @staticmethod
        def monotonic() -> float:
            return now[0]

    def pass_by(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(policy, "time", Clock)
    return pass_by


def played(
    clock: Callable[[float], None],
    engines: dict[str, Callable[[float], EngineResult]],
    *,
    budget: float = 10_000.0,
    settled: Callable[[Any], bool] = lambda parts: True,
    confirm: Callable[[EngineResult, float], EngineResult] = lambda result, seconds: result,
) -> tuple[list[tuple[str, float]], dict[str, EngineResult]]:
    """The turns that were given, (engine, seconds in all), and what came of them."""
    turns: list[tuple[str, float]] = []
    costs = dict.fromkeys(engines, 0.0)

    def sample(name: str, until: float) -> EngineResult:
        turns.append((name, until))
        found = engines[name](until)
        clock(found.cost.total - costs[name])
        costs[name] = found.cost.total
        return found

    return turns, run_in_turns(sample, confirm, settled, budget)


def slow(*gates: str) -> Callable[[float], EngineResult]:
    return lambda until: result(until, *gates)


def test_chains_that_pass_are_all_that_runs(clock: Callable) -> None:
    turns, parts = played(clock, {"hmc": lambda until: result(12.0)})
    assert turns == [("hmc", 60.0)] and set(parts) == {"hmc"}


def test_chains_that_only_need_a_little_longer_get_it(clock: Callable) -> None:
    def hmc(until: float) -> EngineResult:
        return result(until, "relative_se") if until < 200 else result(150.0)

    turns, _ = played(clock, {"hmc": hmc})
    assert turns == [("hmc", 60.0), ("hmc", 120.0), ("hmc", 240.0)]


def test_chains_that_were_cut_before_their_first_look_are_gone_on_with(clock: Callable) -> None:
    """Base/small on a busy machine: 175 draws in the first turn, whose virial ratio was 0.8."""

    def hmc(until: float) -> EngineResult:
        if until < 200.0:
            return replace(result(until, "rhat", "divergences"), draws=175, finished=False)
        return replace(result(200.0), draws=1_500)

    turns, parts = played(clock, {"hmc": hmc})
    assert set(parts) == {"hmc"} and not parts["hmc"].failed
    assert turns == [("hmc", 60.0), ("hmc", 120.0), ("hmc", 240.0)]


def test_gates_that_hold_early_by_the_clock_do_not_end_it(clock: Callable) -> None:
    def hmc(until: float) -> EngineResult:
        return replace(result(min(until, 150.0)), finished=until >= 150.0)

    turns, parts = played(clock, {"hmc": hmc})
    assert turns == [("hmc", 60.0), ("hmc", 120.0), ("hmc", 240.0)] and parts["hmc"].finished
    turns, parts = played(clock, {"hmc": hmc}, budget=100.0)
    assert turns == [("hmc", 60.0), ("hmc", 75.0)]  # What is left is for chains from elsewhere.
    assert not decide_auto(parts).failed, "with the budget spent, what there is counts"


def elsewhere(scatter: float, costs: float) -> Callable[[EngineResult, float], EngineResult]:
    """Chains from elsewhere that scatter so much, and take so long."""

    def confirm(result: EngineResult, seconds: float) -> EngineResult:
        late = seconds < costs
        gate = not_checked_elsewhere() if late else check_elsewhere(scatter, 64)
        cost = result.cost + Cost({"elsewhere": max(min(seconds, costs), 0.0)})
        return replace(result, gates=(*result.gates, gate), cost=cost)

    return confirm


def test_chains_that_others_contradict_are_given_up(clock: Callable) -> None:
    engines = {"hmc": lambda until: result(12.0, llc=4.0), "tempering": lambda until: result(9.0)}
    turns, parts = played(clock, engines, confirm=elsewhere(2.9, 3.0))
    assert turns == [("hmc", 60.0), ("tempering", 60.0)]
    verdict = decide_auto(parts)
    assert (verdict.method, verdict.number[0]) == ("tempering", 5.0) and not verdict.failed
    turns, parts = played(clock, engines, confirm=elsewhere(1.1, 3.0))
    assert turns == [("hmc", 60.0)] and not decide_auto(parts).failed
    # And where replica exchange comes to no end, neither does the reference.
    slow_one = {**engines, "tempering": slow("ess_bulk")}
    _, parts = played(clock, slow_one, confirm=elsewhere(2.9, 3.0))
    assert decide_auto(parts).failed and decide_auto(parts).method == "tempering"


def test_chains_that_nothing_had_time_to_confirm_are_not_believed(clock: Callable) -> None:
    engines = {"hmc": lambda until: replace(result(until), finished=False)}
    for costs, reasons in ((10.0, []), (30.0, ["elsewhere"])):
        _, parts = played(clock, engines, budget=50.0, confirm=elsewhere(1.0, costs))
        assert [gate.name for gate in decide_auto(parts).failed] == reasons


def test_chains_that_creep_make_way_and_the_nearest_goes_on(
    clock: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(VALUES, "rhat", (1.5, 1.01))

    def tempering(until: float) -> EngineResult:
        return result(until, "ess_bulk") if until < 500 else result(400.0)

    turns, parts = played(clock, {"hmc": slow("rhat"), "tempering": tempering})
    assert turns[0] == ("hmc", 60.0)
    assert [turn for turn in turns if turn[0] == "tempering"] == [
        ("tempering", 60.0), ("tempering", 120.0), ("tempering", 240.0), ("tempering", 480.0),
        ("tempering", 960.0),
    ]  # fmt: skip
    assert decide_auto(parts).method == "tempering" and not decide_auto(parts).failed


def test_chains_that_diverge_however_small_their_steps_are_given_up(clock: Callable) -> None:
    engines = {"hmc": lambda until: result(4.0, "divergences"), "tempering": lambda u: result(9.0)}
    turns, parts = played(clock, engines)
    assert turns == [("hmc", 60.0), ("tempering", 60.0)]
    verdict = decide_auto(parts)
    assert (verdict.method, verdict.number) == ("tempering", (5.0, 0.05)) and not verdict.failed
    assert verdict.cost.total == 13.0


def test_chains_that_diverge_before_their_turn_ends_go_on(clock: Callable) -> None:
    """What ends with the turn says nothing yet of how often they diverge."""

    def hmc(until: float) -> EngineResult:
        cut = until < 200.0
        failing = ("divergences",) if cut else ()
        return replace(result(until - 1.0, *failing), finished=not cut)

    turns, parts = played(clock, {"hmc": hmc, "tempering": slow("rhat")})
    assert {name for name, _ in turns} == {"hmc"}
    assert not decide_auto(parts).failed


def test_smc_is_tried_where_both_have_given_up(clock: Callable) -> None:
    hopeless = lambda until: result(4.0, "divergences")  # noqa: E731
    engines = {"hmc": hopeless, "tempering": hopeless, "smc": lambda until: result(30.0)}
    turns, parts = played(clock, engines, budget=1000.0)
    assert turns == [("hmc", 60.0), ("tempering", 60.0), ("smc", 992.0)]
    assert decide_auto(parts).method == "smc"


def test_a_budget_is_spent_before_a_reference_is_unreliable(clock: Callable) -> None:
    engines = {"hmc": slow("rhat", "ess_bulk"), "tempering": slow("ess_bulk")}
    _, parts = played(clock, engines, budget=5_000.0)
    assert sum(part.cost.total for part in parts.values()) == pytest.approx(5_000.0)
    assert decide_auto(parts).failed


def test_a_fault_of_the_target_ends_it_for_every_engine(clock: Callable) -> None:
    turns, parts = played(clock, {"hmc": lambda until: result(20.0, "below_minimum")})
    assert len(turns) == 1 and decide_auto(parts).failed
    # But not in the eyes of chains that have not mixed.
    engines = {
        "hmc": lambda until: result(20.0, "below_minimum", "rhat"),
        "tempering": lambda until: result(9.0),
    }
    assert [name for name, _ in played(clock, engines)[0]] == ["hmc", "tempering"]


def test_a_budget_of_nothing_is_one_look(clock: Callable) -> None:
    turns, parts = played(clock, {"hmc": lambda until: result(0.0, "estimate", llc=None)}, budget=0)
    assert turns == [("hmc", 0.0)] and len(parts) == 1


def test_two_that_pass_and_disagree_are_unreliable() -> None:
    parts = {"hmc": result(9.0, llc=5.0), "tempering": result(9.0, llc=5.5)}
    verdict = decide_auto(parts)
    (gate,) = verdict.failed
    assert gate.name == "agreement" and "HMC gives 5" in gate.sentence
    assert "Replica exchange 5.5" in gate.sentence and gate.value == pytest.approx(7.07, abs=0.01)
    assert not decide_auto({**parts, "tempering": result(9.0, llc=5.1)}).failed
    # An engine whose chains disagree has no error that a comparison could go by.
    assert not decide_auto({"hmc": result(9.0, "rhat"), "tempering": result(9.0, llc=6.0)}).failed


def test_where_a_precise_one_contradicts_it_the_other_goes_on(
    clock: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hmc(until: float) -> EngineResult:
        return result(until, "relative_se") if until < 2000 else result(1500.0, llc=5.6)

    monkeypatch.setitem(VALUES, "relative_se", (0.4, 0.02))
    engines = {"hmc": hmc, "tempering": lambda until: result(30.0, llc=5.6)}
    agree = lambda parts: not decide_auto(parts).failed  # noqa: E731
    turns, parts = played(clock, engines, settled=agree)
    assert turns[1][0] == "tempering" and turns[-1][0] == "hmc"
    assert not decide_auto(parts).failed


# How long it takes.


@pytest.mark.parametrize(
    "gate, value, threshold, more",
    [
        ("ess_bulk", 100.0, 400.0, 300.0),
        ("relative_se", 0.04, 0.02, 300.0),
        ("rhat", 1.03, 1.01, 200.0),
        ("round_trips", 2.0, 10.0, 400.0),
    ],
)
def test_the_rate_says_how_long(gate: str, value: float, threshold: float, more: float) -> None:
    failed = Gate(gate, value, threshold, False, True, "Raise it.")
    cost = Cost({"sample": 150.0, "warmup": 30.0}, 1.0)
    tried = Attempt({}, "divergences", Cost({"sample": 50.0}, 1.0))
    found = EngineResult(1.0, 0.1, {}, (failed,), cost, 10, (tried,))
    assert seconds_to_gates(found) == pytest.approx(more)
    assert budget_that_would_do(found, 180.0) == pytest.approx(180.0 + 1.25 * more, rel=0.1)


def test_nothing_is_promised_where_nothing_is_known() -> None:
    gate = no_estimate("estimate", "Too few. Raise it.", fixable_by_more_draws=True)
    found = EngineResult(None, None, {}, (gate,), Cost(), 0)
    assert seconds_to_gates(found) is None and budget_that_would_do(found, 10.0) is None
    assert seconds_to_gates(result(9.0, "divergences")) == math.inf
    assert budget_that_would_do(result(9.0, "divergences"), 10.0) is None
    assert seconds_to_gates(result(9.0)) == 0.0


# Whole.

SPEC = {
    "model": "normal_crossing",
    "data": "small",
    "overrides": {
        "model": {"powers": [1, 2]},
        "data": {"n": 1000},
        "posterior": {"gamma": 1.0},
    },
}


def test_where_chains_diverge_replica_exchange_gives_the_number(tmp_path: Path) -> None:
    found = run_hmc_reference(SPEC, str(tmp_path / "ref.json"), budget_sec=600.0)
    assert (found["status"], found["method"]) == ("ok", "tempering")
    assert abs(found["llc_ref"] - found["llc_exact"]) < 3 * found["se_ref"]
    assert set(found["methods"]) == {"hmc", "tempering"}
    assert found["methods"]["hmc"]["attempts"][0]["because"] == "divergences"
    tried = found["methods"]["hmc"]["attempts"]
    assert tried[0]["tuning"]["target_accept"] == 0.8 and tried[0]["work"] > 0
    assert found["methods"]["tempering"]["attempts"][0]["because"] == "pilot"
    assert found["needed_budget_sec"] is None
    assert not (tmp_path / "ref.json.partial").exists()


def test_a_budget_that_ends_first_says_which_would_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lambda_hat.references.gates.RELATIVE_SE", 1e-4)
    found = run_hmc_reference(
        {"model": "quadratic", "data": "small"}, str(tmp_path / "ref.json"), budget_sec=20.0
    )
    assert found["status"] == "unreliable" and found["needed_budget_sec"] > 20.0
    assert found["reasons"][-1].endswith(f"--hmc-budget {found['needed_budget_sec']:.0f}.")


def test_while_it_runs_a_file_says_how_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chains, "CHECKPOINT_SECONDS", 0.0)
    told: list[dict[str, Any]] = []
    write = hmc_reference.write_json

    def note(path: Path, content: Any) -> None:
        write(path, content)
        if path.name == "ref.json.partial":
            told.append(read_json(path))

    monkeypatch.setattr(hmc_reference, "write_json", note)
    settings = {"num_draws": 3_000, "num_warmup": 300}
    run_hmc_reference(
        {"model": "quadratic", "data": "small"}, str(tmp_path / "ref.json"), 300.0, 1, settings
    )
    assert told[0]["llc"] is None and told[0]["seconds_to_gates"] is None
    last = told[-1]
    assert last["method"] == "hmc" and last["budget_sec"] == 300.0
    assert last["rhat"] < 1.1 and last["ess_bulk"] > 100 and last["seconds"] > 0
