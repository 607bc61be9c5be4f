"""The runs that confirm each study's best settings, with seeds its search has not seen."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from lambda_hat.conf.checks import ConfigError
from lambda_hat.plugin import Plugin
from lambda_hat.tables.confirmation import full_settings
from lambda_hat.trial import ProblemItem, TrialSpec, derive_seed
from lambda_hat.tuning.progress import StudyProgress


class BestStudy(Protocol):
    """The part of a study that is needed here."""

    problem: ProblemItem
    method: str
    progress: StudyProgress

    @property
    def plugin(self) -> Plugin | None: ...


def confirming_specs(
    studies: Iterable[BestStudy], num_seeds: int
) -> dict[ProblemItem, list[TrialSpec]]:
    """The runs that confirm each study's best settings, by problem."""
    specs: dict[ProblemItem, list[TrialSpec]] = {}
    for study in studies:
        if (best := study.progress.best) is None:
            continue
        try:
            settings = full_settings(study.method, best["hyperparams"])
        except ConfigError:  # A `build_sampler_cfg` of the user's makes settings of them.
            settings = dict(best["hyperparams"])
        specs.setdefault(study.problem, []).extend(
            TrialSpec(
                pid=study.problem.pid,
                problem=study.problem.spec,
                method=study.method,
                hyperparams=settings,
                seed=derive_seed("confirm", best["trial_id"], number),
                budget_sec=best["budget_sec"],
                plugin=study.plugin,
            )
            for number in range(num_seeds)
        )
    return specs
