"""VI: q(w) = sum_m pi_m N(w; w* + S mu_m, S (A_m A_m^T + diag(s_m^2)) S), fitted to the ELBO.

A mixture of M factor analysers of rank r (Ghahramani & Hinton 1996) minimises
E_q[log q + U], where U = nbeta L_n + gamma/2 |w - w*|^2 (`elbo`). S whitens by the gradient's
moments near w* (`whitening`); docs/vi_mfa.md has the derivations.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from lambda_hat.conf.samplers import VIConfig as Config
from lambda_hat.samplers import annealed
from lambda_hat.samplers.base import Draw, Info, Plan, Sampler, Stage
from lambda_hat.samplers.elbo import elbo_gradient, scale_gradient
from lambda_hat.samplers.mixture import (
    Mixture,
    density_of,
    draws_of,
    log_density,
    pack,
    unpack,
)
from lambda_hat.samplers.recording import affordable_draws
from lambda_hat.samplers.shapes import rounded_up, rows_of, shares
from lambda_hat.samplers.whitening import MEMORY, NUM_PROBES, whitening
from lambda_hat.target import (
    Arrays,
    Form,
    Minibatch,
    Target,
    draw_minibatch,
    loss,
    num_rows,
    squared_distance,
)

DTYPE = "float32"
DRAW_WORK = 0.0
"""`Info.work` counts the full losses itself, because draws during the fit are cheaper."""
TRIM_TRANSIENT = False
NUM_CHAINS = 4
"""Independent draws recorded at a time: chains in name, so that R-hat and ESS apply."""
WARMUP_SHARE, FIT_SHARE = 0.75, 0.4
"""Of the time budget, for all that comes before the draws, and for the fit where q is corrected: a
fit that was cut is a start as well, and a correction without time is an answer to nothing."""
SETTLING, LEAST_MOVES = 30, 80
"""Moves of the particles once they have arrived at the posterior, before the draws and for them;
as many are recorded as there were temperatures, where those are more."""
SPREAD = 0.5
"""Distance between components at the start, in whitened widths, whatever the dimension."""
LOGIT_RATE = 0.1
"""Learning rate of the weights, relative to the rest: a component must not lose its weight to
the others while all are still far from their place, for it would never move again."""
REPORT_SHARE = 0.01
"""Weight of the newest step in the running means of the report."""
COLLAPSED = 1e-3
"""A component that weighs less is out of the mixture."""
SHARED_M, SHARED_R, SHARED_ROWS = 8, 4, 256
"""Room in a program that trials share: what a study searches by default."""
SHARED_UP_TO = 2_500
"""Parameters up to which they share one, rows aside: it is compiled for as long as thousands of a
fit's steps take, which are up to twice as long for the room."""
GROUP = 2
"""Components that are gone through together, where their number allows: two cost little more than
one, and of 10 000 parameters eight two by two take half the time of eight side by side."""
UNUSED = -1e30
"""Logit of a component that a program has room for and a trial does not use."""


class Report(NamedTuple):
    """Running means over the last steps of the fit, under q."""

    energy: Float[Array, ""]
    """U on minibatches."""
    entropy: Float[Array, ""]
    """Of z: log det S is added at the end."""
    loss: Float[Array, ""]
    scale_gradient: Float[Array, ""]
    """Derivative of -ELBO by the log of q's size, which is E_q[(w - w*) . grad U] - d."""


class State(NamedTuple):
    """The mixture of z = (w - w*) / S, its optimiser, and S."""

    flat: Float[Array, "M p"]
    """The `Mixture`, packed: one array makes a small program."""
    moments: Any
    whitening: Float[Array, " d"]
    """The diagonal of S."""
    report: Float[Array, " 4"]
    """A `Report`, packed."""
    num_skipped: Float[Array, ""]
    """Steps left out because a gradient was not finite."""
    particles: Any
    """`annealed.Particles`, moved from q to the posterior; None where q is not corrected."""


class Structure(NamedTuple):
    M: int
    """Components that there is room for."""
    group: int
    """Components that are gone through together."""
    r: int
    rows: int
    num_samples: int
    particles: int = 0
    """In each group of those that correct q; 0 where it is not corrected."""


class Settings(NamedTuple):
    num_fit: int
    ais_steps: int
    M: int
    r: int
    batch_size: int
    lr: float
    weighed: int
    """1 where draws of the mixture are weighed by the posterior."""
    num_probes: int
    memory: float
    corrected: int
    """1 where the second moment is corrected for its start at 1."""


def plan(config: Config, target: Target) -> Plan:
    """Warm-up is the fit; every draw after it is fresh, or of particles that were moved.

    Fresh ones are `eval_draws`, or as many as cost what the fit does.
    """
    if config.correction == "ais":
        num_warmup = config.steps + config.ais_steps + SETTLING
        moves = max(LEAST_MOVES, config.ais_steps)
        fit = Stage(config.steps, FIT_SHARE)
        return Plan(num_warmup, moves, 1, WARMUP_SHARE, stages=(fit,))
    rows = config.steps * config.M * config.num_samples * config.batch_size
    most = affordable_draws(target, rows, NUM_CHAINS)
    return Plan(config.steps, min(-(-config.eval_draws // NUM_CHAINS), most), 1, WARMUP_SHARE)


def structure_of(config: Config, target: Target) -> Structure:
    """Room for components, factors and rows, and the number of samples, shape the program."""
    rows = rows_of(target, config.batch_size, least=SHARED_ROWS)
    M, r, particles = config.M, config.r, 0
    if config.correction == "ais":
        particles = annealed.particles_of(target)
    if shares(target, SHARED_UP_TO):
        M, r = rounded_up(M, SHARED_M), rounded_up(r, SHARED_R)
    group = M if M % GROUP else GROUP
    return Structure(M, group, r, rows, config.num_samples, particles)


def settings_of(config: Config) -> Settings:
    """Numeric settings, passed as traced arguments: the three whitenings are one program."""
    mode = config.whitening_mode
    probes = 0 if mode == "none" else NUM_PROBES
    return Settings(
        config.steps,
        config.ais_steps,
        config.M,
        config.r,
        config.batch_size,
        float(config.lr),
        int(config.correction == "psis"),
        probes,
        MEMORY[mode],
        int(mode == "adam"),
    )


def refusal(target: Target, config: Config) -> str | None:
    """VI takes any target: d factors are a full covariance, and more of them count as d."""
    return None


def build(form: Form, structure: Structure) -> Sampler:
    """VI on the targets of one form."""
    optimiser: Any = optax.scale_by_adam()
    num_chains = annealed.GROUPS if structure.particles else NUM_CHAINS

    def minibatch(key: PRNGKeyArray, arrays: Arrays, settings: Settings) -> Minibatch:
        return draw_minibatch(form, arrays, key, settings.batch_size, structure.rows)

    def normal(key: PRNGKeyArray, number: int, arrays: Arrays, settings: Settings) -> Array:
        """[number, 1 + d + r]: one to choose by, and noise for `place`.

        What a factor gets does not depend on the room that there is.
        """
        d, dtype = arrays.w_star.shape[0], arrays.w_star.dtype
        noise = jax.random.normal(key, (1 + d + structure.r, number), dtype)
        used = jnp.arange(1 + d + structure.r) < 1 + d + jnp.minimum(settings.r, d)
        return (used[:, None] * noise).T

    def init(key: PRNGKeyArray, arrays: Arrays, settings: Settings) -> State:
        whiten_key, start_key = jax.random.split(key)
        d, dtype = arrays.w_star.shape[0], arrays.w_star.dtype
        unit = jnp.where(settings.num_probes > 0, 1.0, (arrays.nbeta + arrays.gamma) ** -0.5)
        place_of = jnp.arange(structure.M)
        noise = (
            SPREAD
            * d**-0.5
            * jax.vmap(
                lambda m: jax.random.normal(
                    jax.random.fold_in(start_key, m), (structure.r + 2, d), dtype
                )
            )(place_of)
        )
        used = jnp.arange(structure.r) < jnp.minimum(settings.r, d)
        loading = unit * used[:, None] * noise[:, 2:]
        logits = jnp.where(place_of < settings.M, 0.0, UNUSED).astype(dtype)
        q = Mixture(logits, unit * noise[:, 0], loading, jnp.log(unit) + noise[:, 1])
        flat = pack(q)
        scale = whitening(
            whiten_key,
            form,
            arrays,
            lambda key: minibatch(key, arrays, settings),
            num_probes=settings.num_probes,
            memory=settings.memory,
            corrected=settings.corrected,
        )
        zero = jnp.zeros((), dtype)
        report = jnp.zeros(len(Report._fields))
        particles = (
            annealed.none_yet(d, dtype, each=structure.particles) if structure.particles else None
        )
        return State(flat, optimiser.init(flat), scale, report, zero, particles)

    def gradients(
        key: PRNGKeyArray, arrays: Arrays, settings: Settings, state: State
    ) -> tuple[Array, Array]:
        """Those of `elbo_gradient`, on a minibatch of the step's own."""
        batch_key, sample_key = jax.random.split(key)
        batch = minibatch(batch_key, arrays, settings)
        keys = jax.vmap(lambda m: jax.random.fold_in(sample_key, m))(jnp.arange(structure.M))
        noise = jax.vmap(lambda key: normal(key, structure.num_samples, arrays, settings))(keys)
        used = {"num_used": settings.M, "group": structure.group}
        return elbo_gradient(form, arrays, batch, state.flat, state.whitening, noise, **used)

    def fit(
        key: PRNGKeyArray, arrays: Arrays, settings: Settings, state: State, i: Array
    ) -> tuple[State, Array]:
        """One step of Adam; a gradient that is not finite counts as 0. (state, left out)."""
        flat, moments, scale, report, num_skipped, particles = state
        gradient, (value, logq, mean_loss) = gradients(key, arrays, settings, state)
        finite = jnp.isfinite(jnp.sum(gradient)) & jnp.isfinite(value)
        gradient = jnp.where(finite, gradient, 0.0)
        direction, moments = optimiser.update(gradient, moments)
        done = i.astype(value.dtype) / settings.num_fit
        rate = settings.lr * 0.5 * (1.0 + jnp.cos(jnp.pi * done))
        rates = jnp.full(flat.shape[1], rate).at[0].multiply(LOGIT_RATE)
        news = Report(value - logq, -logq, mean_loss, scale_gradient(flat, gradient, scale.size))
        share = jnp.maximum(1.0 / (i + 1.0), REPORT_SHARE)
        report = jnp.where(finite, report + share * (jnp.stack(news) - report), report)
        flat, num_skipped = flat - rates * direction, num_skipped + ~finite
        return State(flat, moments, scale, report, num_skipped, particles), ~finite

    def fit_step(
        key: PRNGKeyArray, arrays: Arrays, settings: Settings, state: State, i: Array
    ) -> tuple[State, Info]:
        state, skipped = jax.lax.cond(
            i < settings.num_fit,
            lambda: fit(key, arrays, settings, state, i),
            lambda: (state, jnp.asarray(False)),
        )
        each = jnp.ones(num_chains, arrays.w_star.dtype)
        work = each * _work(form, arrays, structure, settings, i) / num_chains
        absent = each * jnp.nan
        return state, Info(acceptance=absent, divergence=each * skipped, energy=absent, work=work)

    def anneal_step(
        key: PRNGKeyArray, arrays: Arrays, settings: Settings, state: State, i: Array
    ) -> tuple[State, Info]:
        start_key, move_key = jax.random.split(key)
        scale, q = state.whitening, unpack(state.flat, state.whitening.shape[0])
        particles = jax.lax.cond(
            state.particles.temperature < 0.0,
            lambda: annealed.start(start_key, form, arrays, scale, q, each=structure.particles),
            lambda: state.particles,
        )
        last = settings.num_fit + settings.ais_steps + SETTLING
        particles, info = annealed.move(
            move_key,
            form,
            arrays,
            scale,
            q,
            particles,
            rise=jnp.asarray(1.0 / settings.ais_steps, scale.dtype),
            adapting=(particles.temperature < 1.0) | (i < last),
        )
        return state._replace(particles=particles), info

    def step(
        key: PRNGKeyArray, arrays: Arrays, settings: Settings, state: State, i: Array
    ) -> tuple[State, Info]:
        if not structure.particles:
            return fit_step(key, arrays, settings, state, i)
        return jax.lax.cond(
            i < settings.num_fit,
            lambda: fit_step(key, arrays, settings, state, i),
            lambda: anneal_step(key, arrays, settings, state, i),
        )

    def draw(key: PRNGKeyArray, arrays: Arrays, settings: Settings, state: State, i: Array) -> Draw:
        """Fresh draws of q, or means of the particles in each group.

        During the fit their losses are its running mean, to look at.
        """
        fitting = jnp.full(num_chains, Report(*state.report).loss)
        if structure.particles:
            found = annealed.means(arrays, state.whitening, state.particles)
            return found._replace(loss=jnp.where(i < settings.num_fit, fitting, found.loss))
        q = unpack(state.flat, arrays.w_star.shape[0])
        z = draws_of(q, normal(key, num_chains, arrays, settings))
        w = arrays.w_star + state.whitening * z
        losses = jax.lax.cond(
            i < settings.num_fit,
            lambda: fitting,
            lambda: jax.vmap(lambda w: loss(form, arrays, w))(w),
        )
        distance = jax.vmap(lambda w: squared_distance(arrays, w))(w)
        density, nothing = density_of(q), jnp.full_like(losses, jnp.nan)
        energy = arrays.nbeta * losses + 0.5 * arrays.gamma * distance
        ratio = -energy - jax.vmap(lambda z: log_density(density, z))(z)
        ratio = jnp.where(settings.weighed, ratio, jnp.nan)
        return Draw(losses, jnp.ones_like(losses), distance, nothing, ratio)

    def summary(arrays: Arrays, settings: Settings, state: State) -> dict[str, Array]:
        log_weights = jax.nn.log_softmax(state.flat[:, 0])
        weights = jnp.exp(log_weights)
        used = jnp.arange(structure.M) < settings.M
        weight_min = jnp.min(jnp.where(used, weights, 1.0))
        report = Report(*state.report)
        entropy = report.entropy + jnp.sum(jnp.log(state.whitening))
        found = {
            "weight_min": weight_min,
            "weight_max": weights.max(),
            "components_effective": jnp.exp(-jnp.sum(weights * log_weights)),
            "collapsed": (weight_min < COLLAPSED).astype(weights.dtype),
            "elbo": entropy - report.energy,
            "entropy": entropy,
            "skipped_steps": state.num_skipped,
            "whitening_min": state.whitening.min(),
            "whitening_max": state.whitening.max(),
        }
        if structure.particles:
            return found | {"temperature": state.particles.temperature}
        # That of draws which leave the posterior as it is comes with them.
        return found | {"virial_ratio": 1.0 + report.scale_gradient / arrays.w_star.shape[0]}

    return Sampler(init, step, draw, summary)


def _work(form: Form, arrays: Arrays, structure: Structure, settings: Settings, i: Array) -> Array:
    """Full-data gradients of step i and its draw, of all chains.

    A step of the fit takes M x num_samples minibatch gradients, the first also pays for the
    probes; a draw of the fitted mixture is one full loss.
    """
    share = jnp.minimum(1.0, settings.batch_size / num_rows(form, arrays))
    gradients = settings.M * structure.num_samples + settings.num_probes * (i == 0)
    return jnp.where(i < settings.num_fit, share * gradients, NUM_CHAINS / 3)
