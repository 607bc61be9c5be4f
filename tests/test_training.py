"""Config, data -> w*: a minimum that is one, the evidence for it, and refusal where it is none."""

import dataclasses
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from lambda_hat.conf import compose_problem
from lambda_hat.conf.schema import TrainingConfig
from lambda_hat.problems import TrainingUnfinished, build_problem, deadline, training_until
from lambda_hat.problems.curvature import measure_curvature, shift_bias
from lambda_hat.problems.descent import DENSE_MAX_DIM, begin, go_on
from lambda_hat.problems.families.quadratic import QuadraticForm
from lambda_hat.problems.kinks import kink_shift_bias, settle

QUICK = {"steps": 300, "restarts": 4, "polish_steps": 200, "shakes": 1}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def build(*, seed=0, teacher="_null", training=None, **overrides):
    overrides = {"training": {**QUICK, **(training or {})}, **overrides}
    return build_problem(
        compose_problem({"seed": seed, "teacher": teacher, "overrides": overrides})
    )


def loss_of(problem):
    return jax.jit(lambda w: jnp.mean(problem.form.losses(w, problem.data)))


@pytest.fixture(scope="module")
def small():
    """The default problem, as a user gets it."""
    return build_problem(compose_problem({}))


# Evidence


def test_the_default_problem_is_at_a_minimum(small):
    evidence = small.evidence
    assert evidence["status"] in ("ok", "kink") and evidence["reasons"] == []
    assert 0 <= evidence["relative_shift_bias"] < 0.005
    assert small.init_loss < 0.01  # The noise floor, less what 45 parameters fit of it.
    assert small.w_star.dtype == np.float64


def test_a_tethered_posterior_finds_nothing_below_the_minimum(small):
    rng, nbeta = np.random.default_rng(0), small.config.nbeta
    losses = jax.jit(jax.vmap(loss_of(small)))
    for width in (1.0, 0.3, 0.1, 0.03, 0.01, 1e-3, 1e-4):
        near = small.w_star + width * rng.standard_normal((2000, len(small.w_star)))
        gain = nbeta * (small.init_loss - float(losses(near).min()))
        assert gain < 0 if width >= 0.03 else gain < 0.005 * small.evidence["laplace_llc"]


def test_the_evidence_is_what_it_says(small):
    loss = loss_of(small)
    hessian = np.asarray(jax.hessian(loss)(small.w_star))
    grad = np.asarray(jax.grad(loss)(small.w_star))
    nbeta, gamma = small.config.nbeta, small.config.posterior.gamma
    h = np.linalg.eigvalsh(hessian)
    h = h[h > 0]
    assert small.evidence["laplace_llc"] == pytest.approx(
        np.sum(0.5 * nbeta * h / (nbeta * h + gamma))
    )
    assert small.evidence["grad_norm"] == pytest.approx(np.linalg.norm(grad), rel=1e-6, abs=1e-12)
    newton = np.linalg.solve(hessian + gamma / nbeta * np.eye(len(grad)), grad)
    smooth = 0.5 * nbeta * grad @ newton
    assert small.evidence["smooth_shift_bias"] == pytest.approx(smooth, rel=0.05, abs=1e-9)


def test_training_is_the_same_every_time(small):
    again = build_problem(small.config)
    assert np.array_equal(small.w_star, again.w_star) and small.evidence == again.evidence


@pytest.mark.parametrize("activation", ["tanh", "gelu", "identity"])
def test_smooth_networks_reach_a_vanishing_gradient(activation):
    problem = build(model={"activation": activation}, training={"polish_steps": 2000})
    assert problem.evidence["status"] == "ok"
    assert problem.evidence["relative_shift_bias"] < 1e-3


def test_an_identity_network_reaches_least_squares():
    problem = build(model={"activation": "identity"})
    design = np.column_stack([problem.data["x"], np.ones(100)])
    residual = np.linalg.lstsq(design, problem.data["y"][:, 0])[1][0]
    assert problem.init_loss == pytest.approx(residual / 100, rel=1e-9)


def test_a_point_that_is_no_minimum_is_refused():
    evidence = build(training={"steps": 0, "polish_steps": 0, "shakes": 0}, teacher="base").evidence
    assert evidence["status"] == "refused"
    assert any("w* must be a local minimum" in reason for reason in evidence["reasons"])


def test_the_teacher_in_place_of_the_minimum_is_refused():
    kind = {"steps": 0, "polish_steps": 0, "shakes": 0}
    sharp = {"loss": "gaussian_nll"}
    evidence = build(training=kind, model={"activation": "tanh"}, posterior=sharp).evidence
    assert evidence["status"] == "refused"
    assert evidence["relative_shift_bias"] > 0.02


def test_a_loss_that_blows_up_is_refused_in_words():
    training = {"learning_rate": 1e200, "polish_steps": 0, "shakes": 0}
    evidence = build(training=training, teacher="base").evidence
    assert evidence["status"] == "refused" and "finite" in evidence["reasons"][0]


CHANGES = {
    "steps": 100,
    "learning_rate": 0.03,
    "batch_size": 20,
    "restarts": 1,
    "polish_steps": 3,
    "shakes": 4,
    "shift_bias_tol": 1e-12,
}


def test_every_training_key_is_tried():
    assert set(CHANGES) == {field.name for field in dataclasses.fields(TrainingConfig)}


@pytest.mark.parametrize("key", CHANGES)
def test_every_training_key_changes_what_is_found(key):
    # A teacher of another kind, so that no start is already near a minimum.
    base = {"shakes": 0}
    before = build(seed=1, teacher="base", training=base)
    after = build(seed=1, teacher="base", training={**base, key: CHANGES[key]})
    assert before.evidence != after.evidence
    if key == "shift_bias_tol":
        assert after.evidence["status"] == "refused"
    else:
        assert not np.array_equal(before.w_star, after.w_star)


# Deadline


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_a_deadline_and_the_pieces_it_is_looked_at_between_change_no_bit(activation, monkeypatch):
    settings = {"model": {"activation": activation}, "training": {"batch_size": 20}}
    whole = build(**settings)
    monkeypatch.setattr(deadline, "PIECE_SECONDS", 0.0)  # A step a piece.
    with training_until(time.monotonic() + 1e6):
        cut = build(**settings)
    assert np.array_equal(whole.w_star, cut.w_star) and whole.evidence == cut.evidence


@pytest.mark.parametrize(
    "training, reached",
    [
        ({}, "after 0 of 300 steps of Adam from 4 points."),
        ({"steps": 0}, "after 0 of 200 steps of polishing 4 points."),
        ({"steps": 0, "polish_steps": 0}, "after 0 of at most 1 rounds of shakes."),
        ({"steps": 0, "polish_steps": 0, "shakes": 0}, "before the evidence for the minimum."),
    ],
)
def test_every_phase_ends_at_the_deadline_with_a_sentence(training, reached):
    words = "Training must end within the budget, but had taken .* s of it"
    with training_until(time.monotonic()), pytest.raises(TrainingUnfinished, match=words) as end:
        build(training=training)
    assert str(end.value).endswith(reached)
    assert build(training={**training, "steps": 0}).w_star.size == 45  # No deadline outside.


def test_settling_ends_at_the_deadline():
    rules = {"nbeta": 100.0, "gamma": 1.0, "enough": 1e-6, "rounds": 50}
    rng = np.random.default_rng(0)
    words = "0 of at most 50 rounds of settling"
    with training_until(time.monotonic()), pytest.raises(TrainingUnfinished, match=words):
        settle(Fold(), {}, jnp.ones(3), rng, **rules)


# Descent


@pytest.mark.parametrize("d", [20, DENSE_MAX_DIM + 50])
def test_descent_reaches_the_minimum_of_a_stretched_bowl(d):
    h = jnp.geomspace(1e-3, 10.0, d)
    w, value = descend(lambda w: 0.5 * h @ (w - 1) ** 2, jnp.zeros(d), jnp.asarray(2000))
    assert float(value) < 1e-12
    assert np.abs(np.asarray(w) - 1).max() < 1e-4


def test_descent_follows_rosenbrocks_valley():
    def rosenbrock(w):
        return 100 * (w[1] - w[0] ** 2) ** 2 + (1 - w[0]) ** 2

    w, _ = descend(rosenbrock, jnp.array([-1.2, 1.0]), jnp.asarray(500))
    assert np.asarray(w) == pytest.approx([1.0, 1.0], abs=1e-6)


def test_descent_never_climbs_and_stops_where_it_is_told():
    h = jnp.geomspace(1e-3, 10.0, 20)
    bowl = lambda w: 0.5 * h @ w**2  # noqa: E731
    values = [float(descend(bowl, jnp.ones(20), jnp.asarray(k))[1]) for k in (0, 1, 2, 5, 20)]
    assert values[0] == float(bowl(jnp.ones(20))) and values == sorted(values, reverse=True)


# Kinks


@dataclasses.dataclass(frozen=True)
class Fold:
    """L = |w_1 - w_2| + 1/2 (w_1 + w_2 - 2)^2 + 1/2 (w_3)^2: the minimum (1, 1, 0) is on a kink."""

    has_rows = False
    has_kinks = True

    def losses(self, w, data):
        return (jnp.abs(w[0] - w[1]) + 0.5 * (w[0] + w[1] - 2) ** 2 + 0.5 * w[2] ** 2)[None]


def measured(form, w, data):
    rng = np.random.default_rng(0)
    w = jnp.asarray(w)
    curvature = measure_curvature(form, data, w, nbeta=100.0, gamma=1.0, rng=rng)
    grad = np.asarray(jax.grad(lambda w: form.losses(w, data).mean())(w))
    return curvature, shift_bias(form, data, w, curvature, grad), rng


def test_the_generalised_gradient_vanishes_at_a_minimum_on_a_kink():
    w = jnp.array([1 + 1e-10, 1.0, 0.0])
    curvature, smooth, rng = measured(Fold(), w, {})
    assert smooth > 100
    assert kink_shift_bias(Fold(), {}, w, curvature, rng) < 1e-4


def test_it_does_not_vanish_elsewhere_on_the_kink():
    w = jnp.array([0.5 + 1e-10, 0.5, 0.0])
    curvature, _, rng = measured(Fold(), w, {})
    # There the loss falls along the kink by 1/2, which the ridge of 0.01 hardly dampens.
    assert kink_shift_bias(Fold(), {}, w, curvature, rng) == pytest.approx(50, rel=0.05)


def test_descent_goes_on_along_a_kink():
    w = settle(
        Fold(),
        {},
        jnp.array([0.5 + 1e-10, 0.5, 0.3]),
        np.random.default_rng(0),
        nbeta=100.0,
        gamma=1.0,
        enough=1e-6,
        rounds=50,
    )
    assert np.asarray(w) == pytest.approx([1.0, 1.0, 0.0], abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_relu_networks_with_a_sharp_likelihood_settle(seed):
    problem = build(seed=seed, posterior={"loss": "gaussian_nll"}, training={"shakes": 8})
    assert problem.evidence["status"] in ("ok", "kink"), problem.evidence["reasons"]
    losses = problem.evidence["shaken_losses"]
    assert losses == sorted(losses, reverse=True) and problem.init_loss == pytest.approx(losses[-1])


# Large problems


def test_lanczos_and_conjugate_gradients_agree_with_the_matrix():
    d = 700
    h = np.concatenate([np.geomspace(1e-3, 1.0, 650), np.zeros(50)])
    w = jnp.asarray(np.random.default_rng(1).standard_normal(d))
    curvature, smooth, _ = measured(QuadraticForm(), w, {"curvature": jnp.asarray(h)[None]})
    assert curvature.vectors is None
    assert curvature.laplace_llc == pytest.approx(np.sum(0.5 * 100 * h / (100 * h + 1)), rel=0.02)
    exact = 0.5 * 100 * np.sum((h * np.asarray(w)) ** 2 / (h + 0.01))
    assert exact <= smooth < 1.001 * exact


def descend(loss: Callable[[Array], Array], w: Array, max_steps: Array) -> tuple[Array, Array]:
    """Where a descent from `w` ends, and its loss there."""
    end = go_on(loss, begin(loss, w), max_steps)
    return end.w, end.loss
