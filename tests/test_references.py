"""Problem -> Reference: two routes to the exact answers, gates that real faults trip, resuming."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lambda_hat.conf import compose_problem
from lambda_hat.conf.samplers import ReferenceConfig
from lambda_hat.conf.schema import ProblemConfig
from lambda_hat.problems import Problem, build_problem, llc_exact
from lambda_hat.problems import store as problem_store
from lambda_hat.problems.problem import make_problem
from lambda_hat.references import annealing, chains, gates, hmc, smc
from lambda_hat.references.engine import Cost, EngineResult
from lambda_hat.references.gate import Gate
from lambda_hat.references.hmc import sample_hmc
from lambda_hat.references.particle_gates import check_smc_gates
from lambda_hat.references.smc import sample_smc
from lambda_hat.references.verdict import decide
from lambda_hat.runners import boundary, hmc_reference
from lambda_hat.runners.hmc_reference import run_hmc_reference
from lambda_hat.samplers import loop, program
from lambda_hat.store import Store, read_json

QUICK = ReferenceConfig(num_draws=3_000, num_warmup=300, num_particles=1_000, num_runs=5)
LONG = 300.0
"""Seconds that none of these samplers needs."""


@functools.cache
def problem(model: str, **posterior: float) -> Problem:
    spec = {"model": model, "data": "small", "overrides": {"posterior": posterior}}
    return build_problem(compose_problem(spec))


def displaced(given: Problem, shift: float) -> Problem:
    """The same data, with a w* that is no minimum, and no word about it."""
    return make_problem(given.config, given.data, given.w_star + shift, given.evidence)


def by_hmc(
    given: Problem, folder: Path, config: ReferenceConfig = QUICK, **kw: Any
) -> EngineResult:
    settings = {"budget_sec": LONG, "seed": 1, "checkpoint": folder / "hmc.ckpt", **kw}
    return sample_hmc(given, config, **settings)


def by_smc(given: Problem, config: ReferenceConfig = QUICK, **kw: Any) -> EngineResult:
    return sample_smc(given, config, **{"budget_sec": LONG, "seed": 1, **kw})


def failed(found: EngineResult) -> set[str]:
    """Names of the gates that failed; each says what must hold and what to do."""
    for gate in found.failed:
        assert gate.sentence.endswith(".")
        assert "aise" in gate.sentence or "Run" in gate.sentence
    return {gate.name for gate in found.failed}


class Ticking:
    """A clock that moves on whenever it is looked at, so that budgets end at the same draw."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 1.0
        return self.now


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Ticking()
    for module in (loop, program, chains, hmc, smc, annealing):
        monkeypatch.setattr(module, "time", clock)


# The exact answers, by two routes.


@pytest.mark.parametrize("model", ["quadratic", "normal_crossing"])
def test_hmc_and_smc_give_the_exact_answer_and_agree(model: str, tmp_path: Path) -> None:
    exact = llc_exact(problem(model))
    assert exact is not None
    parts = {"hmc": by_hmc(problem(model), tmp_path), "smc": by_smc(problem(model))}
    for part in parts.values():
        assert failed(part) == set()
        assert part.se < 0.02 * exact
        assert abs(part.llc - exact) < 3 * part.se
    verdict = decide(parts)
    assert not verdict.failed and verdict.method == "hmc"
    assert verdict.number == (parts["hmc"].llc, parts["hmc"].se)
    work = parts["hmc"].cost.work + parts["smc"].cost.work
    assert verdict.cost.work == work


def test_log_z_along_the_ladder_gives_the_same_number() -> None:
    found = by_smc(problem("quadratic"))
    diagnostics = found.diagnostics
    config = problem("quadratic").config
    h = np.asarray(config.model.curvature)
    log_z = -0.5 * np.sum(np.log1p(config.nbeta * h / config.posterior.gamma))
    assert diagnostics["log_z"] == pytest.approx(log_z, abs=0.1)
    assert diagnostics["llc_from_log_z"] == pytest.approx(found.llc, rel=0.05)


def test_the_spread_of_smc_runs_is_the_error_it_reports() -> None:
    found = [by_smc(problem("quadratic"), seed=seed) for seed in range(12)]
    spread = np.std([part.llc for part in found], ddof=1)
    # Widened for the few runs it comes from: 5 runs, Student's t at 95 %, 2.78 / 1.96.
    assert 0.6 < np.mean([part.se for part in found]) / spread < 2.5
    exact = llc_exact(problem("quadratic"))
    assert all(abs(part.llc - exact) < 4 * part.se for part in found)


# Each gate, tripped by what it is for.


def test_too_short_a_budget_lacks_draws(tmp_path: Path, ticking: None) -> None:
    short = replace(QUICK, num_warmup=100)
    found = by_hmc(problem("quadratic"), tmp_path, short, budget_sec=550.0)
    assert {"ess_bulk", "relative_se"} <= failed(found)
    assert not found.hopeless
    assert 20 <= found.draws < 100


def test_no_budget_at_all_is_said(tmp_path: Path) -> None:
    found = by_hmc(problem("quadratic"), tmp_path, budget_sec=0.0)
    assert found.llc is None and failed(found) == {"estimate"}
    found = by_smc(problem("quadratic"), budget_sec=0.0)
    assert found.llc is None and failed(found) == {"runs"}


def test_smc_runs_that_the_deadline_cuts_are_left_out(ticking: None) -> None:
    found = by_smc(problem("quadratic"), budget_sec=100.0)
    assert failed(found) == {"runs"} and 0 < found.diagnostics["num_runs"] < 3


def test_a_point_that_is_no_minimum_has_draws_below_it(tmp_path: Path) -> None:
    given = displaced(problem("quadratic"), 0.3)
    assert "below_minimum" in failed(by_hmc(given, tmp_path))
    assert "below_minimum" in failed(by_smc(given))


def test_a_point_far_from_the_minimum_has_a_negative_llc(tmp_path: Path) -> None:
    given = displaced(problem("quadratic"), 1.0)
    found = by_hmc(given, tmp_path)
    assert found.llc < 0 and {"positive", "relative_se", "below_minimum"} <= failed(found)


def test_a_gradient_left_at_a_smooth_point_shifts_the_answer(tmp_path: Path) -> None:
    given = displaced(problem("quadratic"), 0.1)
    config = given.config
    h, g = np.asarray(config.model.curvature), np.asarray(config.model.curvature) * 0.1
    shift = config.nbeta * 0.5 * np.sum(g**2 / (h + config.posterior.gamma / config.nbeta))
    given = replace(given, evidence={"status": "ok", "shift_bias": float(shift)})
    assert "shift_bias" in failed(by_hmc(given, tmp_path))
    kink = replace(given, evidence={**given.evidence, "status": "kink"})
    assert "shift_bias" not in failed(by_hmc(kink, tmp_path / "kink"))


def test_a_loose_tether_on_a_network_diverges_and_does_not_mix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No second start, with smaller steps or with longer trajectories.
    monkeypatch.setattr(hmc, "HIGHEST_TARGET_ACCEPT", 0.0)
    monkeypatch.setattr(hmc, "MOST_INTEGRATION_STEPS", 0)
    found = by_hmc(problem("small", gamma=0.001), tmp_path, replace(QUICK, num_draws=200))
    assert {"rhat", "ess_bulk", "divergences"} <= failed(found)


def test_float32_is_refused_where_it_would_come_unseen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax, "enable_x64", lambda on: contextlib.nullcontext())
    with pytest.raises(ValueError, match="float64 needs"):
        by_hmc(problem("quadratic"), tmp_path)
    with pytest.raises(ValueError, match="float64 needs"):
        by_smc(problem("quadratic"))


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")  # A bound beyond float32.
def test_draws_in_float32_fail_their_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = problem("quadratic")
    monkeypatch.setattr(jax, "enable_x64", lambda on: contextlib.nullcontext())
    monkeypatch.setattr(hmc.hmc, "DTYPE", "float32")
    assert "float64" in failed(by_hmc(given, tmp_path))


GOOD = {
    "virial_ratio": 1.0,
    "virial_se": 0.01,
    "below_minimum_fraction": 0.0,
    "unique_ancestors": 500,
    "acceptance_rate": 0.8,
    "leftover_correlation": 0.1,
}


@pytest.mark.parametrize(
    "gate, fault",
    [
        ("virial", {"virial_ratio": 1.04}),
        ("diversity", {"unique_ancestors": 3}),
        ("acceptance", {"acceptance_rate": 0.05}),
        ("moves", {"leftover_correlation": 0.95}),
    ],
)
def test_gates_of_smc(gate: str, fault: dict) -> None:
    def failed_of(diagnostics: dict) -> set[str]:
        asked = check_smc_gates(llc=1.0, se=0.01, diagnostics=diagnostics, evidence={})
        return failed(EngineResult(1.0, 0.01, diagnostics, tuple(asked), Cost(), 10))

    assert failed_of(GOOD) == set()
    assert failed_of({**GOOD, **fault}) == {gate}


# Two methods, one verdict.


def part(llc: float, se: float, *failing: str) -> EngineResult:
    gates = [Gate(name, 2.0, 1.0, False, True, f"{name} failed. Raise it.") for name in failing]
    gates.append(Gate("positive", llc, 0.0, True, False, "The LLC is positive."))
    return EngineResult(llc, se, {}, tuple(gates), Cost({"sample": 1.0}, 1.0), 10)


def test_two_that_disagree_are_unreliable() -> None:
    verdict = decide({"hmc": part(5.0, 0.03), "smc": part(5.3, 0.04)})
    (disagreement,) = verdict.failed
    assert disagreement.name == "agreement" and not disagreement.fixable_by_more_draws
    assert "6.0 joint standard errors apart" in disagreement.sentence
    assert disagreement.value == pytest.approx(6.0) and disagreement.threshold == 3.0


def test_two_that_agree_are_told_gate_by_gate() -> None:
    verdict = decide({"hmc": part(5.0, 0.03), "smc": part(5.14, 0.04)})
    assert not verdict.failed
    told = [gate.sentence for gate in verdict.gates]
    assert told[:2] == ["HMC: The LLC is positive.", "SMC: The LLC is positive."]
    assert "2.8 joint standard errors apart, at most 3." in told[2]


def test_smc_takes_over_where_chains_do_not_mix() -> None:
    verdict = decide({"hmc": part(4.0, 0.3, "rhat", "ess_bulk"), "smc": part(5.0, 0.04)})
    assert verdict.method == "smc" and verdict.number == (5.0, 0.04)
    assert not verdict.failed and [gate.name for gate in verdict.gates] == ["positive"]
    stored = verdict.parts["hmc"].to_json()
    assert [g["name"] for g in stored["gates"] if not g["passed"]] == ["rhat", "ess_bulk"]


@pytest.mark.parametrize(
    "hmc_gates, smc_gates, sentences",
    [
        (["rhat"], ["runs"], ["HMC: rhat", "SMC: runs"]),
        (["divergences"], [], ["HMC: divergences"]),
        ([], ["virial"], ["SMC: virial"]),
    ],
)
def test_otherwise_both_must_pass(hmc_gates: list, smc_gates: list, sentences: list) -> None:
    verdict = decide({"hmc": part(5.0, 0.1, *hmc_gates), "smc": part(5.0, 0.1, *smc_gates)})
    assert verdict.method == "hmc"
    assert [gate.sentence.split(" failed")[0] for gate in verdict.failed] == sentences


@pytest.mark.parametrize("value", [math.inf, math.nan, None, 0.5])
def test_a_gate_is_strict_json_and_comes_back(value: float | None) -> None:
    gate = Gate("relative_se", value, 0.02, False, True, "It is too wide. Raise it.")
    stored = json.loads(json.dumps(gate.to_json(), allow_nan=False))
    finite = value if value == 0.5 else None
    assert Gate.from_json(stored) == replace(gate, value=finite)


# Killed and continued.


def killing(save: Callable, after: int) -> Callable:
    """`save`, and death once it has run `after` times."""
    count = 0

    def then_die(*args: Any, **kwargs: Any) -> None:
        nonlocal count
        save(*args, **kwargs)
        count += 1
        if count == after:
            raise KeyboardInterrupt

    return then_die


@pytest.mark.parametrize("after", [2, 12])  # In warm-up, and after it.
def test_killed_hmc_goes_on_and_ends_where_it_would_have(
    after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = by_hmc(problem("quadratic"), tmp_path / "whole")
    monkeypatch.setattr(program, "CHUNK_DRAWS", 256)
    monkeypatch.setattr(chains, "CHECKPOINT_SECONDS", 0.0)
    save = chains.save_checkpoint
    steps: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(chains, "save_checkpoint", killing(save, after))
        with pytest.raises(KeyboardInterrupt):
            by_hmc(problem("quadratic"), tmp_path)

    def note(*args: Any, **kwargs: Any) -> None:
        steps.append(kwargs["progress"].step)
        save(*args, **kwargs)

    stored = hmc.load_checkpoint(tmp_path / "hmc.ckpt", identity=_identity("quadratic"))
    assert stored is not None
    monkeypatch.setattr(chains, "save_checkpoint", note)
    again = by_hmc(problem("quadratic"), tmp_path)
    assert steps[0] > after
    assert (again.llc, again.se) == (whole.llc, whole.se)
    assert again.cost.work == whole.cost.work and again.draws == whole.draws


def _identity(model: str) -> str:
    return hmc.identity_of(problem(model), QUICK, 1)


@pytest.mark.parametrize("sample, budget", [(sample_hmc, 400.0), (sample_smc, 70.0)])
def test_a_budget_cut_in_pieces_gives_the_same_reference(
    sample: Callable,
    budget: float,
    tmp_path: Path,
    ticking: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Many runs whose budget ends too early, each going on where the last one stopped."""
    monkeypatch.setattr(gates, "RELATIVE_SE", 0.05)  # All draws that are asked for are enough.
    short = replace(QUICK, num_draws=600, num_warmup=100)

    def run(checkpoint: str, budget_sec: float) -> EngineResult:
        where = {"seed": 1, "checkpoint": tmp_path / checkpoint}
        return sample(problem("quadratic"), short, budget_sec=budget_sec, **where)

    whole = run("whole", 1e6)
    assert failed(whole) == set()
    draws, found = [-1], whole
    while draws[-1] < whole.draws:
        found = run("parts", budget * len(draws))
        draws.append(found.draws)
    assert len(set(draws)) > 3 and draws == sorted(draws)
    for name in ("llc", "se", "draws", "diagnostics", "gates"):
        assert getattr(found, name) == getattr(whole, name), name
    assert found.cost.work == whole.cost.work


@pytest.mark.parametrize("method", ["hmc", "smc"])
def test_a_reference_gets_there_over_many_short_walltimes(
    method: str, tmp_path: Path, ticking: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every run is killed at its second checkpoint, until one ends before."""
    monkeypatch.setattr(gates, "RELATIVE_SE", 0.03)
    settings = {"method": method, "num_draws": 200, "num_warmup": 100, "num_runs": 9}
    whole = reference(tmp_path / "whole", settings=settings, budget_sec=1e6)
    monkeypatch.setattr(chains, "CHECKPOINT_SECONDS", 150.0)  # Ticks, about three a draw.
    module, name = (chains, "save_checkpoint") if method == "hmc" else (smc, "write_json")
    save, found, kills = getattr(module, name), None, 0
    while found is None and kills < 100:
        monkeypatch.setattr(module, name, killing(save, 2))
        try:
            found = reference(tmp_path / "parts", settings=settings, budget_sec=1e6)
        except KeyboardInterrupt:
            kills += 1
    assert found is not None and kills > 3
    for name in ("llc_ref", "se_ref", "status", "reasons", "work", "diagnostics"):
        assert found[name] == whole[name], name


def test_a_finished_reference_asked_again_draws_nothing(tmp_path: Path) -> None:
    first = by_hmc(problem("quadratic"), tmp_path)
    again = by_hmc(problem("quadratic"), tmp_path)
    assert again.llc == first.llc and again.cost.work == first.cost.work
    assert again.cost.seconds["sample"] == first.cost.seconds["sample"]


def test_other_settings_do_not_go_on_from_these_chains(tmp_path: Path) -> None:
    first = by_hmc(problem("quadratic"), tmp_path)
    other = by_hmc(problem("quadratic"), tmp_path, seed=2)
    assert other.llc != first.llc and other.draws == first.draws


@pytest.mark.parametrize("damage", ["garbage", "truncated", "flipped"])
def test_a_damaged_checkpoint_is_set_aside(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, path = by_hmc(problem("quadratic"), tmp_path), tmp_path / "hmc.ckpt"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    broken = {"garbage": b"no checkpoint", "truncated": bytes(raw[:500]), "flipped": bytes(raw)}
    path.write_bytes(broken[damage])
    with caplog.at_level(logging.WARNING):
        again = by_hmc(problem("quadratic"), tmp_path)
    assert again.llc == first.llc and "damaged" in caplog.text
    assert [kept.read_bytes() for kept in tmp_path.glob("hmc.ckpt.broken-*")] == [broken[damage]]


def test_finished_smc_runs_are_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, runs = by_smc(problem("quadratic")), tmp_path / "runs.json"
    with monkeypatch.context() as patch:
        patch.setattr(smc, "write_json", killing(smc.write_json, 2))
        with pytest.raises(KeyboardInterrupt):
            by_smc(problem("quadratic"), checkpoint=runs)
    assert len(read_json(runs)["runs"]) == 2
    again = by_smc(problem("quadratic"), checkpoint=runs)
    assert (again.llc, again.se) == (whole.llc, whole.se)
    monkeypatch.setattr(smc, "Run", None)
    assert by_smc(problem("quadratic"), checkpoint=runs).llc == whole.llc


def test_smc_makes_more_runs_while_its_error_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    first = by_smc(problem("quadratic"))
    monkeypatch.setattr(gates, "RELATIVE_SE", 0.5 * first.se / first.llc)
    found = by_smc(problem("quadratic"))
    assert failed(found) == set()
    assert found.diagnostics["num_runs"] > first.diagnostics["num_runs"] == QUICK.num_runs


def test_damaged_smc_runs_are_set_aside(tmp_path: Path) -> None:
    runs = tmp_path / "runs.json"
    runs.write_text("[1,")
    by_smc(problem("quadratic"), checkpoint=runs)
    assert len(list(tmp_path.glob("runs.json.broken-*"))) == 1


def test_the_seed_of_smc_decides() -> None:
    first, again, other = (by_smc(problem("quadratic"), seed=seed).llc for seed in (1, 1, 2))
    assert first == again != other


def test_particles_evaluated_in_batches_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = by_smc(problem("quadratic")).llc
    monkeypatch.setattr("lambda_hat.references.particles.BATCH_NUMBERS", {"cpu": 600})
    assert by_smc(problem("quadratic")).llc == pytest.approx(whole, rel=1e-9)


def test_losses_that_overflow_everywhere_end_the_ladder() -> None:
    given = problem("quadratic")
    given = replace(given, data={"curvature": np.full_like(given.data["curvature"], np.nan)})
    with pytest.raises(FloatingPointError, match="must rise"):
        by_smc(given)


# ref.json.

FIELDS = (
    "llc_ref se_ref llc_exact rlct status reasons diagnostics settings runtime_sec work n d beta "
    "gamma init_loss problem versions method methods pid target gates"
).split()


def reference(folder: Path, *, model: str = "quadratic", **kw: Any) -> dict:
    settings = asdict(QUICK) | kw.pop("settings", {})
    out = folder / "artifacts" / "problems" / "p" / "ref.json"
    spec = {"model": model, "data": "small"}
    return run_hmc_reference(spec, str(out), **{"budget_sec": LONG, **kw}, settings=settings)


def test_ref_json_holds_what_the_contract_says(tmp_path: Path) -> None:
    found = reference(tmp_path)
    path = tmp_path / "artifacts" / "problems" / "p" / "ref.json"
    assert read_json(path) == found and set(FIELDS) <= set(found)
    assert found["status"] == "ok" and found["reasons"] == [] and found["method"] == "hmc"
    assert {gate["name"] for gate in found["gates"]} >= {"rhat", "ess_bulk", "virial", "float64"}
    assert all(gate["passed"] and gate["sentence"].endswith(".") for gate in found["gates"])
    assert found["llc_exact"] == pytest.approx(llc_exact(problem("quadratic")))
    assert found["rlct"] == {"value": 1.5, "multiplicity": 1}
    store = Store.at(tmp_path / "artifacts", tmp_path)
    assert found["target"] == store.target_id(found["pid"]) is not None


def test_a_reference_that_passed_is_not_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = reference(tmp_path)
    monkeypatch.setattr(hmc_reference, "sample_reference", None)
    assert reference(tmp_path) == first


def gone(folder: Path) -> None:
    """Deletes what is stored of all targets, here and in this worker's memory."""
    for path in folder.rglob("target.[jn]*"):
        path.unlink()
    boundary.load_problem.cache_clear()


def test_a_target_that_comes_out_the_same_keeps_its_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = reference(tmp_path)
    gone(tmp_path)
    monkeypatch.setattr(hmc_reference, "sample_reference", None)
    assert reference(tmp_path) == first


@pytest.mark.parametrize("method", ["hmc", "smc"])
def test_a_target_that_comes_out_as_another_gets_its_own_reference(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it does on another processor; its chains and particles are not those of the first."""
    first = reference(tmp_path, settings={"method": method})
    assert first["notices"] == []
    gone(tmp_path)
    build = problem_store.build_problem

    def stiffer(config: ProblemConfig) -> Problem:
        built = build(config)
        curvature = 100.0 * built.data["curvature"]
        return make_problem(config, {"curvature": curvature}, built.w_star, built.evidence)

    monkeypatch.setattr(problem_store, "build_problem", stiffer)
    again = reference(tmp_path, settings={"method": method})
    assert again["status"] == "ok" and again["target"] != first["target"]
    assert again["llc_ref"] > first["llc_ref"] + 3 * math.hypot(first["se_ref"], again["se_ref"])
    given = problem("quadratic")
    stiffness = 100.0 * given.config.nbeta * given.data["curvature"]
    exact = 0.5 * float(np.sum(stiffness / (stiffness + given.config.posterior.gamma)))
    assert again["llc_ref"] == pytest.approx(exact, abs=4 * again["se_ref"])
    assert len(again["notices"]) == 1 and f"it is {again['target']}" in again["notices"][0]
    monkeypatch.setattr(hmc_reference, "sample_reference", None)
    assert reference(tmp_path, settings={"method": method}) == {**again, "notices": []}


def test_an_unreliable_reference_goes_on_with_more_budget_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = reference(tmp_path, budget_sec=0.0)
    assert (
        first["status"] == "unreliable"
        and first["fixable_by_more_draws"]
        and first["llc_ref"] is None
    )
    with monkeypatch.context() as patch:
        patch.setattr(hmc_reference, "sample_reference", None)
        assert reference(tmp_path, budget_sec=0.0) == first
    assert reference(tmp_path)["status"] == "ok"


def test_a_budget_too_short_for_training_is_said_and_a_larger_one_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "artifacts" / "problems" / "p" / "ref.json"
    endless = {"model": "small", "data": "small", "overrides": {"training": {"steps": 10**9}}}
    first = run_hmc_reference(endless, str(out), budget_sec=1.0)
    assert (
        first["status"] == "unreliable"
        and first["fixable_by_more_draws"]
        and first["llc_ref"] is None
    )
    assert first["reasons"][0].startswith("Training must end within the budget, but had taken")
    assert "Raise --hmc-budget" in first["reasons"][0] and first["traceback"] is None
    assert 0 < first["runtime_sec"] < 10.0  # Compiling is not interrupted.
    assert read_json(out) == first and not list(tmp_path.rglob("target.[jn]*"))
    loads: list[int] = []
    load = hmc_reference.load_problem
    monkeypatch.setattr(hmc_reference, "load_problem", lambda *a: loads.append(1) or load(*a))
    assert run_hmc_reference(endless, str(out), budget_sec=1.0) == first and not loads
    again = run_hmc_reference(endless, str(out), budget_sec=1.1)
    assert loads and again["budget_sec"] == 1.1 and again["reasons"] != first["reasons"]


@pytest.mark.parametrize("method", ["smc", "both"])
def test_the_method_is_chosen_and_recorded(method: str, tmp_path: Path) -> None:
    found = reference(tmp_path, settings={"method": method})
    assert found["status"] == "ok", found["reasons"]
    assert found["method"] == ("smc" if method == "smc" else "hmc")
    assert set(found["methods"]) == ({"smc"} if method == "smc" else {"hmc", "smc"})
    chosen = found["methods"][found["method"]]
    assert (found["llc_ref"], found["se_ref"]) == (chosen["llc"], chosen["se"])
    assert found["runtime_sec"] == pytest.approx(sum(found["seconds"].values()))


def test_a_fault_of_the_code_is_told_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **kwargs: Any) -> dict:
        raise FloatingPointError("The temperature must rise, but does not. Raise gamma.")

    with monkeypatch.context() as patch:
        patch.setattr(hmc_reference, "sample_reference", broken)
        found = reference(tmp_path)
    assert found["status"] == "unreliable" and "must rise" in found["reasons"][0]
    assert "broken" in found["traceback"]
    assert reference(tmp_path)["status"] == "ok"


def test_float64_is_on_only_inside(tmp_path: Path) -> None:
    by_hmc(problem("quadratic"), tmp_path)
    assert jnp.asarray(np.float64(1)).dtype == jnp.float32
