"""The settings of every sampler and of the reference: names, defaults and what must hold.

These classes are the one source of the defaults. They import no JAX, so that the command checks
a user's settings before any worker starts. `SAMPLERS` is the one registry: the modules, the
command line, the contract tests and the search space derive from it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lambda_hat.conf.checks import bounded

Whitening = Literal["none", "rmsprop", "adam"]
_TWO_CHAINS = "R-hat needs two chains or more; 4 is usual."


@dataclass(frozen=True)
class SamplerConfig:
    """Settings of a sampler: each field says what must hold of it, `conflicts` what between them.

    Both are checked where a user's values come in (`compose_sampler`).
    """

    def conflicts(self, where: str) -> list[str]:
        """One sentence for each rule between fields that does not hold.

        Args:
            where: The place named in messages, such as `samplers[0].overrides`.
        """
        return []


@dataclass(frozen=True)
class SGLDConfig(SamplerConfig):
    """Preconditioned stochastic-gradient Langevin dynamics (Welling & Teh 2011)."""

    eta0: float = bounded(1e-3, above=0, do="Give a step size.")
    """Initial step size eta_0 of `w += eta/2 grad log p + N(0, eta)`."""
    gamma: float = bounded(0.0, least=0, most=1, do="0 is no decay.")
    """Exponent of the step-size decay `eta_t = eta0 (1 + t/t0)^-gamma`; not the tether."""
    batch: int = bounded(64, least=1, do="Give a batch size.")
    """Rows in a minibatch, drawn with replacement; at most n are used."""
    precond_type: Whitening = "none"
    """Diagonal preconditioner, from moments of the loss gradient, frozen after warm-up."""
    steps: int = bounded(20_000, least=50, do="Raise it.")
    """Steps of each chain, warm-up included."""
    num_chains: int = bounded(4, least=2, do=_TWO_CHAINS)
    warmup_fraction: float = bounded(0.25, above=0, below=1, do="0.25 is usual.")
    """Share of `steps` before the first draw that counts."""
    decay_fraction: float = bounded(0.1, above=0, below=1, do="0.1 is usual.")
    """`t0` of the decay, as a share of `steps`."""
    max_draws: int = bounded(2_000, least=10, do="Raise it.")
    """Draws kept of each chain at most; fewer where their losses over all data would cost more
    than the steps."""


@dataclass(frozen=True)
class MCLMCConfig(SamplerConfig):
    """Microcanonical Langevin Monte Carlo (Robnik et al. 2023), Metropolis-adjusted by default."""

    step_size: float = bounded(0.1, above=0, do="Raise it.")
    """First step size, in units of sqrt(d), in coordinates whitened by the metric."""
    target_accept: float = bounded(0.8, above=0, below=1, do="0.8 is usual.")
    """Acceptance that warm-up adapts the step size towards; plain MCLMC has no use for it."""
    L: float = bounded(1.0, above=0, do="Give a trajectory length.")
    """Trajectory length between momentum refreshments, same units as `step_size`."""
    steps: int = bounded(4_000, least=50, do="Raise it.")
    """Transitions of each chain, warm-up included."""
    adjusted: bool = True
    """False is plain MCLMC: no accept step, biased by its step size, `step_size` kept as given."""
    num_chains: int = bounded(4, least=2, do=_TWO_CHAINS)
    warmup_fraction: float = bounded(0.25, above=0, below=1, do="0.25 is usual.")
    max_draws: int = bounded(4_000, least=10, do="Raise it.")

    def conflicts(self, where: str) -> list[str]:
        """Plain MCLMC has no use for `target_accept`."""
        default = type(self).target_accept
        if self.adjusted or self.target_accept == default:
            return []
        return [
            f"`target_accept` must stay {default} where `adjusted` is false, but got "
            f"target_accept={self.target_accept!r} ({where}). Plain MCLMC accepts all: "
            f"leave it out; in a search, give it choices: [{default}]."
        ]


@dataclass(frozen=True)
class VIConfig(SamplerConfig):
    """Mixture of M factor analysers of rank r, fitted to the tempered, tethered ELBO."""

    lr: float = bounded(0.05, above=0, do="Give a learning rate.")
    """Adam's learning rate."""
    M: int = bounded(2, least=1, do="Raise it.")
    """Components of the mixture."""
    r: int = bounded(2, least=0, do="0 is a diagonal covariance.")
    """Rank of each component's factor loading."""
    whitening_mode: Whitening = "adam"
    """Diagonal coordinates to fit in, from moments of the loss gradient at w*."""
    steps: int = bounded(4_000, least=1, do="Raise it.")
    """Optimisation steps."""
    batch_size: int = bounded(128, least=1, do="Raise it.")
    """Rows in a minibatch, drawn with replacement; at most n are used."""
    num_samples: int = bounded(4, least=1, do="Raise it.")
    """Draws of each component in one ELBO gradient."""
    eval_draws: int = bounded(4_000, least=100, do="The standard error needs them.")
    """Fresh, independent draws of the fitted mixture behind the estimate, at most; fewer where
    their losses over all data would cost more than the fit; none if corrected."""
    correction: Literal["none", "psis", "ais"] = "none"
    """`ais` moves particles from the fitted mixture to the posterior, by tempered HMC; `psis`
    weighs the mixture's draws by the posterior, and k-hat says whether that holds."""
    ais_steps: int = bounded(50, least=1, do="Raise it.")
    """Temperatures between the two, each with a move of every particle; as many moves are recorded
    at the end, 80 at least."""


@dataclass(frozen=True)
class HMCConfig(SamplerConfig):
    """Hamiltonian Monte Carlo with window adaptation (Neal 2011; Hoffman & Gelman 2014)."""

    steps: int = bounded(3_000, least=50, do="Raise it.")
    """Transitions of each chain, warm-up included."""
    target_accept: float = bounded(0.8, above=0, below=1, do="0.8 is usual.")
    num_integration_steps: int = bounded(20, least=1, do="20 is usual.")
    """Mean number of leapfrog steps; each transition draws it uniformly from 1 to twice this."""
    num_chains: int = bounded(4, least=2, do=_TWO_CHAINS)
    num_warmup: int = bounded(1_000, least=20, do="Raise it.")
    """Transitions of window adaptation, at the start of `steps`."""
    dense_metric_max_dim: int = bounded(256, least=0, do="0 is always diagonal.")
    """Up to this dimension the mass matrix is dense, above it diagonal."""
    gradient_widths: bool = True
    """Whether a diagonal one of more than 256 parameters has widths by gradients too."""

    def conflicts(self, where: str) -> list[str]:
        """Warm-up is a part of the steps."""
        if self.num_warmup < self.steps:
            return []
        return [
            f"`num_warmup < steps` must hold, but got num_warmup={self.num_warmup}, "
            f"steps={self.steps} ({where}). Lower `num_warmup`, or raise `steps`."
        ]


@dataclass(frozen=True)
class ReferenceConfig:
    """How a reference is computed and when it is trusted (`reference:` in a user's YAML)."""

    method: Literal["auto", "hmc", "tempering", "smc", "both", "gibbs"] = "auto"
    """`auto` is HMC, and whatever else is needed until the gates hold; `tempering` is replica
    exchange between tether and posterior; `smc` is adaptive tempered SMC from the tether; `both`
    asks that HMC and SMC agree; `gibbs` is for deep linear networks with a squared loss."""
    num_draws: int = bounded(10_000, least=100, do="Raise it.")
    """Draws of each chain, warm-up not counted; more while gates fail that more can fix."""
    relative_se: float = bounded(0.005, least=0, most=0.02, do="0 always makes all draws.")
    """Chains end before `num_draws` where their standard error is this share of the LLC, and all
    gates hold with room to spare."""
    num_chains: int = bounded(4, least=2, do=_TWO_CHAINS)
    num_warmup: int = bounded(1_000, least=20, do="Raise it.")
    target_accept: float = bounded(0.8, above=0, below=1, do="0.8 is usual.")
    num_integration_steps: int = bounded(20, least=1, do="20 is usual.")
    dense_metric_max_dim: int = bounded(256, least=0, do="0 is always diagonal.")
    num_particles: int = bounded(2_000, least=100, do="Raise it.")
    """Particles of each SMC run."""
    num_runs: int = bounded(8, least=3, do="Raise it.")
    """Independent SMC runs; the error comes from their spread."""
    accept_unreliable: bool = False
    """True tunes against a reference that failed its gates, and says so everywhere."""


def is_as_precise(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Whether a reference that is stored with some settings has the draws that others ask for.

    Earlier versions had no `relative_se`, and made all draws, as 0 does.
    """
    return stored.get("relative_se", 0.0) <= asked.get("relative_se", math.inf)


SAMPLERS: dict[str, type[SamplerConfig]] = {
    "hmc": HMCConfig,
    "mclmc": MCLMCConfig,
    "sgld": SGLDConfig,
    "vi": VIConfig,
}
"""Method name -> its settings. `lambda_hat.samplers` has the sampler of the same name."""
