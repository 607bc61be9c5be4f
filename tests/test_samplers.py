"""Target -> Draws: what every sampler owes, whoever wrote it; a new one is tested unasked."""

from __future__ import annotations

import functools
import inspect
import types
from dataclasses import dataclass, replace
from typing import Any, cast

import blackjax.mcmc.adjusted_mclmc as adjusted_mclmc
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import targets
from blackjax.adaptation.staged_adaptation import build_schedule
from jaxtyping import Array
from known_answers import (
    FAMILIES,
    GAMMA,
    Family,
    N,
    check_known_answer,
    configure,
    estimate,
    expected,
    noisy_squares,
    run,
)

from lambda_hat.conf import compose_problem
from lambda_hat.conf.samplers import SAMPLERS
from lambda_hat.conf.search_space import SEARCH_SPACE, Categorical
from lambda_hat.llc import NoEstimate, estimate_llc
from lambda_hat.problems import build_problem
from lambda_hat.references.layers import Chain, read_model
from lambda_hat.samplers import load_method, loop, mclmc, program, sgld, warmup
from lambda_hat.samplers.base import Method
from lambda_hat.samplers.loop import Runner
from lambda_hat.samplers.recording import LEAST_DRAWS
from lambda_hat.samplers.warmup import windows_of
from lambda_hat.target import (
    WHOLE,
    Target,
    draw_minibatch,
    logdensity,
    loss_on,
    make_target,
)

METHODS = sorted(SAMPLERS)
PROTOCOL = [name for name in {**vars(Method), **Method.__annotations__} if name[0] != "_"]
ORDER = [
    *(("", name) for name in ("DTYPE", "DRAW_WORK", "TRIM_TRANSIENT")),
    *(("class ", name) for name in ("State", "Structure", "Settings")),
    *(("def ", name) for name in ("plan", "structure_of", "settings_of", "refusal", "build")),
]
"""How the parts of a sampler file follow each other, after its equation and citation."""
PRECISE: dict[str, dict[str, Any]] = {
    "hmc": {"steps": 8_000, "num_warmup": 500},
    "mclmc": {"steps": 16_000, "max_draws": 12_000, "step_size": 0.3, "L": 3.0},
    "sgld": {"steps": 20_000, "eta0": 2e-3, "batch": 32, "num_chains": 64},
    "vi": {"M": 1, "r": 0, "lr": 0.02, "steps": 8_000, "num_samples": 16, "eval_draws": 10_000},
}
"""Long enough for a standard error below 3 %; a method that is not here runs its defaults."""
OF_THIS_FAMILY: dict[tuple[str, str], dict[str, Any]] = {
    ("sgld", "linear"): {"batch": 100},  # The bias of exact gradients; a row's noise varies.
    ("vi", "linear"): {"r": 4},  # A correlated Gaussian: factors make the family hold it.
}
SHORT: dict[str, dict[str, Any]] = {
    "hmc": {"steps": 120, "num_warmup": 60, "num_integration_steps": 3},
    "mclmc": {"steps": 120, "step_size": 0.3},
    "sgld": {**PRECISE["sgld"], "steps": 120},
    "vi": {**PRECISE["vi"], "steps": 60, "eval_draws": 200},
}
"""Over in a moment, by the programs that the precise ones have compiled."""


@pytest.mark.parametrize("num_warmup", [*range(0, 300, 13), 149, 150, 151, 1000, 19_999])
def test_the_windows_of_warmup_are_those_of_blackjax(num_warmup: int) -> None:
    theirs = np.asarray(build_schedule(num_warmup)).reshape(-1, 2)
    slow, closes = (np.flatnonzero(column) for column in theirs.T)
    windows = windows_of(num_warmup)
    assert windows.closes[windows.closes >= 0].tolist() == closes.tolist()
    assert list(range(windows.begin, windows.end)) == slow.tolist()


def rows(dtype: str) -> Target:
    return FAMILIES["noisy_squares"]().target(dtype)


def losses(method: str, seed: int = 0, **overrides: Any) -> np.ndarray:
    config = configure(method, **{**SHORT.get(method, {}), **overrides})
    return run(method, rows, config, seed=seed).draws().loss


@dataclass(frozen=True)
class Nowhere:
    """A loss that is never a number."""

    has_rows: bool = False

    def losses(self, w: Array, data: Any) -> Array:
        return jnp.sum(w * jnp.nan)[None]


def nowhere(dtype: str) -> Target:
    zero = np.zeros(2)
    return make_target(
        Nowhere(), zero, zero, nbeta=20.0, gamma=1.0, n=100, init_loss=0.0, dtype=dtype
    )


class FakeTime:
    """A clock that a compiled call moves on, and nothing else does.

    By a second a step, or by so many seconds for a gradient of a chain.
    """

    def __init__(self, gradient_sec: float | None = None) -> None:
        self.now = 0.0
        self._gradient_sec = gradient_sec

    def monotonic(self) -> float:
        return self.now

    def charge(self, program: Any) -> Any:
        def advance(*args: Any) -> Any:
            count, thin = args[-2:]
            state, rows = program(*args)
            if self._gradient_sec is None:
                self.now += float(count * thin)
            else:
                self.now += self._gradient_sec * float(rows[1].work[:count].mean(axis=1).sum())
            return state, rows

        return advance


@pytest.fixture
def traced_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs traced after this know what the test patched, and end with it."""
    monkeypatch.setattr(program, "programs_of", functools.cache(program.programs_of.__wrapped__))


@pytest.mark.parametrize("method", METHODS)
class TestContract:
    """What holds for every registered sampler."""

    @pytest.mark.parametrize("family", FAMILIES)
    def test_the_estimate_is_the_known_answer(self, method: str, family: str) -> None:
        settings = {**PRECISE.get(method, {}), **OF_THIS_FAMILY.get((method, family), {})}
        config, known = configure(method, **settings), FAMILIES[family]()
        check_known_answer(estimate(method, known.target, config), expected(method, known, config))

    def test_the_same_key_gives_the_same_draws(self, method: str) -> None:
        first = losses(method, seed=1)
        assert np.array_equal(first, losses(method, seed=1))
        assert not np.array_equal(first, losses(method, seed=2))

    def test_every_searched_hyperparameter_changes_the_draws(self, method: str) -> None:
        all_act = {"correction": "ais"} if method == "vi" else {}
        before = losses(method, **all_act)
        config = configure(method, **{**SHORT.get(method, {}), **all_act})
        for name, space in SEARCH_SPACE.get(method, {}).items():
            value = getattr(config, name)
            if isinstance(space, Categorical):
                other = next(choice for choice in space.choices if choice != value)
            else:
                other = min(2 * value or 1, space.high)
            after = losses(method, **{**all_act, name: other})
            assert not np.array_equal(before, after), f"{name} does not act"

    def test_a_longer_budget_never_makes_fewer_draws(
        self, method: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = []
        for budget in (10.0, 40.0, 100.0, 250.0, 1000.0):
            module, clock = load_method(method), FakeTime()
            monkeypatch.setattr(loop, "time", clock)
            with jax.enable_x64(module.DTYPE == "float64"):
                config = configure(method, **SHORT.get(method, {}))
                runner = Runner(module, rows(module.DTYPE), config, key=jax.random.key(0))
                runner._advance_program = clock.charge(runner._advance_program)
                runner.run(deadline=budget)
            assert clock.now <= budget
            made.append(runner.progress.num_draws)
        assert made == sorted(made)
        assert 0 < made[1] < made[-1] == runner.plan.num_draws

    def test_chunks_do_not_change_a_bit(
        self, method: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
    ) -> None:
        monkeypatch.setattr(loop, "CHUNK_SECONDS", 1e9)
        whole = losses(method)
        request.getfixturevalue("traced_anew")
        monkeypatch.setattr(program, "CHUNK_DRAWS", 7)
        assert np.array_equal(whole, losses(method))
        monkeypatch.setattr(loop, "CHUNK_SECONDS", 1e-9)
        assert np.array_equal(whole, losses(method))

    def test_losses_that_are_no_numbers_end_in_a_sentence(self, method: str) -> None:
        runner = run(method, nowhere, configure(method, **SHORT.get(method, {})))
        with pytest.raises(NoEstimate, match=r"must .*\.$"):
            estimate_llc(runner.draws(), nbeta=20.0, init_loss=0.0, trim=False)

    def test_the_registry_names_a_module_that_fills_the_protocol(self, method: str) -> None:
        module = load_method(method)
        missing = [name for name in PROTOCOL if not hasattr(module, name)]
        assert not missing, f"{method} lacks {missing}"
        assert module.Config is SAMPLERS[method]
        assert module.DTYPE in ("float32", "float64")
        assert module.__doc__ and SAMPLERS[method].__doc__

    def test_every_sampler_file_has_the_same_order(self, method: str) -> None:
        lines = inspect.getsource(cast(types.ModuleType, load_method(method))).splitlines()
        starts = [f"{begin}{name}" for begin, name in ORDER]
        found = [next(i for i, line in enumerate(lines) if line.startswith(s)) for s in starts]
        assert found == sorted(found), f"{method} is not in the order {starts}"


def test_every_searched_method_and_setting_exists() -> None:
    for method, space in SEARCH_SPACE.items():
        assert set(space) <= set(SAMPLERS[method].__dataclass_fields__)


def test_an_unknown_method_is_named_with_the_known() -> None:
    with pytest.raises(KeyError, match="hmc, mclmc, sgld, vi.*but got 'nuts'"):
        load_method("nuts")


# What the known answers notice: each mutant must fail them.


def check_sgld(known: Family, **overrides: Any) -> None:
    config = configure("sgld", **{**PRECISE["sgld"], **overrides})
    check_known_answer(estimate("sgld", known.target, config), expected("sgld", known, config))


def test_five_percent_more_noise_is_noticed(
    monkeypatch: pytest.MonkeyPatch, traced_anew: None
) -> None:
    normal, known = jax.random.normal, FAMILIES["quadratic"]()
    monkeypatch.setattr(jax.random, "normal", lambda *args: 1.05 * normal(*args))
    with pytest.raises(AssertionError, match="standard errors from"):
        check_sgld(known)


@pytest.mark.parametrize("method", METHODS)
def test_a_missing_tether_is_noticed(method: str) -> None:
    known = FAMILIES["quadratic"]()

    def untethered(dtype: str) -> Target:
        target = known.target(dtype)
        # Not quite 0: widths of directions that the loss leaves free must stay finite.
        return replace(target, arrays=target.arrays._replace(gamma=1e-3 * target.arrays.gamma))

    config = configure(method, **PRECISE.get(method, {}))
    with pytest.raises(AssertionError, match="standard errors from"):
        check_known_answer(estimate(method, untethered, config), expected(method, known, config))


def test_a_minibatch_loss_in_the_estimate_is_noticed(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    def of_a_batch(form: Any, arrays: Any, w: Array) -> Array:
        """L_B(w) on rows that the draw itself picks: right on average, as such slips are."""
        key = jax.random.fold_in(jax.random.key(0), jnp.sum(w).view(jnp.int32))
        return loss_on(form, arrays, draw_minibatch(form, arrays, key, 32, 32), w)

    known = noisy_squares(scale=10.0)
    check_sgld(known, max_draws=200)
    request.getfixturevalue("traced_anew")
    monkeypatch.setattr(sgld, "loss", of_a_batch)
    with pytest.raises(AssertionError, match="too large"):
        check_sgld(known, max_draws=200)


# SGLD's own claims.


def settings(gamma: float) -> Any:
    return sgld.settings_of(configure("sgld", gamma=gamma, eta0=0.5, steps=1000))


@pytest.mark.parametrize("n, batch", [(100, 32), (20_000, 512), (100_000, 64)])
@pytest.mark.parametrize("name", ["sgld", "vi"])
def test_losses_over_all_data_cost_no_more_than_the_steps(name: str, n: int, batch: int) -> None:
    method, size = load_method(name), {"sgld": "batch", "vi": "batch_size"}[name]
    target = targets.noisy_squares(2, n=n, gamma=1.0, dtype="float32")
    config = method.Config(**{size: batch})
    plan = method.plan(config, target)
    if name == "sgld":
        steps, draws = 0.75 * config.steps * batch * 4, 4 * plan.num_draws
        most = 4 * (0.75 * config.steps // plan.thin)
    else:
        steps, draws = config.steps * config.M * config.num_samples * batch, 4 * plan.num_draws
        most = config.eval_draws
    assert draws * n / 3 <= steps or draws == 4 * LEAST_DRAWS
    assert draws <= most
    if n == 100:
        assert draws >= 4_000  # Nothing is saved where there is nothing to save.


def test_the_step_decays_as_published() -> None:
    steps = jnp.arange(3) * 100.0
    assert np.allclose(sgld.eta(settings(0.5), steps), 0.5 * np.array([1, 2, 3]) ** -0.5)
    assert np.allclose(sgld.eta(settings(0.0), steps), 0.5)


def test_draws_of_a_decaying_step_weigh_their_step() -> None:
    overrides = {**SHORT["sgld"], "gamma": 0.5, "max_draws": 2_000}
    draws = run("sgld", rows, configure("sgld", **overrides)).draws()
    weights = draws.weight[:, 0]
    assert np.all(np.diff(weights) < 0)
    assert weights[0] == pytest.approx(2e-3 * (1 + 30 / 12) ** -0.5)


@pytest.mark.parametrize("kind", ["rmsprop", "adam"])
def test_a_frozen_preconditioner_keeps_the_posterior(kind: str) -> None:
    """No known bias but the step's: small here, as P h eta stays below 0.1."""
    known = FAMILIES["quadratic"]()
    overrides = {"precond_type": kind, "eta0": 1e-4, "steps": 40_000, "warmup_fraction": 0.2}
    config = configure("sgld", **{**PRECISE["sgld"], **overrides})
    runner = run("sgld", known.target, config)
    before = runner.summary()["preconditioner_max"]
    check_known_answer(estimate("sgld", known.target, config), known.exact)
    assert before > 1.5


def test_a_preconditioner_starts_at_one_and_is_corrected() -> None:
    ones = jnp.ones(2)
    none, rmsprop, adam = (
        sgld.settings_of(configure("sgld", precond_type=kind)) for kind in sgld.MEMORY
    )
    assert np.allclose(sgld.preconditioner(none, ones, 0), 1)
    assert np.allclose(sgld.preconditioner(rmsprop, ones, 0), 1, atol=1e-4)
    memory, g = sgld.MEMORY["adam"], 3.0
    left = memory**adam.num_warmup
    frozen = left * ones + (1 - left) * g**2
    assert np.allclose(sgld.preconditioner(adam, frozen, adam.num_warmup), 1 / g, rtol=1e-3)
    assert np.allclose(sgld.preconditioner(adam, ones, 0), 1, atol=1e-4)


@pytest.mark.parametrize("batch", [32, 100])
def test_rows_that_a_batch_does_not_use_change_nothing(
    batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = losses("sgld", batch=batch)
    rows_of = WHOLE if batch == 100 else batch
    monkeypatch.setattr(sgld, "rows_of", lambda *args, **kw: rows_of)
    assert np.allclose(losses("sgld", batch=batch), shared, rtol=1e-3, atol=1e-5)


def test_an_mclmc_trajectory_is_that_of_blackjax() -> None:
    kernel: Any = adjusted_mclmc.build_kernel()
    with jax.enable_x64(True):
        target, metric, steps = rows("float64"), jnp.full(3, 0.1), jnp.asarray(5)
        density: Any = functools.partial(logdensity, target.form, target.arrays)
        chain = adjusted_mclmc.init(target.arrays.w_star + 0.3, density)

        def both(key: Array) -> tuple[Array, Array]:
            ours, _ = mclmc._trajectory(key, chain, density, jnp.asarray(0.4), steps, metric)
            theirs, _ = kernel(key, chain, density, 0.4, (steps,), metric)
            return ours.position, theirs.position

        ours, theirs = jax.jit(jax.vmap(both))(jax.random.split(jax.random.key(0), 20))
    assert np.allclose(ours, theirs, rtol=1e-12, atol=0)
    assert len(np.unique(np.asarray(ours)[:, 0])) > 15


def test_mclmc_agrees_with_gibbs_sampling_on_a_deep_network() -> None:
    model = {"widths": [8] * 5, "rank": 4, "population": False}
    data = {"n": 20_000, "noise": {"kind": "none"}}
    overrides = {"model": model, "data": data, "posterior": {"gamma": 1.0}}
    problem = build_problem(
        compose_problem({"model": "deep_linear", "data": "base", "overrides": overrides})
    )
    gibbs = read_model(problem)
    chain = Chain(gibbs, np.random.default_rng(0))
    excess = np.array([chain.sweep().excess for _ in range(300)])[50:]
    found = estimate("mclmc", problem.target, configure("mclmc", steps=600))
    assert found.llc_hat == pytest.approx(gibbs.nbeta * excess.mean(), rel=0.06)
    assert found.se_hat < 0.03 * found.llc_hat


def test_the_deadline_is_told_from_where_on_trajectories_of_mclmc_are_longer() -> None:
    config = configure("mclmc", steps=800, step_size=1e-3, target_accept=0.99, L=3.0)
    with jax.enable_x64(True):
        target = targets.square_sum((1.0, 4.0), n=N, gamma=GAMMA, dtype="float64")
        runner = Runner(mclmc, target, config, key=jax.random.key(0))
        progress = runner.run(num_draws=1)
    (turn,) = runner.plan.turns
    work = np.concatenate([block["work"] for block in progress.warmup_rows])[:, 0]
    short, all_ = mclmc.FIRST_INTEGRATION_STEPS, mclmc.MAX_INTEGRATION_STEPS
    assert len(work) == runner.plan.num_warmup
    assert work[:turn].max() == mclmc.GRADIENTS_PER_STEP * short < work[turn:].max()
    assert work.max() <= mclmc.GRADIENTS_PER_STEP * all_


@pytest.mark.parametrize("method", ["hmc", "mclmc"])
def test_a_budget_holds_where_some_draws_take_ten_times_as_long_as_others(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, late = load_method(method), []
    uneven = {"step_size": 1e-3, "target_accept": 0.95, "L": 10.0} if method == "mclmc" else {}
    for seed in range(20):
        monkeypatch.setattr(loop, "time", clock := FakeTime(gradient_sec=1e-3))
        with jax.enable_x64(True):
            target = targets.square_sum((1.0, 4.0), n=N, gamma=GAMMA, dtype="float64")
            config = configure(method, steps=20_000, **uneven)
            runner = Runner(module, target, config, key=jax.random.key(seed))
            runner._advance_program = clock.charge(runner._advance_program)
            progress = runner.run(deadline=40.0)
        assert 0 < progress.num_draws < runner.plan.num_draws
        late.append(clock.now - 40.0)
    assert max(late) < 0.05


def test_mclmc_begins_with_the_widths_of_the_tether_however_stiff_the_loss() -> None:
    with jax.enable_x64(True):
        stiff = targets.square_sum((1.0, 4e4), n=N, gamma=GAMMA, dtype="float64")
        sampler = mclmc.build(stiff.form, mclmc.structure_of(configure("mclmc"), stiff))
        numbers = mclmc.settings_of(configure("mclmc"))
        state = sampler.init(jax.random.key(0), stiff.arrays, numbers)
        metric = np.asarray(state.adaptation.metric.inverse_mass_matrix)
    assert metric == pytest.approx([1 / GAMMA, 1 / GAMMA])


def test_a_warmup_that_is_cut_after_a_window_keeps_its_step() -> None:
    def updated(state: warmup.Adaptation, i: int, acceptance: float) -> warmup.Adaptation:
        positions = jax.random.normal(jax.random.key(i), (4, 3))
        given = {"i": i, "windows": windows, "positions": positions, "scores": -positions}
        acceptances = jnp.full(4, acceptance)
        return warmup.update(state, acceptance=acceptances, target_accept=0.8, **given)

    def step_of(state: warmup.Adaptation) -> float:
        return float(warmup.current_step_size(state, jnp.asarray(False)))

    windows = warmup.windows_of(20)
    update, close = jax.jit(updated), int(windows.closes[0])
    state = warmup.start(jnp.asarray(0.02), jnp.ones(3), 0.8, from_scores=False)
    assert step_of(state) == pytest.approx(0.02)
    for i in range(close):
        state = update(state, i, 0.5)
    closed = update(state, close, 0.5)
    averaged = warmup.dual_averaging_adaptation(0.8)[1](state.averaging, 0.5).log_step_size_avg
    assert step_of(closed) == pytest.approx(float(jnp.exp(averaged)))
    # It tries steps ten times as large next, and its averages are of those at first.
    for acceptance in (0.0, 1.0):
        state = closed
        for i in range(warmup.SETTLED - 1):
            state = update(state, 100 + i, acceptance)
            assert step_of(state) <= 1.001 * step_of(closed)
    assert step_of(update(state, 999, 1.0)) > step_of(closed)


@pytest.mark.parametrize("kind", ["many", "few", "dense"])
def test_a_metric_is_of_what_its_window_saw(kind: str) -> None:
    """Many parameters: widths between the deviation and the inverse root of the curvature."""
    root = np.array([[1.0, 0.0, 0.0], [0.99, 0.1, 0.0], [0.0, 0.0, 3.0]])
    covariance, precision = root @ root.T, np.linalg.inv(root @ root.T)
    variance = np.diag(covariance)
    exact = {"many": np.sqrt(variance / np.diag(precision)), "few": variance, "dense": covariance}
    first = np.eye(3) if kind == "dense" else np.ones(3)
    windows = warmup.Windows(10, 1010, np.array([1009, *[-1] * 15], np.int32))

    @jax.jit
    def update(state: warmup.Adaptation, i: int) -> warmup.Adaptation:
        positions = jax.random.normal(jax.random.key(i), (4, 3)) @ root.T
        positions = jnp.where(i < windows.begin, 1e3, 1.0) * positions
        given = {"i": i, "windows": windows, "positions": positions, "target_accept": 0.8}
        scores = -positions @ precision
        return warmup.update(state, scores=scores, acceptance=jnp.full(4, 0.8), **given)

    with jax.enable_x64(True):
        state = warmup.start(jnp.asarray(0.1), jnp.asarray(first), 0.8, from_scores=kind == "many")
        for i in range(1010):
            state = update(state, i)
    found = np.asarray(state.metric.inverse_mass_matrix)
    assert found == pytest.approx(exact[kind], rel=0.1, abs=0.05)


def test_mclmc_refuses_one_dimension() -> None:
    line = targets.square_sum((1.0,), n=100, gamma=1.0, dtype="float32")
    reason = load_method("mclmc").refusal(line, configure("mclmc"))
    assert reason is not None and "d >= 2" in reason and reason.endswith(".")


def test_plain_mclmc_is_biased_by_its_step_and_less_by_half_of_it() -> None:
    known = FAMILIES["quadratic"]()
    overrides = {"adjusted": False, "steps": 40_000, "max_draws": 30_000, "L": 1.0}
    error = [
        estimate("mclmc", known.target, configure("mclmc", step_size=h, **overrides)).llc_hat
        / known.exact
        - 1
        for h in (1.2, 0.3)
    ]
    assert abs(error[1]) < 0.05 and abs(error[1]) < abs(error[0])


def test_float64_is_refused_outside_its_context() -> None:
    with pytest.raises(ValueError, match="enable_x64"):
        targets.square_sum((1.0,), n=100, gamma=1.0, dtype="float64")
