"""What the variational sampler claims: exact on Gaussians, honest where its family is not."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import known_answers
import numpy as np
import pytest
import targets
from jaxtyping import Array
from scipy import stats

from lambda_hat.conf.compose import compose_problem
from lambda_hat.conf.samplers import VIConfig
from lambda_hat.conf.search_space import SEARCH_SPACE
from lambda_hat.diagnostics import weighed
from lambda_hat.llc import Estimate, NoEstimate, estimate_llc
from lambda_hat.problems import build_problem
from lambda_hat.problems.exact import product_llc
from lambda_hat.samplers import annealed, loop, vi_mfa, warmup, whitening
from lambda_hat.samplers.loop import Runner
from lambda_hat.samplers.mixture import Mixture, density_of, log_density, pack, place, unpack
from lambda_hat.target import Target, make_target
from lambda_hat.trial_gates import KHAT, check_trial

N, GAMMA = 1000, 1.0
NBETA = N / np.log(N)
CURVATURE = (1.0, 4.0, 0.1)
SHORT = VIConfig(lr=0.05, M=2, r=1, steps=200, batch_size=20, num_samples=2, eval_draws=100)


@dataclass(frozen=True)
class Ellipsoid:
    """L(w) = 1/2 w^T H w, with H as data."""

    has_rows: bool = False

    def losses(self, w: Array, data: Any) -> Array:
        return 0.5 * jnp.vdot(w, data @ w)[None]


def run(target: Target, config: VIConfig, *, seed: int = 0) -> Runner:
    runner = Runner(vi_mfa, target, config, key=jax.random.key(seed))
    runner.run()
    return runner


def estimate(target: Target, config: VIConfig, *, seed: int = 0) -> tuple[float, float]:
    """(llc, its standard error) from draws that are independent."""
    scaled = target.nbeta * (run(target, config, seed=seed).draws().loss.ravel() - target.init_loss)
    return float(scaled.mean()), float(scaled.std() / np.sqrt(scaled.size))


@functools.cache
def singular(M: int, r: int = 0) -> tuple[float, float]:
    target = targets.monomial((1, 1), n=N, gamma=GAMMA, dtype="float32")
    return estimate(target, VIConfig(lr=0.05, M=M, r=r, eval_draws=100_000))


def test_the_density_is_that_of_a_mixture_of_normals():
    rng = np.random.default_rng(0)
    M, d, r = 3, 4, 2
    q = Mixture(*(jnp.asarray(rng.normal(size=s)) for s in ((M,), (M, d), (M, r, d), (M, d))))
    z = rng.normal(size=d)
    weights = np.exp(q.logits) / np.exp(q.logits).sum()
    dense = 0.0
    for m in range(M):
        loading = np.asarray(q.loading[m], np.float64)
        covariance = loading.T @ loading + np.diag(np.exp(2 * np.asarray(q.log_scale[m])))
        dense += weights[m] * stats.multivariate_normal(q.shift[m], covariance).pdf(z)
    assert np.isclose(log_density(density_of(q), jnp.asarray(z)), np.log(dense), rtol=1e-4)


def test_packing_loses_nothing():
    rng = np.random.default_rng(0)
    q = Mixture(*(jnp.asarray(rng.normal(size=s)) for s in ((2,), (2, 5), (2, 3, 5), (2, 5))))
    for before, after in zip(q, unpack(pack(q), 5), strict=True):
        assert np.array_equal(before, after)


def test_draws_have_the_covariance_of_their_component():
    loading, log_scale = jnp.asarray([[1.0, -2.0, 0.5]]), jnp.log(jnp.asarray([0.5, 1.0, 2.0]))
    noise = jax.random.normal(jax.random.key(0), (100_000, 4))
    z = np.asarray(place(noise, jnp.asarray([3.0, 0.0, -1.0]), loading, log_scale))
    exact = np.asarray(loading.T @ loading) + np.diag(np.exp(2 * np.asarray(log_scale)))
    assert np.allclose(z.mean(axis=0), [3.0, 0.0, -1.0], atol=0.03)
    assert np.allclose(np.cov(z.T), exact, atol=0.06)


@pytest.mark.parametrize("whitening_mode", ["none", "rmsprop", "adam"])
def test_llc_of_a_quadratic_to_one_percent(whitening_mode):
    target = targets.square_sum(CURVATURE, n=N, gamma=GAMMA, dtype="float32")
    config = VIConfig(M=1, r=0, whitening_mode=whitening_mode, eval_draws=80_000)
    llc, se = estimate(target, config)
    exact = targets.square_sum_llc(CURVATURE, n=N, gamma=GAMMA)
    assert se < 0.004 * exact
    assert abs(llc / exact - 1) < 0.01
    assert abs(llc - exact) < 3 * se


def test_llc_of_a_quadratic_from_minibatches():
    target = targets.noisy_squares(3, n=100, gamma=GAMMA, dtype="float32")
    llc, se = estimate(target, replace(SHORT, lr=0.003, steps=40_000, eval_draws=80_000))
    exact = targets.square_sum_llc((1.0,) * 3, n=100, gamma=GAMMA)
    assert abs(llc / exact - 1) < 0.01 and se < 0.004 * exact


def correlated() -> tuple[Target, float, float]:
    """A posterior of covariance D + a a^T, its LLC, and the LLC of its mean-field fit."""
    a = np.asarray([0.4, -0.4, 0.4, 0.4, -0.2])
    covariance = np.diag([0.01, 0.02, 0.03, 0.04, 0.05]) + np.outer(a, a)
    precision = np.linalg.inv(covariance)
    target = make_target(
        Ellipsoid(),
        (precision - GAMMA * np.eye(5)) / NBETA,
        np.zeros(5),
        nbeta=NBETA,
        gamma=GAMMA,
        n=N,
        init_loss=0.0,
        dtype="float32",
    )
    diagonal = np.diag(precision)
    return (
        target,
        0.5 * float(5 - GAMMA * np.trace(covariance)),
        0.5 * float(np.sum((diagonal - GAMMA) / diagonal)),
    )


def test_a_factor_recovers_a_correlated_gaussian_to_one_percent():
    target, exact, _ = correlated()
    llc, se = estimate(target, VIConfig(lr=0.05, M=1, r=1, eval_draws=80_000))
    assert abs(llc / exact - 1) < 0.01 and se < 0.004 * exact


def test_without_a_factor_a_correlated_gaussian_is_biased_as_computed():
    target, exact, mean_field = correlated()
    config = VIConfig(lr=0.05, M=1, r=0, steps=16_000, eval_draws=80_000)
    llc, se = estimate(target, config)
    # Where q is not the posterior, the last gradients leave the fit 0.8 % of scatter (6 fits).
    assert mean_field > 1.15 * exact
    assert abs(llc - mean_field) < 3 * np.hypot(se, 0.008 * mean_field)


def test_the_elbo_of_a_gaussian_is_its_log_normaliser_without_noise():
    target = targets.square_sum(CURVATURE, n=N, gamma=GAMMA, dtype="float32")
    summary = run(target, VIConfig(M=1, r=0)).summary()
    log_z = 0.5 * np.sum(np.log(2 * np.pi / (NBETA * np.asarray(CURVATURE) + GAMMA)))
    assert abs(summary["elbo"] - log_z) < 1e-3
    assert abs(summary["virial_ratio"] - 1) < 1e-3


def test_mean_field_on_a_normal_crossing_has_the_bias_of_its_family():
    # With q = N(0, s^2 I), minimise nbeta s^4 + gamma s^2 - 2 log s: 2 nbeta s^4 + gamma s^2 = 1.
    s2 = (-GAMMA + np.sqrt(GAMMA**2 + 8 * NBETA)) / (4 * NBETA)
    optimum = NBETA * s2**2
    assert 1.30 < optimum / 0.3614032902 < 1.31
    llc, se = singular(1)
    assert se < 0.015 * optimum
    assert abs(llc - optimum) < 3 * np.hypot(se, 0.008 * optimum)


def test_components_reduce_the_bias_on_a_normal_crossing():
    exact = 0.3614032902
    bias = [singular(M)[0] / exact - 1 for M in (1, 4)]
    assert bias[0] > 0.25
    assert abs(bias[1]) < 0.12


def test_whitening_is_the_posterior_width_of_a_quadratic():
    target = targets.square_sum(CURVATURE, n=N, gamma=GAMMA, dtype="float32")
    exact = (NBETA * np.asarray(CURVATURE) + GAMMA) ** -0.5
    for mode, tolerance in (("rmsprop", 0.15), ("adam", 0.05)):
        runner = Runner(
            vi_mfa, target, VIConfig(M=1, r=0, whitening_mode=mode), key=jax.random.key(0)
        )
        assert np.allclose(runner.progress.state.whitening, exact, rtol=tolerance)
    plain = Runner(vi_mfa, target, VIConfig(M=1, r=0, whitening_mode="none"), key=jax.random.key(0))
    assert np.array_equal(plain.progress.state.whitening, np.ones(3))


def test_the_width_solves_its_equation():
    target = targets.square_sum(CURVATURE, n=N, gamma=GAMMA, dtype="float32")
    moment = jnp.asarray([0.0, 1e-4, 1.0])
    s = whitening.width(target.arrays, moment)
    assert np.allclose(s * (NBETA * np.sqrt(moment) + GAMMA * s), 1.0, rtol=1e-5)


CHANGES = [
    {"lr": 0.1},
    {"M": 3},
    {"r": 2},
    {"whitening_mode": "none"},
    {"whitening_mode": "rmsprop"},
    {"steps": 201},
    {"batch_size": 21},
    {"num_samples": 3},
]


@functools.cache
def short_losses(config: VIConfig, seed: int = 0) -> np.ndarray:
    target = targets.noisy_squares(3, n=100, gamma=GAMMA, dtype="float32")
    return run(target, config, seed=seed).draws().loss


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: "-".join(map(str, *change.items())))
def test_every_hyperparameter_changes_the_draws(change):
    changed = short_losses(replace(SHORT, **change))
    assert np.all(np.isfinite(changed))
    assert not np.any(changed == short_losses(SHORT))


def test_every_searched_hyperparameter_is_changed_above():
    correcting = {"correction", "ais_steps"}
    assert set(SEARCH_SPACE["vi"]) - correcting <= {name for change in CHANGES for name in change}


def test_same_key_same_draws_and_another_key_others():
    again = short_losses.__wrapped__(SHORT)
    assert np.array_equal(short_losses(SHORT), again)
    assert not np.any(short_losses(SHORT, seed=1) == again)


def test_chunks_do_not_change_a_bit(monkeypatch):
    whole = short_losses(SHORT)
    for size in (1, 7):
        monkeypatch.setattr(loop, "_affordable", lambda per_draw, left, size=size: size)
        assert np.array_equal(short_losses.__wrapped__(SHORT), whole)


def test_draws_after_the_fit_are_fresh_and_the_mixture_stands_still():
    target = targets.noisy_squares(3, n=100, gamma=GAMMA, dtype="float32")
    runner = Runner(vi_mfa, target, SHORT, key=jax.random.key(0))
    runner.run(num_draws=10)
    fitted = np.asarray(runner.progress.state.flat)
    runner.run(num_draws=25)
    assert np.array_equal(runner.progress.state.flat, fitted)
    losses = runner.draws().loss
    assert losses.shape == (25, 4) and len(np.unique(losses)) == 100


def test_a_fit_cut_by_the_deadline_still_gives_a_sane_estimate():
    target = targets.square_sum(CURVATURE, n=N, gamma=GAMMA, dtype="float32")
    config = VIConfig(M=1, r=0, steps=100_000_000, eval_draws=4000)
    run(target, replace(config, steps=10))  # Compiles.
    runner = Runner(vi_mfa, target, config, key=jax.random.key(0))
    progress = runner.run(deadline=time.monotonic() + 2.0)
    assert progress.warmup_cut and progress.num_draws >= 1
    runner.run()
    llc = target.nbeta * runner.draws().loss.mean()
    assert abs(llc / targets.square_sum_llc(CURVATURE, n=N, gamma=GAMMA) - 1) < 0.2


def test_a_fit_that_its_correction_waits_for_is_cut():
    """A fit without end leaves particles the time to come to the posterior."""
    target = targets.square_sum(CURVATURE, n=N, gamma=GAMMA, dtype="float32")
    config = replace(CORRECTED, steps=100_000_000)
    run(target, CORRECTED)  # Compiles.
    runner = Runner(vi_mfa, target, config, key=jax.random.key(0))
    progress = runner.run(deadline=time.monotonic() + 6.0)
    assert progress.warmup_cut and runner.summary()["temperature"] == 1.0
    assert runner.draws().weight.min() > 0, "particles must have arrived before the first draw"
    draws, _ = weighed(runner.draws())
    found = estimate_llc(draws, nbeta=target.nbeta, init_loss=target.init_loss, trim=False)
    exact = targets.square_sum_llc(CURVATURE, n=N, gamma=GAMMA)
    assert found.se_hat < 0.05 * exact and abs(found.llc_hat - exact) < 4 * found.se_hat


def test_a_component_without_weight_is_reported():
    target = targets.noisy_squares(3, n=100, gamma=GAMMA, dtype="float32")
    runner = run(target, SHORT)
    summary = runner.summary()
    assert summary["collapsed"] == 0.0 and 1.9 < summary["components_effective"] <= 2.0
    state = runner.progress.state
    runner.progress.state = state._replace(flat=state.flat.at[0, 0].add(-20.0))
    summary = runner.summary()
    assert summary["collapsed"] == 1.0 and summary["weight_min"] < 1e-3
    assert summary["components_effective"] < 1.01
    assert all(np.isfinite(value) for value in summary.values())


def test_a_mixture_that_collapses_in_the_fit_says_so():
    target = targets.monomial((1, 1), n=N, gamma=GAMMA, dtype="float32")
    summary = run(target, VIConfig(lr=4.0, M=4, r=0, steps=500, eval_draws=100)).summary()
    assert summary["collapsed"] == 1.0 and summary["weight_min"] < 1e-3


def test_gradients_that_are_not_finite_are_left_out_and_counted():
    target = targets.square_sum((1.0, np.nan, 0.1), n=N, gamma=GAMMA, dtype="float32")
    config = VIConfig(M=1, r=0, whitening_mode="none", steps=200, eval_draws=100)
    runner = Runner(vi_mfa, target, config, key=jax.random.key(0))
    before = np.asarray(runner.progress.state.flat)
    progress = runner.run()
    assert np.array_equal(progress.state.flat, before)
    assert runner.summary()["skipped_steps"] == config.steps


def test_work_counts_minibatches_probes_and_full_losses():
    target = targets.noisy_squares(3, n=100, gamma=GAMMA, dtype="float32")
    draws = run(target, SHORT).draws()
    share = SHORT.batch_size / 100
    fit = SHORT.steps * share * SHORT.M * SHORT.num_samples
    probes = share * vi_mfa.NUM_PROBES
    assert np.isclose(draws.work_total, fit + probes + draws.loss.size / 3, rtol=1e-3)


def test_more_factors_than_dimensions_count_as_many_as_there_are_dimensions():
    target = targets.square_sum(CURVATURE, n=N, gamma=GAMMA, dtype="float32")
    full, more = (run(target, replace(SHORT, r=r)).draws().loss for r in (3, 4))
    assert np.array_equal(full, more)


def with_room(monkeypatch: pytest.MonkeyPatch, target: Target, config: VIConfig, **room: int):
    """A run in a program of these sizes: (losses, summary)."""
    exact = vi_mfa.Structure(config.M, config.M, config.r, config.batch_size, config.num_samples)
    structure = exact._replace(**room)
    monkeypatch.setattr(vi_mfa, "structure_of", lambda config, target: structure)
    runner = run(target, config)
    return runner.draws().loss, runner.summary()


@pytest.mark.parametrize(
    "room",
    [
        {"M": 4, "group": 1},
        {"M": 4, "group": 2},
        {"r": 4},
        {"rows": 100},
        {"M": 8, "r": 2, "rows": 40},
    ],
    ids=str,
)
def test_what_a_trial_does_not_use_of_a_program_changes_nothing(room, monkeypatch):
    target = targets.noisy_squares(3, n=100, gamma=GAMMA, dtype="float32")
    config = replace(SHORT, steps=100)
    exact, told = with_room(monkeypatch, target, config)
    padded, also_told = with_room(monkeypatch, target, config, **room)
    assert np.allclose(exact, padded, rtol=1e-3, atol=1e-5)
    for name in ("elbo", "entropy", "components_effective", "weight_min", "virial_ratio"):
        assert also_told[name] == pytest.approx(told[name], rel=1e-3), name


def test_trials_of_a_small_problem_share_one_program():
    target = targets.noisy_squares(3, n=100, gamma=GAMMA, dtype="float32")
    searched = SEARCH_SPACE["vi"]
    structures = {
        vi_mfa.structure_of(VIConfig(M=M, r=r, batch_size=b), target)
        for M in searched["M"].probes
        for r in searched["r"].probes
        for b in searched["batch_size"].probes
    }
    assert len(structures) == 1


def test_a_large_problem_has_programs_of_its_sizes():
    target = targets.noisy_squares(5_000, n=100, gamma=GAMMA, dtype="float32")
    structure = vi_mfa.structure_of(VIConfig(M=1, r=0, batch_size=64), target)
    assert (structure.M, structure.r, structure.rows) == (1, 0, 64)


CORRECTED = VIConfig(M=1, r=0, steps=1_000, correction="ais", ais_steps=30)


@pytest.mark.parametrize("family", ["quadratic", "monomial", "deep_linear"])
def test_moved_particles_have_the_exact_answer_where_their_mixture_has_not(family):
    known = known_answers.FAMILIES[family]()
    # From 50 draws a group's error is too small: it knows little of how long particles stay.
    config = replace(CORRECTED, ais_steps=200)
    found = known_answers.estimate("vi", known.target, config)
    known_answers.check_known_answer(found, known.exact)


def test_draws_before_the_posterior_is_reached_count_nothing():
    target = targets.monomial((1, 1), n=N, gamma=GAMMA, dtype="float32")
    runner = Runner(vi_mfa, target, replace(CORRECTED, ais_steps=60), key=jax.random.key(0))
    runner.progress.step = runner.plan.num_warmup  # As where the budget cuts the fit.
    runner.run(num_draws=30)
    assert 0.0 < runner.summary()["temperature"] < 1.0
    with pytest.raises(NoEstimate, match="Some draw must count"):
        estimate_llc(runner.draws(), nbeta=target.nbeta, init_loss=0.0, trim=False)
    runner.run(num_draws=90)
    weights = runner.draws().weight[:, 0]
    assert runner.summary()["temperature"] == 1.0
    assert list(np.unique(weights)) == [0.0, 1.0] and np.argmax(weights) == 59


@pytest.mark.parametrize("pairs", [2, 150])
def test_particles_of_many_parameters_have_widths_by_their_gradients_too(pairs):
    """In pairs that are stiff together a standard deviation says nothing of the stiff direction."""
    pair = np.array([[1.0, 0.9], [0.9, 1.0]])
    curvature = np.kron(np.eye(pairs), pair)
    target = make_target(
        Ellipsoid(),
        curvature,
        np.zeros(2 * pairs),
        nbeta=NBETA,
        gamma=GAMMA,
        n=N,
        init_loss=0.0,
        dtype="float32",
    )
    precision = NBETA * pair + GAMMA * np.eye(2)
    variance = np.linalg.inv(precision)[0, 0]
    many = 2 * pairs > warmup.MANY
    state = run(target, CORRECTED).progress.state
    widths = np.asarray(state.particles.metric) * np.asarray(state.whitening) ** 2
    expected = np.sqrt(variance / precision[0, 0]) if many else variance
    assert widths.mean() == pytest.approx(expected, rel=0.1)


def test_the_gradients_of_moves_are_counted():
    target = targets.monomial((1, 1), n=N, gamma=GAMMA, dtype="float32")
    runner = run(target, CORRECTED)
    probes, fit = vi_mfa.NUM_PROBES, CORRECTED.steps * CORRECTED.num_samples
    moves = CORRECTED.ais_steps + vi_mfa.SETTLING + vi_mfa.LEAST_MOVES
    least, most = (moves * annealed.GROUPS * annealed.PARTICLES[0] * (k + 4 / 3) for k in (1, 32))
    assert least < runner.draws().work_total - probes - fit < most
    assert runner.draws().loss.shape == (vi_mfa.LEAST_MOVES, annealed.GROUPS)


@pytest.mark.parametrize(("n", "each"), [(1_000, 64), (10_000, 16), (200_000, 4)])
def test_where_a_gradient_is_dear_particles_are_few(n, each):
    target = targets.noisy_squares(3, n=n, gamma=GAMMA, dtype="float32")
    state = run(target, replace(CORRECTED, steps=5, ais_steps=1)).progress.state
    assert state.particles.z.shape == (annealed.GROUPS, each, 3)


@pytest.mark.parametrize("num", [1, 3, 8])
def test_a_large_problem_has_a_program_of_exactly_its_components_in_whole_groups(num):
    target = targets.square_sum(
        (1.0,) * (vi_mfa.SHARED_UP_TO + 1), n=N, gamma=GAMMA, dtype="float32"
    )
    structure = vi_mfa.structure_of(replace(SHORT, M=num), target)
    assert structure.M == num and num % structure.group == 0


@pytest.mark.parametrize(("temperatures", "moves"), [(10, 80), (50, 80), (200, 200)])
def test_a_longer_way_to_the_posterior_gives_more_draws_there(temperatures, moves):
    target = targets.monomial((1, 1), n=N, gamma=GAMMA, dtype="float32")
    config = replace(CORRECTED, ais_steps=temperatures)
    assert vi_mfa.plan(config, target).num_draws == moves


WEIGHED = VIConfig(lr=0.02, M=4, r=2, steps=4_000, eval_draws=20_000, correction="psis")


def weighed_estimate(target: Target, *, seed: int = 0) -> tuple[Estimate, float]:
    """The estimate from draws weighed by the posterior, and k-hat."""
    draws, found = weighed(run(target, WEIGHED, seed=seed).draws())
    estimate = estimate_llc(draws, nbeta=target.nbeta, init_loss=target.init_loss, trim=False)
    return estimate, found["khat"]


@pytest.mark.parametrize("seed", range(3))
def test_weights_hold_where_k_hat_is_small(seed):
    exact = product_llc(NBETA, GAMMA, dims=(1, 1), powers=(1, 2))
    target = targets.monomial((1, 2), n=N, gamma=GAMMA, dtype="float32")
    found, khat = weighed_estimate(target, seed=seed)
    assert khat < KHAT and found.se_hat < 0.06 * exact
    assert abs(found.llc_hat - exact) < 3 * found.se_hat


def test_weights_that_cannot_be_trusted_say_so():
    settings = {"model": "deep_linear", "data": "small", "overrides": DEEP}
    target = build_problem(compose_problem(settings)).target("float32")
    _, khat = weighed_estimate(target)
    (gate,) = check_trial({"khat": khat}, se=0.1, llc_ref=None, se_ref=None)
    assert khat > KHAT and not gate.passed and "k-hat" in gate.sentence


DEEP = {"model": {"widths": [4, 3, 2]}, "posterior": {"gamma": GAMMA}}


def test_only_a_mixture_that_is_to_be_weighed_has_ratios():
    target = targets.noisy_squares(3, n=100, gamma=GAMMA, dtype="float32")
    draws = run(target, SHORT).draws()
    same, found = weighed(draws)
    assert same is draws and found == {} and np.isnan(draws.log_ratio).all()
    weighing = run(target, replace(SHORT, correction="psis")).draws()
    assert np.array_equal(weighing.loss, draws.loss)
    assert np.ptp(weighed(weighing)[0].weight) > 0
