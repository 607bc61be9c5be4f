"""The settings of every sampler and of the reference: names, defaults and what must hold.

These classes import no JAX, so that the command checks a user's settings before any worker
starts. `SAMPLERS` is the one registry: the modules, the command line, the contract tests and
the search space derive from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Whitening = Literal["none", "rmsprop", "adam"]


def _require(faults: list[str], holds: bool, rule: str, name: str, value: object, do: str) -> None:
    if not holds:
        faults.append(f"`{rule}` must hold, but got {name}={value!r}. {do}")


class SettingsError(ValueError):
    """Settings out of range; `faults` has one sentence for each."""

    def __init__(self, faults: list[str]):
        super().__init__("\n".join(faults))
        self.faults = faults


@dataclass(frozen=True)
class SGLDConfig:
    """Preconditioned stochastic-gradient Langevin dynamics (Welling & Teh 2011)."""

    eta0: float = 1e-3
    """Initial step size eta_0 of `w += eta/2 grad log p + N(0, eta)`."""
    gamma: float = 0.0
    """Exponent of the step-size decay `eta_t = eta0 (1 + t/t0)^-gamma`; not the tether."""
    batch: int = 64
    """Rows in a minibatch, drawn with replacement; at most n are used."""
    precond_type: Whitening = "none"
    """Diagonal preconditioner, from moments of the loss gradient, frozen after warm-up."""
    steps: int = 20_000
    """Steps of each chain, warm-up included."""
    num_chains: int = 4
    warmup_fraction: float = 0.25
    """Share of `steps` before the first draw that counts."""
    decay_fraction: float = 0.1
    """`t0` of the decay, as a share of `steps`."""
    max_draws: int = 2_000
    """Draws kept a chain: each is one full-data loss, so this bounds their cost."""

    def __post_init__(self) -> None:
        faults: list[str] = []
        _require(faults, self.eta0 > 0, "eta0 > 0", "eta0", self.eta0, "Give a step size.")
        _require(
            faults, 0 <= self.gamma <= 1, "0 <= gamma <= 1", "gamma", self.gamma, "0 is no decay."
        )
        _require(faults, self.batch >= 1, "batch >= 1", "batch", self.batch, "Give a batch size.")
        _whitening(faults, "precond_type", self.precond_type)
        _chains(faults, self.num_chains, self.steps)
        _fraction(faults, "warmup_fraction", self.warmup_fraction)
        _fraction(faults, "decay_fraction", self.decay_fraction)
        _require(
            faults,
            self.max_draws >= 10,
            "max_draws >= 10",
            "max_draws",
            self.max_draws,
            "Raise it.",
        )
        _raise(faults)


@dataclass(frozen=True)
class MCLMCConfig:
    """Microcanonical Langevin Monte Carlo (Robnik et al. 2023), Metropolis-adjusted by default."""

    step_size: float = 0.1
    """First step size, in units of sqrt(d), in coordinates whitened by the metric."""
    target_accept: float = 0.8
    """Acceptance that warm-up adapts the step size towards; plain MCLMC has no use for it."""
    L: float = 1.0
    """Trajectory length between momentum refreshments, same units as `step_size`."""
    steps: int = 4_000
    """Transitions of each chain, warm-up included."""
    adjusted: bool = True
    """False is plain MCLMC: no accept step, biased by its step size, `step_size` kept as given."""
    num_chains: int = 4
    warmup_fraction: float = 0.25
    max_draws: int = 4_000

    def __post_init__(self) -> None:
        faults: list[str] = []
        _require(
            faults, self.step_size > 0, "step_size > 0", "step_size", self.step_size, "Raise it."
        )
        _require(
            faults,
            0 < self.target_accept < 1,
            "0 < target_accept < 1",
            "target_accept",
            self.target_accept,
            "0.8 is usual.",
        )
        if not self.adjusted and self.target_accept != type(self).target_accept:
            faults.append(
                f"`target_accept` must stay {type(self).target_accept} where `adjusted` is "
                f"false, but got target_accept={self.target_accept!r}. Plain MCLMC accepts all: "
                f"leave it out; in a search, give it choices: [{type(self).target_accept}]."
            )
        _require(faults, self.L > 0, "L > 0", "L", self.L, "Give a trajectory length.")
        _chains(faults, self.num_chains, self.steps)
        _fraction(faults, "warmup_fraction", self.warmup_fraction)
        _require(
            faults,
            self.max_draws >= 10,
            "max_draws >= 10",
            "max_draws",
            self.max_draws,
            "Raise it.",
        )
        _raise(faults)


@dataclass(frozen=True)
class VIConfig:
    """Mixture of M factor analysers of rank r, fitted to the tempered, tethered ELBO."""

    lr: float = 0.05
    """Adam's learning rate."""
    M: int = 2
    """Components of the mixture."""
    r: int = 2
    """Rank of each component's factor loading."""
    whitening_mode: Whitening = "adam"
    """Diagonal coordinates to fit in, from moments of the loss gradient at w*."""
    steps: int = 4_000
    """Optimisation steps."""
    batch_size: int = 128
    """Rows in a minibatch, drawn with replacement; at most n are used."""
    num_samples: int = 4
    """Draws of each component in one ELBO gradient."""
    eval_draws: int = 4_000
    """Fresh, independent draws of the fitted mixture behind the estimate."""

    def __post_init__(self) -> None:
        faults: list[str] = []
        _require(faults, self.lr > 0, "lr > 0", "lr", self.lr, "Give a learning rate.")
        for name in ("M", "steps", "batch_size", "num_samples"):
            value = getattr(self, name)
            _require(faults, value >= 1, f"{name} >= 1", name, value, "Raise it.")
        _require(faults, self.r >= 0, "r >= 0", "r", self.r, "0 is a diagonal covariance.")
        _whitening(faults, "whitening_mode", self.whitening_mode)
        _require(
            faults,
            self.eval_draws >= 100,
            "eval_draws >= 100",
            "eval_draws",
            self.eval_draws,
            "The standard error needs them.",
        )
        _raise(faults)


@dataclass(frozen=True)
class HMCConfig:
    """Hamiltonian Monte Carlo with window adaptation (Neal 2011; Hoffman & Gelman 2014)."""

    steps: int = 3_000
    """Transitions of each chain, warm-up included."""
    target_accept: float = 0.8
    num_integration_steps: int = 20
    """Mean number of leapfrog steps; each transition draws it uniformly from 1 to twice this."""
    num_chains: int = 4
    num_warmup: int = 1_000
    """Transitions of window adaptation, at the start of `steps`."""
    dense_metric_max_dim: int = 256
    """Up to this dimension the mass matrix is dense, above it diagonal."""

    def __post_init__(self) -> None:
        faults: list[str] = []
        _require(
            faults,
            0 < self.target_accept < 1,
            "0 < target_accept < 1",
            "target_accept",
            self.target_accept,
            "0.8 is usual.",
        )
        _require(
            faults,
            self.num_integration_steps >= 1,
            "num_integration_steps >= 1",
            "num_integration_steps",
            self.num_integration_steps,
            "20 is usual.",
        )
        _chains(faults, self.num_chains, self.steps)
        _require(
            faults,
            20 <= self.num_warmup < self.steps,
            "20 <= num_warmup < steps",
            "num_warmup",
            self.num_warmup,
            "Lower it, or raise `steps`.",
        )
        _require(
            faults,
            self.dense_metric_max_dim >= 0,
            "dense_metric_max_dim >= 0",
            "dense_metric_max_dim",
            self.dense_metric_max_dim,
            "0 is always diagonal.",
        )
        _raise(faults)


@dataclass(frozen=True)
class ReferenceConfig:
    """How a reference is computed and when it is trusted (`reference:` in a user's YAML)."""

    method: Literal["hmc", "smc", "both", "gibbs"] = "hmc"
    """`smc` is adaptive tempered SMC from the tether; `both` also asks that the two agree; `gibbs`
    is for deep linear networks with a squared loss."""
    num_draws: int = 10_000
    """Draws of each chain, warm-up not counted, before the gates are asked for the first time."""
    num_chains: int = 4
    num_warmup: int = 1_000
    target_accept: float = 0.8
    num_integration_steps: int = 20
    dense_metric_max_dim: int = 256
    num_particles: int = 2_000
    """Particles of each SMC run."""
    num_runs: int = 8
    """Independent SMC runs; the error comes from their spread."""
    accept_unreliable: bool = False
    """True tunes against a reference that failed its gates, and says so everywhere."""

    def __post_init__(self) -> None:
        faults: list[str] = []
        if self.method not in ("hmc", "smc", "both", "gibbs"):
            faults.append(
                "`method` must be one of hmc, smc, both, gibbs, "
                f"but got method={self.method!r}. Choose one of them."
            )
        for name, least in (
            ("num_draws", 100),
            ("num_chains", 2),
            ("num_warmup", 20),
            ("num_integration_steps", 1),
            ("dense_metric_max_dim", 0),
            ("num_particles", 100),
            ("num_runs", 3),
        ):
            value = getattr(self, name)
            _require(faults, value >= least, f"{name} >= {least}", name, value, "Raise it.")
        _require(
            faults,
            0 < self.target_accept < 1,
            "0 < target_accept < 1",
            "target_accept",
            self.target_accept,
            "0.8 is usual.",
        )
        _raise(faults)


SamplerConfig = SGLDConfig | MCLMCConfig | VIConfig | HMCConfig

SAMPLERS: dict[str, type] = {
    "hmc": HMCConfig,
    "mclmc": MCLMCConfig,
    "sgld": SGLDConfig,
    "vi": VIConfig,
}
"""Method name -> its settings. `lambda_hat.samplers` has the sampler of the same name."""


def _whitening(faults: list[str], name: str, value: str) -> None:
    if value not in ("none", "rmsprop", "adam"):
        faults.append(
            f"`{name}` must be one of none, rmsprop, adam, but got {name}={value!r}. "
            "Choose one of them."
        )


def _chains(faults: list[str], num_chains: int, steps: int) -> None:
    _require(
        faults,
        num_chains >= 2,
        "num_chains >= 2",
        "num_chains",
        num_chains,
        "R-hat needs two chains or more; 4 is usual.",
    )
    _require(faults, steps >= 50, "steps >= 50", "steps", steps, "Raise it.")


def _fraction(faults: list[str], name: str, value: float) -> None:
    _require(faults, 0 < value < 1, f"0 < {name} < 1", name, value, "0.25 is usual.")


def _raise(faults: list[str]) -> None:
    if faults:
        raise SettingsError(faults)
