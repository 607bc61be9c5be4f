"""What `optuna:` in a config says, for every study of a run."""

from __future__ import annotations

from dataclasses import dataclass

from lambda_hat.tuning.objective import ERROR
from lambda_hat.tuning.pruners import NONE
from lambda_hat.tuning.search_samplers import SearchSampler
from lambda_hat.tuning.warm_start import Guess


@dataclass(frozen=True)
class StudySettings:
    """What `optuna:` in a config says, for every study of a run."""

    max_trials: int = 200
    batch_size: int = 32
    method_budget: float = 6000.0
    seed: int = 0
    huber_delta: float | None = None
    patience: int | None = None
    """Trials without a gain beyond the reference's error before a study has converged."""
    objective: str = "abs"
    """`abs`, `huber` (with a delta), `relative` or `rmse`."""
    enqueue_defaults: bool = True
    """Whether a study that begins tries its method's defaults first."""
    enqueue: tuple[Guess, ...] = ()
    """What is to be tried next, unless it was before."""
    search: SearchSampler = SearchSampler()
    """What proposes the trials."""
    objectives: tuple[str, ...] = (ERROR,)
    """What is minimised: the error's score first, then costs."""
    pruner: str = NONE
    """What stops trials early."""
    max_seconds: float | None = None
    """What a trial may take to be the best."""
    joint: tuple[str, ...] = ()
    """The pids of all problems, where one setting is tuned for all of them; else empty."""
