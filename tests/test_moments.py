"""The mean loss of a linear network from its moments is the mean of its rows' losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lambda_hat.conf import compose_problem
from lambda_hat.problems import build_problem
from lambda_hat.problems.forms import NetworkForm
from lambda_hat.problems.problem import Problem
from lambda_hat.target import loss


def rows(inputs: int, outputs: int, n: int = 50) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, inputs)) + 2.0
    return {"x": x, "y": x[:, :1] ** 2 + rng.normal(size=(n, outputs))}


@pytest.mark.parametrize("kind", ["mse", "gaussian_nll"])
@pytest.mark.parametrize("sizes", [(3, 2), (3, 4, 2), (3, 2, 5, 1)])
@pytest.mark.parametrize("bias", [True, False])
def test_the_mean_loss_of_a_linear_network(kind, sizes, bias):
    form = NetworkForm(sizes, bias, "identity", kind, noise_scale=0.3)
    data = rows(sizes[0], sizes[-1])
    count = sum(b * (a + bias) for a, b in zip(sizes[:-1], sizes[1:], strict=True))
    w = np.random.default_rng(1).normal(size=count)
    with jax.enable_x64(True):
        by_rows = lambda w: jnp.mean(form.losses(w, data))  # noqa: E731
        by_moments = lambda w: form.statistics(data).mean_loss(form, w)  # noqa: E731
        expected, found = (jax.value_and_grad(f)(jnp.asarray(w)) for f in (by_rows, by_moments))
    assert float(found[0]) == pytest.approx(float(expected[0]), rel=1e-12)
    assert np.asarray(found[1]) == pytest.approx(np.asarray(expected[1]), rel=1e-9, abs=1e-12)


def test_inputs_that_depend_on_each_other_have_moments_too():
    form, data = NetworkForm((4, 2), False, "identity", "mse"), rows(3, 2)
    data["x"] = np.column_stack([data["x"], data["x"][:, 0] - data["x"][:, 1]])
    w = np.random.default_rng(1).normal(size=8)
    with jax.enable_x64(True):
        found = form.statistics(data).mean_loss(form, jnp.asarray(w))
        expected = jnp.mean(form.losses(jnp.asarray(w), data))
    assert float(found) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize(
    ("activation", "kind"), [("relu", "mse"), ("identity", "student_t_nll"), ("tanh", "mse")]
)
def test_other_losses_need_their_rows(activation, kind):
    assert NetworkForm((3, 2, 1), True, activation, kind).statistics(rows(3, 1)) is None


def test_a_drawn_deep_linear_target_uses_its_moments():
    spec = {"model": "deep_linear", "overrides": {"data": {"n": 60}, "model": {"rank": 1}}}
    spec["overrides"]["model"]["population"] = False
    problem: Problem = build_problem(compose_problem(spec))
    with jax.enable_x64(True):
        target = problem.target("float64")
        w = target.arrays.w_star + 0.1
        expected = float(jnp.mean(problem.form.losses(w, problem.data)))
        assert float(loss(target.form, target.arrays, w)) == pytest.approx(expected, rel=1e-12)
    assert target.arrays.statistics is not None
