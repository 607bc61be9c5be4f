"""The mean loss over all rows, a block at a time, is the mean of the rows' losses."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lambda_hat import target
from lambda_hat.problems.forms import NetworkForm
from lambda_hat.target import hessian_vector_product, mean_loss

FORM = NetworkForm((3, 4, 2), True, "tanh", "mse")
D = 3 * 4 + 4 + 4 * 2 + 2


@pytest.fixture(autouse=True)
def hundred_rows_a_block(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(target, "BLOCK_ROWS", {"cpu": 100})
    with jax.enable_x64(True):
        yield


def rows(n: int) -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    return {"x": jnp.asarray(rng.normal(size=(n, 3))), "y": jnp.asarray(rng.normal(size=(n, 2)))}


def at_once(data: Any, w: jax.Array) -> jax.Array:
    return jnp.mean(FORM.losses(w, data))


W = np.random.default_rng(1).normal(size=(5, D))


@pytest.mark.parametrize("n", [101, 200, 997])
def test_blocks_change_neither_loss_nor_gradient_nor_curvature(n: int) -> None:
    data, w, v = rows(n), jnp.asarray(W[0]), jnp.asarray(W[1])
    for measure in (
        lambda loss: loss(w),
        lambda loss: jax.value_and_grad(loss)(w)[0],
        lambda loss: jax.grad(loss)(w),
        lambda loss: hessian_vector_product(loss, w, v),
        lambda loss: jax.hessian(loss)(w),
    ):
        found = jax.jit(measure, static_argnums=0)(lambda w: mean_loss(FORM, data, w))
        expected = jax.jit(measure, static_argnums=0)(lambda w: at_once(data, w))
        assert np.asarray(found) == pytest.approx(np.asarray(expected), rel=1e-11, abs=1e-13)


def test_a_batch_of_parameters_gets_the_gradients_of_each() -> None:
    data = rows(350)
    gradients = jax.vmap(jax.grad(lambda w: mean_loss(FORM, data, w)))(jnp.asarray(W))
    each = [jax.grad(lambda w: at_once(data, w))(jnp.asarray(w)) for w in W]
    assert np.asarray(gradients) == pytest.approx(np.asarray(each), rel=1e-11)


def test_no_block_outlives_its_turn() -> None:
    """Memory beyond the data does not grow with n, for value, gradient and curvature."""
    w = jnp.asarray(W[0])

    def temporary(n: int, function: Any) -> int:
        analysis = jax.jit(function).lower(rows(n), w).compile().memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    for function in (
        lambda data, w: mean_loss(FORM, data, w),
        lambda data, w: jax.grad(lambda w: mean_loss(FORM, data, w))(w),
        lambda data, w: hessian_vector_product(lambda w: mean_loss(FORM, data, w), w, w),
    ):
        assert temporary(10_000, function) <= temporary(1_000, function) + 1024


def test_few_rows_are_one_block() -> None:
    text = jax.jit(lambda data, w: mean_loss(FORM, data, w)).lower(rows(100), W[0]).as_text()
    assert "while" not in text
