"""Chains end where they are precise enough: at fixed draws, and never by the clock."""

from __future__ import annotations

import functools
import itertools
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lambda_hat.conf import compose_problem
from lambda_hat.conf.samplers import ReferenceConfig
from lambda_hat.problems import Problem, build_problem, llc_exact
from lambda_hat.references import chains, elsewhere
from lambda_hat.references.engine import Cost, EngineResult
from lambda_hat.references.gate import Gate
from lambda_hat.references.hmc import confirm_hmc, sample_hmc
from lambda_hat.references.stopping import is_precise, looks
from lambda_hat.runners import hmc_reference
from lambda_hat.runners.hmc_reference import run_hmc_reference
from lambda_hat.samplers import loop
from lambda_hat.store import read_json, write_json
from lambda_hat.trial import Reference
from lambda_hat.tuning.reference_plan import ReferencePlan

LOOSE = ReferenceConfig(num_draws=4_000, num_warmup=300, relative_se=0.015)
SPEC = {"model": "linear", "data": "small"}
LONG = 300.0


@functools.cache
def linear() -> Problem:
    return build_problem(compose_problem(SPEC))


def by_hmc(folder: Path, config: ReferenceConfig = LOOSE, **kw: Any) -> EngineResult:
    settings = {"budget_sec": LONG, "seed": 1, "checkpoint": folder / "hmc.ckpt", **kw}
    return sample_hmc(linear(), config, **settings)


def test_looks_are_few_and_end_with_all_draws() -> None:
    found = list(itertools.islice(looks(10_000), 8))
    assert found == [1000, 1500, 2250, 3375, 5063, 7595, 10_000, 15_000]
    assert list(itertools.islice(looks(600), 2)) == [600, 900]


def test_precise_chains_end_before_all_draws_are_made(tmp_path: Path) -> None:
    found = by_hmc(tmp_path)
    assert found.passed and found.draws in (1500, 2250, 3375)
    assert found.llc and found.se and found.se <= 0.015 * found.llc
    every = by_hmc(tmp_path / "all", replace(LOOSE, relative_se=0.0))
    assert every.passed and every.draws == 4_000


def test_a_run_in_pieces_ends_at_the_same_draw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces that end anywhere, looks among them, as a walltime or a slow machine would."""
    whole = by_hmc(tmp_path / "whole")
    draw, pieces = chains.Chains.draw, []

    def cut(self: chains.Chains, num_draws: int, deadline: float) -> None:
        until = min(num_draws, self.num_draws + 400)
        pieces.append(until)
        draw(self, until, deadline)

    monkeypatch.setattr(chains.Chains, "draw", cut)
    found = by_hmc(tmp_path / "parts")
    while not found.finished:
        found = by_hmc(tmp_path / "parts")
    assert len(pieces) > 3
    assert (found.llc, found.se, found.draws) == (whole.llc, whole.se, whole.draws)


def test_a_machine_that_runs_smaller_chunks_ends_at_the_same_draw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = by_hmc(tmp_path / "whole")
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 1e-3)
    found = by_hmc(tmp_path / "slow")
    assert (found.llc, found.se, found.draws) == (whole.llc, whole.se, whole.draws)


GOOD = {"rhat": 1.001, "ess_bulk": 3000.0, "ess_tail": 3000.0}
FAILED = Gate("virial", 4.0, 3.0, False, True, "It fails.")


@pytest.mark.parametrize(
    "fault",
    [{"rhat": 1.006}, {"ess_bulk": 900.0}, {"ess_tail": 900.0}, {"se": 0.03}, {"gates": (FAILED,)}],
)
def test_precision_is_not_all_that_is_asked_for(fault: dict[str, Any]) -> None:
    def precise(se: float = 0.02, gates: tuple = (), **numbers: float) -> bool:
        result = EngineResult(5.0, se, {**GOOD, **numbers}, gates, Cost(), 1000)
        return is_precise(result, 0.005)

    assert precise() and not precise(**fault)


def test_short_chains_see_as_much_as_if_all_draws_had_been_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    look = elsewhere.look_elsewhere

    def note(*args: Any, **kwargs: Any) -> elsewhere.Elsewhere:
        seen.append((found := look(*args, **kwargs)).most_draws)
        return found

    monkeypatch.setattr("lambda_hat.references.hmc.look_elsewhere", note)
    for config in (LOOSE, replace(LOOSE, relative_se=0.0)):
        result = by_hmc(tmp_path, config)
        given = {"budget_sec": LONG, "seed": 1, "checkpoint": tmp_path / "hmc.ckpt"}
        assert confirm_hmc(linear(), config, result, **given).passed
    assert seen[0] == seen[1] > 20


# Stored references.


def stored(folder: Path, **settings: Any) -> dict[str, Any]:
    given = {**asdict(LOOSE), "method": "hmc", **settings}
    out = folder / "artifacts" / "problems" / "p" / "ref.json"
    return run_hmc_reference(SPEC, str(out), LONG, settings=given)


def test_a_stored_reference_stands_for_every_wider_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = stored(tmp_path)
    assert first["status"] == "ok" and first["methods"]["hmc"]["draws"] < 4_000
    with monkeypatch.context() as patch:
        patch.setattr(hmc_reference, "sample_reference", None)
        assert stored(tmp_path, relative_se=0.02) == first
    more = stored(tmp_path, relative_se=0.0)
    assert more["methods"]["hmc"]["draws"] == 4_000 and more["se_ref"] < first["se_ref"]


def test_a_reference_of_an_earlier_version_with_all_draws_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(tmp_path, relative_se=0.0)
    path = tmp_path / "artifacts" / "problems" / "p" / "ref.json"
    old = read_json(path)
    del old["settings"]["relative_se"]
    write_json(path, old)
    monkeypatch.setattr(hmc_reference, "sample_reference", None)
    assert stored(tmp_path) == {**old, "notices": []}


@pytest.mark.parametrize(("was", "asked", "final"), [
    ({}, 0.005, True), ({}, 0.0, True), ({"relative_se": 0.005}, 0.01, True),
    ({"relative_se": 0.005}, 0.005, True), ({"relative_se": 0.005}, 0.0, False),
])  # fmt: skip
def test_the_driver_asks_for_what_is_not_precise_enough(
    was: dict[str, float], asked: float, final: bool
) -> None:
    reference = Reference(5.0, 0.02, "ok", settings={"num_draws": 10_000, **was})
    plan = ReferencePlan(settings={"num_draws": 10_000, "relative_se": asked})
    assert plan.is_final(reference) is final


@pytest.mark.slow
def test_the_interval_covers_where_the_draws_end_by_themselves(tmp_path: Path) -> None:
    config = replace(LOOSE, num_draws=10_000)
    found = [by_hmc(tmp_path / str(seed), config, seed=seed) for seed in range(60)]
    assert all(one.passed for one in found)
    assert len({one.draws for one in found}) > 1, "they end at different draws"
    llc, se = (np.array([getattr(one, name) for one in found]) for name in ("llc", "se"))
    exact = llc_exact(linear())
    assert exact is not None
    assert 0.90 <= np.mean(np.abs(llc - exact) < 1.96 * se) <= 1.0
    assert abs(llc.mean() - exact) < 3 * llc.std() / np.sqrt(len(llc))
