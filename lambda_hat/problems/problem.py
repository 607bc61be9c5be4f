"""A problem ready to be sampled: data, loss, minimum, and the evidence for the minimum."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lambda_hat.conf.schema import ProblemConfig
from lambda_hat.problems.curvature import largest_curvature
from lambda_hat.problems.families import make_form
from lambda_hat.problems.forms import ProblemForm
from lambda_hat.store import digest_bytes
from lambda_hat.target import Target, loss, make_target, mean_loss


class ProblemRefused(ValueError):
    """No minimum was found that is one; the text says by how much it fails and what to change."""


EXACT = {"status": "exact", "reasons": []}
"""Evidence for a minimum in closed form; its gradient is measured all the same."""


@dataclass(frozen=True)
class Problem:
    """One problem, ready to be sampled.

    Attributes:
        config: What it was built from.
        form: The program that computes its loss.
        data: Arrays of `form`'s data, float64.
        w_star: The minimum, float64.
        init_loss: L_n(w*), float64.
        init_loss_float32: the same in float32: what losses of draws in float32 are compared with.
        evidence: Why w* is believed to be a local minimum; strict JSON. `status` is exact (known
            in closed form), ok, or kink (w* sits on a kink of the loss); the shift bias and the
            Laplace-type LLC it is compared with are in LLC units.
    """

    config: ProblemConfig
    form: ProblemForm
    data: dict[str, Float[np.ndarray, ...]]
    w_star: Float[np.ndarray, " d"]
    init_loss: float
    init_loss_float32: float
    evidence: dict[str, Any]

    @property
    def pid(self) -> str:
        """The problem's content address."""
        return self.config.pid

    @functools.cached_property
    def target_id(self) -> str:
        """Content address of the arrays: `t_` and the first 12 hex digits of their SHA-256.

        Training is chaotic: on another processor, or with another JAX, the same problem may end in
        another minimum, with another LLC. What is estimated is of one target, and says of which.
        """
        return f"t_{digest_bytes(self._content())[:12]}"

    def _content(self) -> Iterator[bytes]:
        for name, array in sorted({**self.data, "w_star": self.w_star}.items()):
            array = np.ascontiguousarray(array)
            yield f"{name} {array.dtype} {array.shape} ".encode()
            yield array.tobytes()

    def target(self, dtype: str) -> Target:
        """The tempered, tethered posterior in "float32" or "float64"."""
        return make_target(
            self.form,
            self.data,
            self.w_star,
            nbeta=self.config.nbeta,
            gamma=self.config.posterior.gamma,
            n=self.config.data.n,
            init_loss=self.init_loss if dtype == "float64" else self.init_loss_float32,
            dtype=dtype,
            statistics=self.form.statistics(self.data),
        )


def make_problem(
    config: ProblemConfig,
    data: dict,
    w_star: np.ndarray,
    evidence: dict,
    *,
    form: ProblemForm | None = None,
) -> Problem:
    """A Problem from its arrays; loss and gradient at w* are computed here, in float64.

    So is the largest curvature at a minimum in closed form: it bounds SGLD's step. `form` is the
    program of its loss where no config can name it.
    """
    form = make_form(config) if form is None else form
    with jax.enable_x64(True):
        value, grad = _loss_and_gradient(form, data, jnp.asarray(w_star))
        evidence = {**evidence, "grad_norm": float(np.linalg.norm(np.asarray(grad)))}
        problem = Problem(config, form, data, w_star, float(value), float(value), evidence)
        if evidence["status"] == EXACT["status"]:
            evidence["largest_curvature"] = largest_curvature(problem.target("float64"))
    return replace(problem, init_loss_float32=in_float32(problem))


def in_float32(problem: Problem) -> float:
    """L_n(w*) as a program in float32 has it."""
    target = problem.target("float32")
    return float(jax.jit(loss, static_argnums=0)(target.form, target.arrays, target.arrays.w_star))


@functools.partial(jax.jit, static_argnums=0)
def _loss_and_gradient(form: ProblemForm, data: dict, w: Array) -> tuple[Array, Array]:
    return jax.value_and_grad(lambda w: mean_loss(form, data, w))(w)
