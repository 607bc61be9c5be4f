"""Which trials are stopped early: Optuna's pruners by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

from optuna.exceptions import ExperimentalWarning
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    PatientPruner,
)

from lambda_hat.store.reports import NUM_STEPS

NONE = "none"

PRUNERS: Mapping[str, Callable[[], BasePruner]] = {
    NONE: NopPruner,
    # Worse at its best than half of the trials were at this tenth of their run.
    "median": lambda: MedianPruner(n_startup_trials=5, n_warmup_steps=2),
    # Trials in brackets; of each, a third goes on at each rung (Li et al. 2018).
    "hyperband": lambda: HyperbandPruner(1, NUM_STEPS, 3),
    # The median's verdict, once two tenths have brought no gain.
    "patience": lambda: PatientPruner(MedianPruner(n_startup_trials=5, n_warmup_steps=2), 2),
}
"""`optuna.pruner` by its names. A new one is a line here."""


def build_pruner(name: str) -> BasePruner:
    """The pruner of a study; the package's bounds on Optuna keep those that are experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return PRUNERS[name]()
