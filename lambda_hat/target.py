"""Problem -> Target: the loss, tempered by n*beta and tethered at the trained minimum.

The one convention of this package, explained in docs/target.md:

    p(w) ~ exp(-nbeta * L_n(w) - gamma/2 * |w - w*|^2),    nbeta = n * beta0 / log n.

A `Form` says which program computes L_n and is static; every array is an argument of that
program, so one compiled sampler serves every problem of a shape.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


@runtime_checkable
class Form(Protocol):
    """What computes the loss: a frozen, hashable value (architecture and kind of loss)."""

    @property
    def has_rows(self) -> bool:
        """Whether `data` has n rows; if not, L_n is a population loss and a batch is the whole."""
        ...

    def losses(self, w: Float[Array, " d"], data: Any) -> Float[Array, " rows"]:
        """Loss of each row of `data` at the flat parameter `w`; one row for a population loss."""
        ...


class Statistics(Protocol):
    """What the mean loss over all rows needs of the data, where that is less than the rows."""

    def mean_loss(self, form: Any, w: Float[Array, " d"]) -> Float[Array, ""]:
        """L_n(w)."""
        ...


class Arrays(NamedTuple):
    """Everything about a target that a compiled program takes as an argument."""

    data: Any
    w_star: Float[Array, " d"]
    nbeta: Float[Array, ""]
    gamma: Float[Array, ""]
    statistics: Any = None
    """`Statistics`, a pytree, or None where L_n needs every row of `data`."""
    surrogate: Any = None
    """`samplers.surrogate.Surrogate`, or None: what trajectories follow between two kicks."""
    narrow: Any = None
    """`samplers.metric.Narrow`, or None: directions in which the posterior is narrow."""


@dataclass(frozen=True)
class Target:
    """The tempered, tethered posterior of one problem.

    Attributes:
        form: which program computes the loss.
        arrays: data, centre, temperature and tether, all of one floating dtype.
        n: number of data.
        init_loss: L_n(w*), in the precision of the arrays, as the losses of its draws are.
    """

    form: Form
    arrays: Arrays
    n: int
    init_loss: float

    @property
    def d(self) -> int:
        """Number of parameters."""
        return self.arrays.w_star.shape[0]

    @property
    def nbeta(self) -> float:
        """The tempered number of data, n * beta."""
        return float(self.arrays.nbeta)


def make_target(
    form: Form,
    data: Any,
    w_star: Any,
    *,
    nbeta: float,
    gamma: float,
    n: int,
    init_loss: float,
    dtype: str,
    statistics: Statistics | None = None,
) -> Target:
    """A target whose floating arrays are all of `dtype` ("float32" or "float64").

    Raises:
        ValueError: if float64 is asked for where JAX would silently cut it to 32 bits.
    """
    if dtype == "float64" and not jax.config.read("jax_enable_x64"):
        raise ValueError("float64 needs `with jax.enable_x64(True)` around the whole job.")

    def cast(leaf: Any) -> Array:
        array = jnp.asarray(leaf)
        return array.astype(dtype) if jnp.issubdtype(array.dtype, jnp.floating) else array

    arrays = Arrays(
        data=jax.tree.map(cast, data),
        w_star=cast(w_star),
        nbeta=jnp.asarray(nbeta, dtype),
        gamma=jnp.asarray(gamma, dtype),
        statistics=jax.tree.map(cast, statistics),
    )
    return Target(form=form, arrays=arrays, n=n, init_loss=init_loss)


def num_rows(form: Form, arrays: Arrays) -> int:
    """Rows of `data`; a population loss counts as one."""
    return _count_rows(form, arrays.data)


def _count_rows(form: Form, data: Any) -> int:
    return jax.tree.leaves(data)[0].shape[0] if form.has_rows else 1


def loss(form: Form, arrays: Arrays, w: Float[Array, " d"]) -> Float[Array, ""]:
    """L_n(w): the mean loss over all data."""
    if arrays.statistics is not None:
        return arrays.statistics.mean_loss(form, w)
    return mean_loss(form, arrays.data, w)


BLOCK_ROWS = {"cpu": 1000}
"""Rows evaluated at a time: what they leave in between stays in a core's cache. 500 to 1000 are
within a tenth of the best from 45 to 10 000 parameters and from 1 to 64 chains."""
ACCELERATOR_BLOCK_ROWS = 2**16
"""The same where memory, and not a cache, bounds what many chains keep."""


def block_rows() -> int:
    """The most rows that are evaluated at a time."""
    return BLOCK_ROWS.get(jax.default_backend(), ACCELERATOR_BLOCK_ROWS)


def mean_loss(form: Form, data: Any, w: Float[Array, " d"]) -> Float[Array, ""]:
    """The mean of `form.losses` over all rows of `data`, a block of rows at a time.

    Value, gradient and Hessian-vector products all pass over the rows once and keep nothing of a
    block when they go on to the next. Under `vmap` all of the batch passes over a block before
    the next one. Derivatives are with respect to `w` alone.
    """
    rows, most = _count_rows(form, data), block_rows()
    if rows <= most:
        return jnp.mean(form.losses(w, data))
    return _sum_of_losses(form, -(-rows // most), data, w) / rows


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _sum_of_losses(form: Form, blocks: int, data: Any, w: Array) -> Array:
    """The sum of the losses of all rows, in `blocks` blocks and what is left over."""
    return _over_blocks(lambda w, block: jnp.sum(form.losses(w, block)), blocks, data, w)


@_sum_of_losses.defjvp
def _(form: Form, blocks: int, primals: Any, tangents: Any) -> tuple[Array, Array]:
    """The gradient comes with the value, block by block; the rule itself can be derived again."""
    (data, w), (_, tangent) = primals, tangents
    value_and_gradient = jax.value_and_grad(lambda w, block: jnp.sum(form.losses(w, block)))
    value, gradient = _over_blocks(value_and_gradient, blocks, data, w)
    return value, jnp.vdot(gradient, tangent)


def _over_blocks(function: Callable, blocks: int, data: Any, w: Array) -> Any:
    """The sum of `function(w, block)` over equal blocks of rows and the few that are left over."""
    rows = jax.tree.leaves(data)[0].shape[0]
    size = rows // blocks

    def at(start: Any, length: int) -> Any:
        return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, length), data)

    def add(total: Any, start: Array) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, function(w, at(start, size))), None

    zero = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function, w, at(0, size))
    )
    total, _ = jax.lax.scan(add, zero, size * jnp.arange(blocks))
    if left := rows - blocks * size:
        return jax.tree.map(jnp.add, total, function(w, at(blocks * size, left)))
    return total


def hessian_vector_product(
    function: Callable[[Array], Array], w: Float[Array, " d"], vector: Float[Array, " d"]
) -> Float[Array, " d"]:
    """H(w) v of a scalar function, forward over reverse: about two gradients."""
    return jax.jvp(jax.grad(function), (w,), (vector,))[1]


class Minibatch(NamedTuple):
    """Rows of the data, and how much each of them counts."""

    data: Any
    """The rows; None stands for all of them, by way of `loss`."""
    weights: Float[Array, " rows"] | None


WHOLE = 0
"""Rows of a program whose batch is all of the data."""


def draw_minibatch(
    form: Form, arrays: Arrays, key: PRNGKeyArray, batch: int | Array, rows: int
) -> Minibatch:
    """A minibatch of `batch` rows, drawn with replacement.

    Args:
        form: which program computes the loss.
        arrays: of the target.
        key: of the draw.
        batch: its size, which may be traced: one program serves all up to `rows`. From n on it is
            all of the data, each row once.
        rows: how many are evaluated, `WHOLE` or `batch` to n; those beyond `batch` count nothing.
    """
    if rows == WHOLE or not form.has_rows:
        return Minibatch(None, None)
    n, place = num_rows(form, arrays), jnp.arange(rows)
    # Its remainders are uneven by n / 2^32; `randint`'s are not, in three times the program.
    index = (jax.random.bits(key, (rows,), "uint32") % n).astype(jnp.int32)
    if rows == n:
        index = jnp.where(batch >= n, place, index)
    counts = jnp.minimum(batch, n)
    weights = jnp.where(place < counts, 1.0 / counts, 0.0).astype(arrays.w_star.dtype)
    return Minibatch(jax.tree.map(lambda leaf: leaf[index], arrays.data), weights)


def loss_on(form: Form, arrays: Arrays, batch: Minibatch, w: Float[Array, " d"]) -> Array:
    """The mean loss over a minibatch: an unbiased estimate of L_n(w)."""
    if batch.weights is None:
        return loss(form, arrays, w)
    return batch.weights @ form.losses(w, batch.data)


def squared_distance(arrays: Arrays, w: Float[Array, " d"]) -> Float[Array, ""]:
    """|w - w*|^2."""
    shift = w - arrays.w_star
    return jnp.vdot(shift, shift)


def potential(form: Form, arrays: Arrays, w: Float[Array, " d"]) -> Float[Array, ""]:
    """U(w) = nbeta L_n(w) + gamma/2 |w - w*|^2, so that p ~ exp(-U)."""
    return arrays.nbeta * loss(form, arrays, w) + 0.5 * arrays.gamma * squared_distance(arrays, w)


OVERFLOW = 1e100
"""A potential beyond this counts as infinite."""


def logdensity(form: Form, arrays: Arrays, w: Float[Array, " d"]) -> Float[Array, ""]:
    """log p(w) up to a constant, -inf where the potential overflows.

    An unstable trajectory of a polynomial loss reaches 1e200, where a kinetic energy computed
    as a sum of products can overflow to -inf and be accepted for certain. With a log density of
    -inf there, the energy is NaN and the proposal is rejected.
    """
    value = potential(form, arrays, w)
    return jnp.where(value < OVERFLOW, -value, -jnp.inf)
