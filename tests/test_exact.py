"""Exact answers against numbers known from elsewhere, and against brute force."""

import math

import numpy as np
import pytest
from scipy.integrate import dblquad, quad

from lambda_hat.conf import compose_problem
from lambda_hat.problems import build_problem, llc_exact, rlct
from lambda_hat.problems.exact import aoyagi, product_llc, quadratic_llc, two_layer_llc


def exact(model, n=1000, gamma=1.0, overrides=None, **settings):
    spec = {
        "model": model,
        "overrides": {
            "model": settings,
            "data": {"n": n},
            "posterior": {"gamma": gamma},
        },
    }
    for group, keys in (overrides or {}).items():
        spec["overrides"].setdefault(group, {}).update(keys)
    config = compose_problem(spec)
    return llc_exact(build_problem(config)), rlct(config)


@pytest.mark.parametrize(
    ("model", "settings", "n", "gamma", "value", "limit"),
    [
        ("quadratic", {"curvature": [1, 4, 0.1]}, 1000, 1, 1.4634007542, (1.5, 1)),
        ("quadratic", {"curvature": [1, 4, 0.1]}, 1000, 100, 0.7853200810, (1.5, 1)),
        ("normal_crossing", {"powers": [2]}, 1000, 1, 0.24309304, (0.25, 1)),
        ("normal_crossing", {"powers": [2]}, 1000, 10, 0.19021959, (0.25, 1)),
        ("normal_crossing", {"powers": [1, 1]}, 1000, 1, 0.3614032902, (0.5, 2)),
        ("normal_crossing", {"powers": [1, 1]}, 10000, 1, 0.3912465565, (0.5, 2)),
        ("deep_linear", {"widths": [3, 3, 1], "rank": 0}, 1000, 1, 1.2837068, (1.5, 2)),
    ],
)
def test_known_answers(model, settings, n, gamma, value, limit):
    found, coefficient = exact(model, n, gamma, **settings)
    digits = 1e-7 if value == 1.2837068 else 1e-8
    assert found == pytest.approx(value, abs=digits)
    assert coefficient == limit


@pytest.mark.parametrize(
    ("widths", "rank", "answer"),
    [
        ((4, 3), 3, (6, 1)),
        ((1, 1, 1), 0, (0.5, 2)),
        ((1, 1, 1, 1), 0, (0.5, 3)),
        ((2, 2, 2), 0, (1.5, 1)),
        ((2, 2, 2), 1, (2, 2)),
        ((3, 3, 3), 1, (4, 1)),
        ((4, 3, 8), 1, (8.5, 1)),
        ((10, 20, 20, 10), 4, (50, 1)),
    ],
)
def test_aoyagis_theorem(widths, rank, answer):
    assert aoyagi(widths, rank) == answer
    assert aoyagi(widths[::-1], rank) == answer


def test_the_coefficient_of_a_wide_shallow_network_is_that_of_regression():
    assert aoyagi((3, 50, 4), 3) == (6, 1)  # No bottleneck, full rank: 3 * 4 / 2.


@pytest.mark.parametrize(("powers", "nbeta", "gamma"), [((3,), 50.0, 2.0), ((1, 2), 20.0, 0.7)])
def test_a_normal_crossing_against_brute_force(powers, nbeta, gamma):
    def weight(*w):
        k = math.prod(x ** (2 * p) for x, p in zip(w, powers, strict=True))
        return k, math.exp(-nbeta * k - 0.5 * gamma * sum(x * x for x in w))

    if len(powers) == 1:
        top = quad(lambda x: math.prod(weight(x)), 0, 12, epsabs=1e-12)[0]
        bottom = quad(lambda x: weight(x)[1], 0, 12, epsabs=1e-12)[0]
    else:
        top = dblquad(lambda y, x: math.prod(weight(x, y)), 0, 12, 0, 12, epsabs=1e-9)[0]
        bottom = dblquad(lambda y, x: weight(x, y)[1], 0, 12, 0, 12, epsabs=1e-9)[0]
    found = product_llc(nbeta, gamma, dims=(1,) * len(powers), powers=powers)
    assert found == pytest.approx(nbeta * top / bottom, abs=1e-6)


def test_a_normal_crossing_tends_to_its_coefficient():
    assert product_llc(1e12, 1.0, dims=(1, 1), powers=(2, 1)) == pytest.approx(0.25, abs=1e-3)


@pytest.mark.parametrize("gamma", [0.3, 20.0])
def test_a_homogeneous_loss_has_an_answer_of_one_ratio(gamma):
    product = {"dims": (1, 2), "powers": (2, 1)}  # Of degree 6.
    scaled = product_llc(50.0 / gamma**3, 1.0, **product)
    assert product_llc(50.0, gamma, **product) == pytest.approx(scaled, rel=1e-10)
    scaled = two_layer_llc((3, 2, 4), 50.0 / gamma**2, 1.0)
    assert two_layer_llc((3, 2, 4), 50.0, gamma) == pytest.approx(scaled, rel=1e-8)


@pytest.mark.parametrize("widths", [(3, 1, 4), (2, 1, 2), (1, 1, 1)])
def test_one_hidden_unit_is_a_product_of_norms(widths):
    product = product_llc(140.0, 1.7, dims=(widths[0], widths[2]), powers=(1, 1), scale=0.5)
    assert two_layer_llc(widths, 140.0, 1.7) == pytest.approx(product, abs=1e-8)


@pytest.mark.parametrize("widths", [(3, 3, 3), (2, 2, 2), (4, 2, 3)])
def test_two_layers_against_draws_of_the_wishart_matrix(widths):
    inputs, hidden, outputs = widths
    nbeta, gamma, rng = 4.0, 1.3, np.random.default_rng(0)
    layer = rng.normal(size=(200_000, outputs, hidden)) / np.sqrt(gamma)
    squares = np.linalg.svd(layer, compute_uv=False) ** 2 * nbeta / gamma
    log_weight = -0.5 * inputs * np.log1p(squares).sum(axis=1)
    weight = np.exp(log_weight - log_weight.max())
    value = (0.5 * inputs * squares / (1 + squares)).sum(axis=1)
    mean = np.average(value, weights=weight)
    se = np.sqrt(np.sum((weight * (value - mean)) ** 2)) / weight.sum()
    assert se < 0.01 * mean
    assert abs(two_layer_llc(widths, nbeta, gamma) - mean) < 3 * se


def test_it_does_not_matter_which_way_round_a_network_is():
    forwards, backwards = two_layer_llc((7, 3, 4), 500.0, 0.8), two_layer_llc((4, 3, 7), 500.0, 0.8)
    assert forwards == pytest.approx(backwards, abs=1e-8)


def test_two_layers_tend_to_aoyagis_coefficient():
    assert two_layer_llc((2, 2, 2), 1e10, 1.0) == pytest.approx(1.5, abs=1e-4)


def test_no_answer_is_given_where_digits_would_be_lost():
    assert two_layer_llc((20, 20, 20), 100.0, 1.0) is None
    assert two_layer_llc((4, 4, 4), 1e12, 1.0) is None


def test_the_chain_of_scalars_is_a_normal_crossing():
    chain, coefficient = exact("deep_linear", widths=[1, 1, 1, 1], rank=0)
    nbeta = 1000 / math.log(1000)
    assert chain == pytest.approx(
        product_llc(nbeta, 1.0, dims=(1, 1, 1), powers=(1, 1, 1), scale=0.5), abs=1e-10
    )
    assert coefficient == (0.5, 3)


def gaussian_answer(problem):
    """The exact LLC of a problem with a quadratic loss, from its Hessian by finite differences."""
    import jax

    with jax.enable_x64(True):
        loss = lambda w: problem.form.losses(w, problem.data).mean()  # noqa: E731
        hessian = np.asarray(jax.hessian(loss)(jax.numpy.asarray(problem.w_star)))
    h = np.linalg.eigvalsh(hessian)
    return quadratic_llc(h, problem.config.nbeta, problem.config.posterior.gamma)


@pytest.mark.parametrize(
    "spec",
    [
        {"model": "linear"},
        {"model": "linear", "overrides": {"posterior": {"loss": "gaussian_nll", "gamma": 50}}},
        {"model": "linear", "teacher": "small", "overrides": {"model": {"bias": False}}},
        {
            "model": "deep_linear",
            "overrides": {"model": {"widths": [3, 2], "rank": 2, "population": False}},
        },
        {"model": "deep_linear", "overrides": {"model": {"widths": [3, 2], "rank": 2}}},
    ],
)
def test_regression_is_exact_from_its_eigenvalues(spec):
    problem = build_problem(compose_problem(spec))
    assert llc_exact(problem) == pytest.approx(gaussian_answer(problem), rel=1e-10)


def test_where_no_answer_is_known_none_is_given():
    config = compose_problem({})
    assert rlct(config) is None
    found, _ = exact("deep_linear", widths=[3, 3, 1], rank=1)
    assert found is None
