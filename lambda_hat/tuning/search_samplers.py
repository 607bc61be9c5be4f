"""What proposes a study's settings: Optuna's samplers by name, with what each can be set to.

Each trial has a sampler of its own, seeded by the study and the trial's number: a study that goes
on proposes what it would have without the interruption.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from typing import Any, Literal

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import (
    BaseSampler,
    GPSampler,
    NSGAIISampler,
    RandomSampler,
    TPESampler,
)

from lambda_hat.conf.checks import bounded, read, unknown_name
from lambda_hat.tuning.optuna_internals import NumberedQMC, ReplayedCmaEs


@dataclass(frozen=True)
class TPESettings:
    """Tree-structured Parzen estimator: densities of good and of other settings."""

    n_startup_trials: int = bounded(10, least=0)
    """Random trials before it begins."""
    n_ei_candidates: int = bounded(24, least=1)
    """Candidates of which it proposes the best."""
    multivariate: bool = True
    """Whether settings are modelled together."""
    constant_liar: bool = True
    """Whether trials in flight count as bad, so that they are not asked twice."""


@dataclass(frozen=True)
class RandomSettings:
    """Each trial at random, whatever came of the others."""


@dataclass(frozen=True)
class GPSettings:
    """Gaussian process: expected improvement under a smooth model of the score."""

    n_startup_trials: int = bounded(10, least=0)
    """Random trials before it begins."""


@dataclass(frozen=True)
class CmaEsSettings:
    """CMA-ES over the numbers that are searched; choices between names are drawn at random."""

    n_startup_trials: int = bounded(1, least=1)
    """Random trials before it begins."""
    popsize: int | None = bounded(None, least=3)
    """Trials of a generation; null is 4 + 3 log(dimensions), rounded down."""


@dataclass(frozen=True)
class QMCSettings:
    """Points of a quasi-random sequence, one for each trial number, whatever came of the others."""

    qmc_type: Literal["sobol", "halton"] = "sobol"
    """The sequence."""
    scramble: bool = True
    """Whether it is scrambled, by the study's seed; without, every study has the same points."""


@dataclass(frozen=True)
class NSGAIISettings:
    """NSGA-II: generations of trials, each bred from the best of the one before."""

    population_size: int = bounded(50, least=2)
    """Trials of a generation; those of the first are random."""
    crossover_prob: float = bounded(0.9, least=0, most=1)
    """How often two parents are crossed."""
    swapping_prob: float = bounded(0.5, least=0, most=1)
    """How often a crossing takes a setting from the second parent."""
    mutation_prob: float | None = bounded(None, least=0, most=1)
    """How often a setting is drawn anew; null is 1 / (number of settings)."""


@dataclass(frozen=True)
class Kind:
    """One of the samplers: its settings, how it is made of them, and what it needs."""

    settings: type
    build: Callable[..., BaseSampler]
    """Of `seed` and the settings."""
    needs: str | None = None
    """A package that is not always there."""
    many_objectives: bool = True
    """Whether it takes more than one."""
    study_seed: bool = False
    """Whether all trials of a study share its seed: they are points of one sequence."""


_QUIET: Any = {"warn_independent_sampling": False}
"""They warn, at each trial, of settings that they leave to chance; the docs say it once."""

KINDS: Mapping[str, Kind] = {
    "tpe": Kind(TPESettings, TPESampler),
    "random": Kind(RandomSettings, RandomSampler),
    "gp": Kind(GPSettings, partial(GPSampler, **_QUIET), needs="torch"),
    "cmaes": Kind(
        CmaEsSettings, partial(ReplayedCmaEs, **_QUIET), needs="cmaes", many_objectives=False
    ),
    "qmc": Kind(QMCSettings, partial(NumberedQMC, **_QUIET), study_seed=True),
    "nsgaii": Kind(NSGAIISettings, NSGAIISampler),
}
"""`optuna.sampler` by its names. A new one is a class of settings and a line here."""


@dataclass(frozen=True)
class SearchSampler:
    """A sampler with its settings."""

    name: str = "tpe"
    settings: Any = field(default_factory=TPESettings)

    @property
    def kind(self) -> Kind:
        return KINDS[self.name]

    def described(self) -> dict[str, Any]:
        """For a study's fingerprint: nothing for the default, which older studies were begun by."""
        if self == SearchSampler():
            return {}
        return {"sampler": self.name, "sampler_settings": asdict(self.settings)}


def read_search_sampler(
    name: str, given: Mapping[str, Any], faults: list[str]
) -> SearchSampler | None:
    """`optuna.sampler` and `optuna.sampler_settings`; None, and faults, for what cannot be."""
    if name not in KINDS:
        faults.append(unknown_name("`sampler`", name, KINDS, "optuna.sampler"))
        return None
    kind = KINDS[name]
    if given and not fields(kind.settings):
        faults.append(
            f"`optuna.sampler_settings` must be left out for {name}, which has none, but got "
            f"{', '.join(given)}."
        )
        return None
    if kind.needs is not None and importlib.util.find_spec(kind.needs) is None:
        faults.append(
            f"`optuna.sampler: {name}` needs the package {kind.needs}, which is not installed. "
            f"Install it (`uv pip install {kind.needs}`), or take another sampler."
        )
        return None
    settings = read(kind.settings, given, f"optuna.sampler_settings of {name}", faults)
    return None if settings is None else SearchSampler(name, settings)


class Proposers:
    """Makes the sampler of each trial of a study.

    Args:
        search: The sampler, with its settings.
        seed: Of the study.
    """

    def __init__(self, search: SearchSampler | None = None, *, seed: int = 0):
        self._search, self._seed = search or SearchSampler(), seed
        self._lasting = self._make(seed)

    def of(self, seed: int) -> BaseSampler:
        """The sampler of the trial with this seed.

        What the trials so far have in common is remembered from one to the next: it would
        otherwise be gathered from all of them again for each.
        """
        sampler = self._make(self._seed if self._search.kind.study_seed else seed)
        sampler.infer_relative_search_space = self._lasting.infer_relative_search_space
        return sampler

    def _make(self, seed: int) -> BaseSampler:
        with warnings.catch_warnings():  # That one is experimental: the version is bounded.
            warnings.simplefilter("ignore", ExperimentalWarning)
            return self._search.kind.build(seed=seed, **asdict(self._search.settings))
