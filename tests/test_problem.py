"""Config -> Problem: data from the seed, losses of every family, and a store that builds once."""

import contextlib
import dataclasses
import json
import logging
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filelock import FileLock
from scipy import stats

from lambda_hat.conf import compose_problem
from lambda_hat.conf.distributions import INPUTS, NOISES
from lambda_hat.problems import (
    ProblemRefused,
    TrainingUnfinished,
    build_problem,
    load_or_build,
    store,
    training_until,
)
from lambda_hat.problems.data import draw_inputs, draw_noise, stream
from lambda_hat.problems.families import make_form
from lambda_hat.problems.network import draw_teacher, draw_weights, predict
from lambda_hat.store import Store
from lambda_hat.target import loss as target_loss


def compose(preset="small", *, seed=0, teacher="_null", **overrides):
    spec = {"model": preset, "seed": seed, "teacher": teacher, "overrides": overrides}
    return compose_problem(spec)


def build(preset="small", **settings):
    return build_problem(compose(preset, **settings))


def loss_of(problem, w):
    with jax.enable_x64(True):
        return float(np.mean(problem.form.losses(jnp.asarray(w), problem.data)))


# Data


def test_the_same_seed_draws_the_same_bits():
    x = draw_inputs(stream(0, "inputs"), INPUTS["gauss_iso"]("gauss_iso"), 100, 4)
    assert x[0, 0] == 0.1257302210933933  # Pinned: no version of JAX may change it.
    again = draw_inputs(stream(0, "inputs"), INPUTS["gauss_iso"]("gauss_iso"), 100, 4)
    assert np.array_equal(x, again)
    other = draw_inputs(stream(1, "inputs"), INPUTS["gauss_iso"]("gauss_iso"), 100, 4)
    assert not np.array_equal(x, other)


def test_the_noise_does_not_move_inputs_or_teacher():
    quiet = build("linear", data={"noise": {"kind": "none"}})
    loud = build("linear", data={"noise": {"scale": 3.0}})
    assert np.array_equal(quiet.data["x"], loud.data["x"])
    assert quiet.init_loss < 1e-25 < loud.init_loss
    assert np.std(loud.data["y"] - quiet.data["y"]) == pytest.approx(3.0, rel=0.2)


CHANGES = {
    "gauss_iso": {"scale": 2.0},
    "gauss_aniso": {"scale": 2.0, "condition": 5.0},
    "mixture": {"components": 3, "spread": 1.0, "scale": 1.0},
    "lowdim_manifold": {"latent_dim": 1, "scale": 2.0, "off_manifold": 0.1},
    "heavy_tail": {"df": 5.0, "scale": 2.0},
    "uniform": {"low": -2.0, "high": 2.0},
    "gauss": {"scale": 0.2},
    "hetero": {"scale": 0.2, "slope": 2.0},
    "student_t": {"scale": 0.2, "df": 3.0},
    "outliers": {"scale": 0.2, "fraction": 0.4, "factor": 5.0},
    "none": {},
}


@pytest.mark.parametrize(
    ("registry", "kind", "key"),
    [(r, kind, key) for r in (INPUTS, NOISES) for kind in r for key in CHANGES[kind]],
)
def test_every_key_of_a_distribution_changes_its_draws(registry, kind, key):
    def draw(config):
        if registry is INPUTS:
            return draw_inputs(stream(0, "inputs"), config, 50, 3)
        return draw_noise(stream(0, "noise"), config, np.ones((50, 3)), 2)

    before = draw(registry[kind](kind))
    after = draw(registry[kind](kind, **{key: CHANGES[kind][key]}))
    assert before.shape == after.shape and not np.allclose(before, after)


def test_inputs_are_distributed_as_they_say():
    def draw(kind, dim=3, **keys):
        return draw_inputs(stream(0, "inputs"), INPUTS[kind](kind, **keys), 20_000, dim)

    assert stats.kstest(draw("gauss_iso", scale=2.0)[:, 0] / 2, "norm").pvalue > 0.01
    assert stats.kstest(draw("heavy_tail", df=3.0)[:, 1], stats.t(3.0).cdf).pvalue > 0.01
    assert (
        stats.kstest(draw("uniform", low=-10.0, high=10.0)[:, 2] / 20 + 0.5, "uniform").pvalue
        > 0.01
    )
    scales = np.sqrt(np.linalg.eigvalsh(np.cov(draw("gauss_aniso", condition=10.0).T)))
    assert scales == pytest.approx([0.1, 10**-0.5, 1.0], rel=0.03)
    surface = draw("lowdim_manifold", dim=40, latent_dim=1, off_manifold=0.0)
    assert np.abs(surface).max() <= 1.0


def test_noise_is_distributed_as_it_says():
    x = stream(0, "inputs").standard_normal((20_000, 4))

    def draw(kind, **keys):
        return draw_noise(stream(0, "noise"), NOISES[kind](kind, **keys), x, 1)[:, 0]

    assert stats.kstest(draw("gauss", scale=0.3) / 0.3, "norm").pvalue > 0.01
    assert stats.kstest(draw("student_t", scale=0.3, df=4.0) / 0.3, stats.t(4.0).cdf).pvalue > 0.01
    scale = 0.3 * (1 + 2 * np.linalg.norm(x, axis=1) / 2)
    assert stats.kstest(draw("hetero", scale=0.3, slope=2.0) / scale, "norm").pvalue > 0.01
    wild = draw("outliers", scale=0.3, fraction=0.1, factor=10.0)
    assert np.var(wild) == pytest.approx(0.09 * (0.9 + 0.1 * 100), rel=0.1)


# Networks


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu", "identity"])
@pytest.mark.parametrize("bias", [True, False])
def test_numpy_and_jax_agree_on_what_a_network_is(activation, bias):
    model = {"activation": activation, "bias": bias, "widths": [5, 3], "out_dim": 2}
    form = make_form(compose(model=model))
    w = draw_weights(stream(0, "init"), form.sizes, bias=bias, activation=activation)
    x = stream(0, "inputs").standard_normal((7, 4))
    ours = predict(w, x, form.sizes, bias=bias, activation=activation)
    with jax.enable_x64(True):
        theirs = np.asarray(form.predict(jnp.asarray(w), x))
    assert ours.shape == (7, 2) and np.allclose(ours, theirs, atol=1e-12)


def test_a_teacher_has_unit_variance_and_is_never_constant():
    x = stream(0, "inputs").standard_normal((200, 4))
    for seed in range(20):
        config = compose(seed=seed)
        w = draw_teacher(stream(seed, "teacher"), config.teacher, x, 1)
        y = predict(w, x, (4, 4, 4, 1), bias=True, activation="relu")
        assert np.std(y) == pytest.approx(1.0)


def test_the_teacher_group_is_the_teacher():
    own, large = compose(), compose(teacher="base")
    assert own.teacher.widths == (4, 4) and large.teacher.widths == (69, 69, 69)


# Losses


def test_losses_are_those_of_the_contract():
    rng = np.random.default_rng(0)
    w = rng.standard_normal(45)
    for loss, keys, expected in (
        ("mse", {}, lambda r: (r**2).mean(axis=1)),
        ("gaussian_nll", {"noise_scale": 0.3}, lambda r: -stats.norm(0, 0.3).logpdf(r).sum(axis=1)),
        (
            "student_t_nll",
            {"noise_scale": 0.3, "df": 2.5},
            lambda r: -stats.t(2.5, 0, 0.3).logpdf(r).sum(axis=1),
        ),
    ):
        form = make_form(compose(posterior={"loss": loss, **keys}))
        data = {"x": rng.standard_normal((6, 4)), "y": rng.standard_normal((6, 1))}
        residual = predict(w, data["x"], form.sizes, bias=True, activation="relu") - data["y"]
        with jax.enable_x64(True):
            assert np.allclose(form.losses(jnp.asarray(w), data), expected(residual), atol=1e-12)


def test_mse_is_the_mean_over_outputs():
    form = make_form(compose(model={"out_dim": 2}))
    data = {"x": np.zeros((1, 4)), "y": np.array([[1.0, 3.0]])}
    with jax.enable_x64(True):
        assert np.asarray(form.losses(jnp.zeros(50), data)) == pytest.approx([5.0])


def test_losses_of_the_families_without_data():
    quadratic = build("quadratic", model={"curvature": [2.0, 0.5]})
    assert loss_of(quadratic, [1.0, 2.0]) == pytest.approx(0.5 * (2 + 0.5 * 4))
    crossing = build("normal_crossing", model={"powers": [1, 2]})
    assert loss_of(crossing, [2.0, -3.0]) == pytest.approx(4 * 81)
    assert not quadratic.form.has_rows and not crossing.form.has_rows
    for problem in (quadratic, crossing):
        assert problem.init_loss == 0 and problem.evidence["grad_norm"] == 0


def test_a_population_deep_linear_network():
    problem = build("deep_linear", model={"widths": [3, 4, 2], "rank": 2})
    w = np.random.default_rng(0).standard_normal(20)
    first, second = w[:12].reshape(4, 3), w[12:].reshape(2, 4)
    truth = problem.data["product"][0]
    assert loss_of(problem, w) == pytest.approx(0.5 * np.sum((second @ first - truth) ** 2))
    assert np.linalg.matrix_rank(truth) == 2
    first, second = problem.w_star[:12].reshape(4, 3), problem.w_star[12:].reshape(2, 4)
    for layer in (first, second):
        assert np.abs(np.linalg.det(layer[:2, :2])) == pytest.approx(1.0)
        assert np.count_nonzero(layer[2:]) == 0 and np.count_nonzero(layer[:, 2:]) == 0


@pytest.mark.parametrize("widths", [[4, 3], [4, 5, 3], [5, 2, 4], [3, 4, 4, 2]])
def test_a_drawn_deep_linear_network_is_at_its_empirical_minimum(widths):
    model = {"widths": widths, "rank": 2, "population": False}
    noisy = build("deep_linear", model=model, data={"n": 60, "noise": {"scale": 0.5}})
    assert noisy.evidence["grad_norm"] < 1e-12
    rng = np.random.default_rng(0)
    near = [noisy.w_star + 0.1 * rng.standard_normal(len(noisy.w_star)) for _ in range(200)]
    assert min(loss_of(noisy, w) for w in near) > noisy.init_loss
    exact = build("deep_linear", model=model, data={"noise": {"kind": "none"}})
    assert exact.init_loss < 1e-28


def test_linear_regression_is_at_least_squares():
    problem = build("linear", data={"n": 50})
    design = np.column_stack([problem.data["x"], np.ones(50)])
    residual = problem.data["y"][:, 0] - design @ problem.w_star
    assert np.abs(design.T @ residual).max() < 1e-12
    assert problem.init_loss == pytest.approx(np.mean(residual**2))


def test_a_target_is_the_problem_in_one_precision():
    problem = build("linear")
    single = problem.target("float32")
    assert single.arrays.w_star.dtype == jnp.float32
    assert (single.n, single.d, single.init_loss) == (100, 5, problem.init_loss_float32)
    assert single.init_loss == pytest.approx(problem.init_loss, rel=1e-6)
    with jax.enable_x64(True):
        double = problem.target("float64")
        assert double.nbeta == pytest.approx(problem.config.nbeta)
        at_minimum = target_loss(double.form, double.arrays, double.arrays.w_star)
        assert float(at_minimum) == pytest.approx(problem.init_loss)


# Store


@pytest.fixture
def builds(monkeypatch):
    """Counts how often a problem is built."""
    calls, real = [], store.build_problem
    monkeypatch.setattr(store, "build_problem", lambda config: calls.append(1) or real(config))
    return calls


def same(one, other):
    return (
        np.array_equal(one.w_star, other.w_star)
        and one.init_loss == other.init_loss
        and one.evidence == other.evidence
        and all(np.array_equal(one.data[key], other.data[key]) for key in one.data)
    )


@pytest.mark.parametrize("model", ["quadratic", "normal_crossing", "deep_linear", "linear"])
def test_what_is_loaded_is_what_was_built(tmp_path, builds, model):
    built, loaded = (load_or_build(compose(model), tmp_path) for _ in range(2))
    assert len(builds) == 1 and same(built, loaded)
    folder = tmp_path / "problems" / built.pid
    assert {p.name for p in folder.iterdir()} == {"target.json", "target.npz", "target.lock"}
    record = json.loads((folder / "target.json").read_text())
    assert record["problem"] == built.config.canonical() and record["pid"] == built.pid
    assert record["target"] == built.target_id == loaded.target_id


def test_two_that_want_one_problem_build_it_once(tmp_path, builds):
    together = threading.Barrier(4)

    def load(_):
        together.wait()
        return load_or_build(compose("linear"), tmp_path)

    with ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(load, range(4))
    assert len(builds) == 1 and all(same(first, other) for other in others)


@pytest.mark.parametrize("name", ["target.json", "target.npz"])
@pytest.mark.parametrize("damage", ["garbage", "truncated", "empty", "missing"])
def test_a_broken_file_is_set_aside_and_built_again(tmp_path, builds, caplog, name, damage):
    first = load_or_build(compose("linear"), tmp_path)
    path = tmp_path / "problems" / first.pid / name
    content = path.read_bytes()
    store = Store.at(tmp_path, tmp_path)
    assert store.target_id(first.pid) == first.target_id
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"garbage": b"{]", "truncated": content[:-20], "empty": b""}[damage])
    assert store.target_id(first.pid) is None
    with caplog.at_level(logging.WARNING):
        again = load_or_build(compose("linear"), tmp_path)
    assert len(builds) == 2 and same(first, again)
    if damage != "missing":
        assert len(list(path.parent.glob(f"{name}.broken-*"))) == 1 and "broken" in caplog.text
    assert same(first, load_or_build(compose("linear"), tmp_path)) and len(builds) == 2
    assert store.target_id(first.pid) == again.target_id == first.target_id


def test_a_target_is_another_where_any_of_its_arrays_is():
    built = build("linear")
    nudged = dataclasses.replace(built, w_star=np.nextafter(built.w_star, np.inf))
    names = [
        {name: -array if name == given else array for name, array in built.data.items()}
        for given in built.data
    ]
    others = [nudged, *(dataclasses.replace(built, data=data) for data in names)]
    ids = {problem.target_id for problem in (built, *others)}
    assert len(ids) == 1 + len(others) and all(re.fullmatch("t_[0-9a-f]{12}", i) for i in ids)


def test_what_is_not_trained_in_time_is_not_stored(tmp_path, builds):
    config = compose(training={"steps": 10, "restarts": 1, "polish_steps": 5, "shakes": 0})
    with training_until(time.monotonic()), pytest.raises(TrainingUnfinished, match="0 of 10"):
        load_or_build(config, tmp_path)
    folder = tmp_path / "problems" / config.pid
    assert {path.name for path in folder.iterdir()} == {"target.lock"}
    with contextlib.suppress(ProblemRefused):
        load_or_build(config, tmp_path)
    assert (folder / "target.npz").exists() and len(builds) == 2


def test_what_is_stored_is_there_after_the_deadline_too(tmp_path):
    built = load_or_build(compose("linear"), tmp_path)
    with training_until(time.monotonic()):
        assert same(built, load_or_build(compose("linear"), tmp_path))


def test_a_target_that_another_trains_is_not_waited_for_beyond_the_deadline(tmp_path):
    config = compose("linear")
    path = tmp_path / "problems" / config.pid / "target.lock"
    path.parent.mkdir(parents=True)
    with FileLock(path), training_until(time.monotonic() + 0.2):
        with pytest.raises(TrainingUnfinished, match="another process was still training"):
            load_or_build(config, tmp_path)


def test_a_refused_problem_is_refused_again_without_training(tmp_path, builds):
    none = {"steps": 0, "restarts": 2, "polish_steps": 0, "shakes": 0}
    hopeless = compose(training=none, teacher="base")
    sentence = f"Problem {hopeless.pid} is refused: w\\* must be a local minimum"
    for _ in range(2):
        with pytest.raises(ProblemRefused, match=sentence):
            load_or_build(hopeless, tmp_path)
    assert Store.at(tmp_path, tmp_path).target_id(hopeless.pid) is None
    assert len(builds) == 1
