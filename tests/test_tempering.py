"""Replica exchange: exact answers on singular posteriors, basins weighed, resuming."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from lambda_hat.conf import compose_problem
from lambda_hat.conf.samplers import ReferenceConfig
from lambda_hat.problems import Problem, build_problem, llc_exact
from lambda_hat.references import chains, exchange, ladder, rung_metric, tempering
from lambda_hat.references.engine import EngineResult
from lambda_hat.references.gates import check_round_trips
from lambda_hat.references.hmc import sample_hmc
from lambda_hat.references.tempering import sample_tempering
from lambda_hat.references.verdict import sample_reference
from lambda_hat.samplers import loop, program
from lambda_hat.target import Target, loss, make_target

N = 1000
LONG = 600.0
"""Seconds that none of these needs."""


@functools.cache
def problem(model: str, **values: Any) -> Problem:
    over = {"data": {"n": N}, "model": values, "posterior": {"gamma": 1.0}}
    return build_problem(compose_problem({"model": model, "data": "small", "overrides": over}))


def tempered(given: Any, folder: Path, **settings: Any) -> EngineResult:
    asked = {"budget_sec": LONG, "seed": 1, "checkpoint": folder / "ladders.ckpt"}
    return sample_tempering(given, ReferenceConfig(), **{**asked, **settings})


def failed(result: EngineResult) -> list[str]:
    return [gate.name for gate in result.failed]


# Exact answers where chains at one temperature diverge or creep.


@pytest.mark.parametrize(
    "model, values",
    [
        ("normal_crossing", {"powers": (3,)}),
        ("normal_crossing", {"powers": (1, 2)}),
        ("normal_crossing", {"powers": (2, 2)}),
        ("normal_crossing", {"powers": (1, 1, 1)}),
        ("deep_linear", {"widths": (3, 3, 1)}),
        ("deep_linear", {"widths": (4, 3, 2)}),
    ],
)
def test_singular_posteriors_pass_their_gates(model: str, values: dict, tmp_path: Path) -> None:
    given = problem(model, **values)
    exact, found = llc_exact(given), tempered(given, tmp_path)
    assert exact is not None and found.llc is not None and found.se is not None
    assert failed(found) == []
    assert found.se <= 0.02 * found.llc
    assert abs(found.llc - exact) < 3 * found.se
    assert found.cost.seconds["warmup"] + found.cost.seconds["sample"] < 60.0


def test_the_ladder_has_log_z_and_the_llc_at_every_temperature(tmp_path: Path) -> None:
    given = problem("quadratic", curvature=(1.0, 4.0, 0.1))
    found = tempered(given, tmp_path).diagnostics
    h, nbeta = np.array([1.0, 4.0, 0.1]), given.config.nbeta
    log_z = -0.5 * np.sum(np.log1p(nbeta * h))
    assert abs(found["log_z"] - log_z) < 4 * found["log_z_se"]
    heat = nbeta * np.array(found["temperatures"])[:, None] * h
    exact = np.sum(0.5 * heat / (heat + 1.0), axis=1)
    off = np.abs(np.array(found["llc_by_temperature"]) - exact)
    assert (off <= 5 * np.array(found["llc_by_temperature_se"]) + 1e-12).all()


# Two basins.


@dataclass(frozen=True)
class TwoBasins:
    """L(w) = w_1^2 (steep (w_1 - apart)^2 + floor) + w_2^2 / 2: a second basin, higher up."""

    steep: float = 0.5
    apart: float = 2.0
    floor: float = 0.25 / 145
    has_rows: bool = False

    def losses(self, w: Array, data: Any) -> Array:
        well = w[0] ** 2 * (self.steep * (w[0] - self.apart) ** 2 + self.floor)
        return (well + 0.5 * w[1] ** 2)[None]


@dataclass(frozen=True)
class Toy:
    """What an engine asks of a problem."""

    pid = "p_two_basins"
    target_id = "t_two_basins"
    init_loss = 0.0
    gamma = 0.2
    nbeta = N / np.log(N)

    @property
    def evidence(self) -> dict[str, Any]:
        return {"status": "exact"}

    def target(self, dtype: str) -> Target:
        return make_target(
            TwoBasins(),
            np.zeros(1),
            np.zeros(2),
            nbeta=self.nbeta,
            gamma=self.gamma,
            n=N,
            init_loss=0.0,
            dtype=dtype,
        )

    @property
    def exact(self) -> tuple[float, float]:
        """The LLC, and the weight of the second basin, by quadrature."""
        x, form = np.linspace(-3.0, 5.0, 400_001), TwoBasins()
        well = x**2 * (form.steep * (x - form.apart) ** 2 + form.floor)
        density = np.exp(-self.nbeta * well - 0.5 * self.gamma * x**2)
        density /= density.sum()
        other = 0.5 * self.nbeta / (self.nbeta + self.gamma)
        return float(self.nbeta * density @ well + other), float(density[x > 1.0].sum())


def test_two_basins_are_weighed_that_chains_of_one_temperature_never_see(tmp_path: Path) -> None:
    toy: Any = Toy()
    llc, weight = toy.exact
    assert 0.1 < weight < 0.3
    asked = {"budget_sec": LONG, "seed": 1, "checkpoint": tmp_path / "chains.ckpt"}
    blind = sample_hmc(toy, ReferenceConfig(), **asked)
    assert blind.llc is not None and blind.se is not None
    assert blind.llc < llc - 10 * blind.se and failed(blind) == []  # Wrong, and sure of it.
    found = tempered(toy, tmp_path)
    assert found.llc is not None and found.se is not None and failed(found) == []
    assert abs(found.llc - llc) < 3 * found.se
    assert min(found.diagnostics["round_trips"]) > 100


@pytest.mark.parametrize("seed", [1, 2])
def test_a_reference_of_two_basins_is_right_or_unreliable(seed: int, tmp_path: Path) -> None:
    """HMC's chains never leave the first basin; short chains from elsewhere find the second."""
    toy: Any = Toy()
    asked = {"budget_sec": LONG, "seed": seed, "folder": tmp_path}
    verdict = sample_reference(toy, ReferenceConfig(), **asked)
    blind = verdict.parts["hmc"]
    assert failed(blind) == ["elsewhere"] and blind.llc is not None
    assert abs(blind.diagnostics["elsewhere_llc"] - toy.exact[0]) < abs(blind.llc - toy.exact[0])
    llc, se = verdict.number
    assert verdict.method == "tempering" and verdict.failed == () and llc and se
    assert abs(llc - toy.exact[0]) < 3 * se


def test_too_little_time_to_see_both_basins_is_unreliable(tmp_path: Path) -> None:
    """A budget that is spent by the time that HMC passes, blind as it is."""
    toy: Any = Toy()
    asked = {"budget_sec": LONG, "seed": 1, "checkpoint": tmp_path / "hmc_chains.ckpt"}
    blind = sample_hmc(toy, ReferenceConfig(), **asked)
    asked = {"budget_sec": blind.cost.total, "seed": 1, "folder": tmp_path}
    verdict = sample_reference(toy, ReferenceConfig(), **asked)
    assert failed(blind) == [] and verdict.failed


# Ladders.


def test_temperatures_are_moved_to_where_rejections_are_equal() -> None:
    """On a quadratic of many dimensions the barrier grows evenly in log t, beyond the tether's."""
    temperatures = jnp.array([0.0, 1e-3, 1e-2, 0.5, 1.0])
    rejection = jnp.array([0.1, 0.4, 0.4, 0.1])
    moved = np.asarray(ladder.equal_rejection(temperatures, rejection, 9))
    assert moved[0] == 0.0 and moved[-1] == 1.0 and (np.diff(moved) > 0).all()
    barrier = np.concatenate([[0.0], np.cumsum(rejection)])
    x = np.log1p(np.asarray(temperatures) / 1e-3)
    at = np.interp(np.log1p(moved / 1e-3), x, barrier)
    assert np.diff(at) == pytest.approx(np.full(8, 1.0 / 8), rel=1e-4)


def test_a_high_barrier_gets_more_rungs() -> None:
    assert [ladder.num_rungs(barrier) for barrier in (0.5, 3.5, 6.0, 10.0, 40.0)] == [
        8, 8, 13, 21, 24,
    ]  # fmt: skip


def test_rungs_that_are_far_apart_are_told_from_rungs_that_are_farther() -> None:
    apart = np.array([0.01, 0.5, 1.0, 1.5])
    for barrier in apart:  # Of two normal distributions of the loss, by their overlap.
        shift = np.sqrt(np.pi) * barrier * np.random.default_rng(0).normal(size=(2, 400_000))
        rejection = 1.0 - np.exp(np.minimum(shift.sum(axis=0) - np.pi * barrier**2, 0.0)).mean()
        assert ladder.barrier_of(np.full(3, rejection)) == pytest.approx(3 * barrier, rel=0.02)
    assert ladder.barrier_of(np.ones(7)) < 15.0


@pytest.mark.parametrize("dense", [True, False])
def test_a_metric_of_gradients_is_the_covariance_of_a_normal_distribution(dense: bool) -> None:
    root = np.array([[2.0, 0.0, 0.0], [1.0, 0.1, 0.0], [0.0, 0.3, 0.02]])
    normal = np.random.default_rng(0).normal(size=(200_000, 3, 1))
    score = np.linalg.solve(root.T, normal)[..., 0]
    exact = root @ root.T if dense else 1 / (score**2).mean(axis=0)

    def metric_of(count: int) -> np.ndarray:
        old = jnp.asarray(np.eye(3) if dense else np.ones(3))[None]
        moments = rung_metric.observe(rung_metric.no_moments(old), jnp.asarray(score[None, :count]))
        return np.asarray(rung_metric.covariance_of(moments, old))[0]

    with jax.enable_x64(True):
        assert metric_of(200_000) == pytest.approx(exact, rel=0.03, abs=1e-3)
        assert np.abs(metric_of(4)).max() < 2.0, "four draws do not make a metric"


@pytest.mark.parametrize("dense_up_to", [0, 256])
def test_replicas_carry_the_loss_and_its_gradient_where_they_stand(dense_up_to: int) -> None:
    """They are not evaluated again after a transition, whatever coordinates it was in."""
    with jax.enable_x64(True):
        target = problem("deep_linear", widths=(3, 3, 1)).target(exchange.DTYPE)
        config = exchange.Config((0.0, 1e-4, 0.05, 1.0), 4, 20, 40, 0.8, 1.0, 5, dense_up_to)
        runner = loop.Runner(exchange, target, config, key=jax.random.key(0))
        state = runner.run(num_draws=20).state
        at = jax.vmap(jax.vmap(jax.value_and_grad(lambda w: loss(target.form, target.arrays, w))))
        value, slope = at(state.replicas.position)
    assert state.replicas.loss == pytest.approx(np.asarray(value), rel=1e-9)
    assert state.replicas.slope == pytest.approx(np.asarray(slope), rel=1e-7, abs=1e-10)


BEGINNING = """
import jax
import numpy as np

from lambda_hat.conf import compose_problem
from lambda_hat.problems import build_problem
from lambda_hat.references import exchange
from lambda_hat.samplers.loop import Runner

problem = build_problem(compose_problem({"model": "small", "data": "small"}))
temperatures = (0.0, *np.geomspace(1e-4, 1.0, 19).tolist())
with jax.enable_x64(True):
    target = problem.target(exchange.DTYPE)
    config = exchange.Config(temperatures, 4, 20, 40, 0.8, 1.0, 5, 256)
    for seed in range(5):
        Runner(exchange, target, config, key=jax.random.key(seed))
"""


def test_ladders_of_many_rungs_begin_in_a_process_of_two_threads() -> None:
    """Batches of Cholesky factors that are computed side by side wait for each other for good."""
    command = [sys.executable, "-c", BEGINNING]
    subprocess.run(command, env={**os.environ, "NPROC": "2"}, timeout=240, check=True)


def test_rounds_double_and_fill_the_warm_up() -> None:
    for num_warmup in (31, 250, 1000):
        rounds = ladder.rounds_of(num_warmup)
        lengths = np.diff([-1, *rounds.closes])
        assert rounds.closes[-1] == num_warmup - 1 == rounds.end - 1
        assert lengths[1:] / lengths[:-1] == pytest.approx(np.full(4, 2.0), rel=0.6)


def test_a_ladder_that_nothing_climbs_is_not_believed() -> None:
    gate = check_round_trips([30, 2, 40, 50])
    assert not gate.passed and gate.fixable_by_more_draws and gate.value == 2
    assert check_round_trips([30, 20, 40, 50]).passed


# Killed and continued.


class Ticking:
    """A clock that moves on whenever it is looked at, so that budgets end at the same draw."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 1.0
        return self.now


def test_a_budget_cut_in_pieces_gives_the_same_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Ticking()
    for module in (loop, program, chains, tempering):
        monkeypatch.setattr(module, "time", clock)
    given = problem("quadratic", curvature=(1.0, 4.0, 0.1))
    whole = tempered(given, tmp_path / "whole", budget_sec=1e9)
    assert failed(whole) == []
    draws, found = [], tempered(given, tmp_path / "parts", budget_sec=300.0)
    while found.draws < whole.draws or found.failed:
        draws.append((found.diagnostics.get("pilot"), found.draws))
        found = tempered(given, tmp_path / "parts", budget_sec=300.0 * (len(draws) + 1))
        assert len(draws) < 100
    assert len(set(draws)) > 3
    assert (found.llc, found.se, found.draws) == (whole.llc, whole.se, whole.draws)
    assert found.cost.work == whole.cost.work and found.gates == whole.gates
    assert dict(found.diagnostics) == dict(whole.diagnostics)


def test_a_killed_run_goes_on_and_ends_where_it_would_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = problem("normal_crossing", powers=(1, 2))
    whole = tempered(given, tmp_path / "whole")
    monkeypatch.setattr(chains, "CHECKPOINT_SECONDS", 0.0)
    save, kills = chains.save_checkpoint, 0
    found = None
    while found is None:
        count = 0

        def save_and_die(*args: Any, **kwargs: Any) -> None:
            nonlocal count
            save(*args, **kwargs)
            count += 1
            if count == 4:
                raise KeyboardInterrupt

        monkeypatch.setattr(chains, "save_checkpoint", save_and_die)
        try:
            found = tempered(given, tmp_path / "parts")
        except KeyboardInterrupt:
            kills += 1
    assert kills > 2
    assert (found.llc, found.se) == (whole.llc, whole.se)
    assert found.cost.work == whole.cost.work


def test_draws_do_not_depend_on_the_precision_of_the_caller(tmp_path: Path) -> None:
    """The whole engine runs in float64, wherever it is called from."""
    assert not jax.config.read("jax_enable_x64")
    found = tempered(problem("quadratic", curvature=(1.0, 4.0, 0.1)), tmp_path)
    assert "float64" not in failed(found)
