"""VI: q(w) = sum_m pi_m N(w; w* + S mu_m, S (A_m A_m^T + diag(s_m^2)) S), fitted to the ELBO.

A mixture of M factor analysers of rank r (Ghahramani & Hinton 1996) minimises
E_q[log q + U], where U = nbeta L_n + gamma/2 |w - w*|^2. The expectation is stratified: it is
sum_m pi_m E_{q_m}[..], so the weights pi have exact derivatives (Morningstar et al. 2021).
Draws are reparametrised and log q holds its own parameters fixed, "sticking the landing"
(Roeder, Wu & Duvenaud 2017): where q is the posterior, the gradient vanishes draw by draw.
S whitens by the gradient's moments near w*; see `whitening` and docs/vi_mfa.md.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float, PRNGKeyArray

from lambda_hat.conf.samplers import VIConfig as Config
from lambda_hat.samplers.base import Draw, Info, Plan, Sampler
from lambda_hat.target import Arrays, Form, Target, loss, minibatch_loss, squared_distance

DTYPE = "float32"
DRAW_WORK = 0.0
"""`Info.work` counts the full losses itself, because draws during the fit are cheaper."""
NUM_CHAINS = 4
"""Independent draws recorded at a time: chains in name, so that R-hat and ESS apply."""
WARMUP_SHARE = 0.75
NUM_PROBES = 1_000
"""Minibatch gradients behind S."""
MEMORY = {"none": 0.0, "rmsprop": 0.99, "adam": 0.999}
"""Decay of the second moment, a probe."""
GUIDE_MEMORY = 0.9
"""Decay of the moment that says how far from w* to probe."""
SPREAD = 0.5
"""Distance between components at the start, in whitened widths, whatever the dimension."""
COLLAPSED = 1e-3
"""A component that weighs less is out of the mixture."""


class Params(NamedTuple):
    """The mixture in whitened coordinates z = (w - w*) / S."""

    logits: Float[Array, " M"]
    shift: Float[Array, "M d"]
    """mu_m."""
    loading: Float[Array, "M d r"]
    """A_m."""
    log_scale: Float[Array, "M d"]
    """log s_m."""


class Report(NamedTuple):
    """Running means over the last steps of the fit."""

    elbo: Float[Array, ""]
    entropy: Float[Array, ""]
    scale_gradient: Float[Array, ""]
    """Derivative of -ELBO by the log of q's size, which is E_q[(w - w*) . grad U] - d."""


class State(NamedTuple):
    """The mixture, its optimiser, and the coordinates they live in."""

    params: Params
    moments: Any
    whitening: Float[Array, " d"]
    """The diagonal of S."""
    report: Report


class Structure(NamedTuple):
    M: int
    r: int
    batch_size: int
    num_samples: int


class Settings(NamedTuple):
    num_warmup: int
    lr: float
    num_probes: int
    memory: float
    corrected: int
    """1 where the second moment is corrected for its start at 1."""


def plan(config: Config) -> Plan:
    """Warm-up is the fit; every draw after it is fresh."""
    return Plan(config.steps, -(-config.eval_draws // NUM_CHAINS), 1, WARMUP_SHARE)


def structure(config: Config) -> Structure:
    """Numbers of components, factors, rows and samples shape the program."""
    return Structure(config.M, config.r, config.batch_size, config.num_samples)


def settings(config: Config) -> Settings:
    """What is traced: the three whitenings are one program."""
    mode = config.whitening_mode
    probes = 0 if mode == "none" else NUM_PROBES
    return Settings(config.steps, float(config.lr), probes, MEMORY[mode], int(mode == "adam"))


def refusal(target: Target, config: Config) -> str | None:
    """Factors beyond the dimension add nothing to a full covariance."""
    if config.r <= target.d:
        return None
    return f"`r <= d` must hold for vi, but got r={config.r} with d={target.d}. Lower r."


def width(arrays: Arrays, second_moment: Float[Array, " d"]) -> Float[Array, " d"]:
    """The S_i > 0 that solves S_i (nbeta sqrt(v_i) + gamma S_i) = 1.

    It is the virial identity E[(w - w*)_i dU/dw_i] = 1 with root-mean-square sizes for its two
    factors; on a diagonal quadratic, probed at that width, 1/sqrt(nbeta h_i + gamma).
    """
    pull = arrays.nbeta * jnp.sqrt(second_moment)
    return 2.0 / (pull + jnp.sqrt(pull**2 + 4.0 * arrays.gamma))


def log_density(params: Params, z: Float[Array, " d"]) -> Float[Array, ""]:
    """log q in whitened coordinates; the largest matrix factorised is r x r (Woodbury)."""
    inverse_scale = jnp.exp(-params.log_scale)
    residual = (z - params.shift) * inverse_scale
    square = jnp.sum(residual**2, axis=-1)
    log_volume = jnp.sum(params.log_scale, axis=-1)
    rank = params.loading.shape[-1]
    if rank:
        factors = params.loading * inverse_scale[:, :, None]
        root = jnp.linalg.cholesky(jnp.eye(rank, dtype=z.dtype) + factors.mT @ factors)
        seen = jnp.einsum("mdr,md->mr", factors, residual)[:, :, None]
        square -= jnp.sum(solve_triangular(root, seen, lower=True) ** 2, axis=(1, 2))
        log_volume += jnp.sum(jnp.log(jnp.diagonal(root, axis1=1, axis2=2)), axis=-1)
    normal = -0.5 * (square + z.shape[0] * jnp.log(2.0 * jnp.pi)) - log_volume
    return jax.nn.logsumexp(jax.nn.log_softmax(params.logits) + normal)


def sample_component(
    key: PRNGKeyArray, shift: Array, loading: Array, log_scale: Array, shape: tuple[int, ...]
) -> Float[Array, "*shape d"]:
    """Reparametrised whitened draws of one component: mu + A eta + s eps."""
    factor_key, own_key = jax.random.split(key)
    d, rank = loading.shape
    eta = jax.random.normal(factor_key, (*shape, rank), shift.dtype)
    eps = jax.random.normal(own_key, (*shape, d), shift.dtype)
    return shift + eta @ loading.T + jnp.exp(log_scale) * eps


def build(form: Form, structure: Structure) -> Sampler:
    """VI on the targets of one form."""
    M, batch, num_samples = structure.M, structure.batch_size, structure.num_samples
    optimiser = optax.scale_by_adam()

    def whitening(key: PRNGKeyArray, arrays: Arrays, settings: Settings) -> Array:
        """S from moments of the minibatch loss gradient, all 1 without probes."""

        def probe(t: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            guide, moment = carry
            batch_key, point_key = jax.random.split(jax.random.fold_in(key, t))
            step = width(arrays, guide) * jax.random.normal(point_key, guide.shape, guide.dtype)
            g = jax.grad(lambda w: minibatch_loss(form, arrays, batch_key, w, batch))(
                arrays.w_star + step
            )
            guide = GUIDE_MEMORY * guide + (1.0 - GUIDE_MEMORY) * g**2
            return guide, settings.memory * moment + (1.0 - settings.memory) * g**2

        ones = jnp.ones_like(arrays.w_star)
        _, moment = jax.lax.fori_loop(0, settings.num_probes, probe, (ones, ones))
        left = settings.corrected * settings.memory**settings.num_probes
        moment = jnp.maximum(moment - left, 0.0) / (1.0 - left)
        return jnp.where(settings.num_probes > 0, width(arrays, moment), ones)

    def init(key: PRNGKeyArray, arrays: Arrays, settings: Settings) -> State:
        whiten_key, *keys = jax.random.split(key, 4)
        d, dtype = arrays.w_star.shape[0], arrays.w_star.dtype
        unit = jnp.where(settings.num_probes > 0, 1.0, (arrays.nbeta + arrays.gamma) ** -0.5)
        shapes = ((M, d), (M, d, structure.r), (M, d))
        shift, loading, jitter = (
            SPREAD * d**-0.5 * jax.random.normal(k, shape, dtype)
            for k, shape in zip(keys, shapes, strict=True)
        )
        params = Params(jnp.zeros(M, dtype), unit * shift, unit * loading, jnp.log(unit) + jitter)
        zero = jnp.zeros((), dtype)
        scale = whitening(whiten_key, arrays, settings)
        return State(params, optimiser.init(params), scale, Report(zero, zero, zero))

    def negative_elbo(
        params: Params, key: PRNGKeyArray, arrays: Arrays, scale: Array
    ) -> tuple[Array, Array]:
        """(E_q[log q + U], E_q[log q]) with the gradients of the module's docstring."""
        batch_key, sample_key = jax.random.split(key)
        fixed = jax.lax.stop_gradient(params)

        def one(z: Array) -> tuple[Array, Array]:
            w = arrays.w_star + scale * z
            energy = arrays.nbeta * minibatch_loss(form, arrays, batch_key, w, batch)
            energy += 0.5 * arrays.gamma * squared_distance(arrays, w)
            return log_density(fixed, z) - jnp.sum(jnp.log(scale)), energy

        def component(key: PRNGKeyArray, shift: Array, loading: Array, log_scale: Array) -> Any:
            z = sample_component(key, shift, loading, log_scale, (num_samples,))
            return jax.tree.map(jnp.mean, jax.vmap(one)(z))

        keys = jax.random.split(sample_key, M)
        logq, energy = jax.vmap(component)(keys, *params[1:])
        weights = jax.nn.softmax(params.logits)
        return weights @ (logq + energy), weights @ logq

    def fit(
        key: PRNGKeyArray, arrays: Arrays, settings: Settings, state: State, i: Array
    ) -> tuple[State, Array]:
        """One step of Adam, skipped where a gradient is not finite; (state, skipped)."""
        params = state.params
        (value, logq), gradient = jax.value_and_grad(negative_elbo, has_aux=True)(
            params, key, arrays, state.whitening
        )
        finite = jnp.isfinite(optax.tree.norm(gradient))
        done = i.astype(value.dtype) / settings.num_warmup
        rate = settings.lr * 0.5 * (1.0 + jnp.cos(jnp.pi * done))
        direction, moments = optimiser.update(gradient, state.moments)
        stepped = jax.tree.map(lambda x, u: x - rate * u, params, direction)
        news = Report(-value, -logq, _scale_gradient(params, gradient))
        share = jnp.maximum(1.0 / (i + 1.0), 0.01)
        report = jax.tree.map(lambda old, new: old + share * (new - old), state.report, news)
        moved = State(stepped, moments, state.whitening, report)
        return jax.tree.map(lambda a, b: jnp.where(finite, a, b), moved, state), ~finite

    def step(
        key: PRNGKeyArray, arrays: Arrays, settings: Settings, state: State, i: Array
    ) -> tuple[State, Info]:
        state, skipped = jax.lax.cond(
            i < settings.num_warmup,
            lambda: fit(key, arrays, settings, state, i),
            lambda: (state, jnp.asarray(False)),
        )
        each = jnp.ones(NUM_CHAINS, arrays.w_star.dtype)
        work = each * _work(form, arrays, structure, settings, i)
        absent = each * jnp.nan
        return state, Info(
            acceptance=absent, divergence=each * skipped, energy=absent, work=work
        )

    def draw(key: PRNGKeyArray, arrays: Arrays, settings: Settings, state: State, i: Array) -> Draw:
        """Fresh draws of q; during the fit their loss is a minibatch's, a trace to look at."""
        batch_key, sample_key = jax.random.split(key)

        def one(key: PRNGKeyArray) -> Array:
            which_key, key = jax.random.split(key)
            m = jax.random.categorical(which_key, state.params.logits)
            z = sample_component(key, *(leaf[m] for leaf in state.params[1:]), ())
            return arrays.w_star + state.whitening * z

        w = jax.vmap(one)(jax.random.split(sample_key, NUM_CHAINS))
        losses = jax.lax.cond(
            i < settings.num_warmup,
            jax.vmap(lambda w: minibatch_loss(form, arrays, batch_key, w, batch)),
            jax.vmap(lambda w: loss(form, arrays, w)),
            w,
        )
        distance = jax.vmap(lambda w: squared_distance(arrays, w))(w)
        return Draw(losses, jnp.ones_like(losses), distance, jnp.full_like(losses, jnp.nan))

    def summary(arrays: Arrays, settings: Settings, state: State) -> dict[str, Array]:
        log_weights = jax.nn.log_softmax(state.params.logits)
        weights = jnp.exp(log_weights)
        return {
            "weight_min": weights.min(),
            "weight_max": weights.max(),
            "components_effective": jnp.exp(-jnp.sum(weights * log_weights)),
            "collapsed": (weights.min() < COLLAPSED).astype(weights.dtype),
            "elbo": state.report.elbo,
            "entropy": state.report.entropy,
            "virial_ratio": 1.0 + state.report.scale_gradient / arrays.w_star.shape[0],
            "whitening_min": state.whitening.min(),
            "whitening_max": state.whitening.max(),
        }

    return Sampler(init, step, draw, summary)


def _scale_gradient(params: Params, gradient: Params) -> Array:
    """Derivative along z -> (1 + e) z for all of q at once."""
    return (
        jnp.vdot(params.shift, gradient.shift)
        + jnp.vdot(params.loading, gradient.loading)
        + jnp.sum(gradient.log_scale)
    )


def _work(
    form: Form, arrays: Arrays, structure: Structure, settings: Settings, i: Array
) -> Array:
    """Full-data gradients of step i and its draw, for each chain.

    A step of the fit takes M x num_samples minibatch gradients and records one minibatch loss a
    chain; the first also pays for the probes; a draw of the fitted mixture is one full loss.
    """
    rows = jax.tree.leaves(arrays.data)[0].shape[0] if form.has_rows else 1
    share = min(1.0, structure.batch_size / rows) if form.has_rows else 1.0
    gradients = structure.M * structure.num_samples + settings.num_probes * (i == 0)
    return jnp.where(i < settings.num_warmup, share * (gradients / NUM_CHAINS + 1 / 3), 1 / 3)
