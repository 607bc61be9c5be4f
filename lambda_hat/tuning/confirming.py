"""The runs that confirm what a study has found, with seeds its search has not seen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from lambda_hat.plugin import Plugin
from lambda_hat.tables.best import shortlist_of
from lambda_hat.tables.confirmation import confirming_seed, full_settings, settings_of
from lambda_hat.trial import ProblemItem, TrialSpec


class EndedStudy(Protocol):
    """The part of a study that is needed here."""

    problem: ProblemItem
    method: str

    @property
    def plugin(self) -> Plugin | None: ...
    def rows(self) -> Iterable[Mapping[str, Any]]: ...


def confirming_specs(study: EndedStudy, num_seeds: int) -> list[TrialSpec]:
    """The runs that a study's shortlist, and its method's defaults, are judged by.

    Args:
        study: A study that has ended.
        num_seeds: Runs of each settings; 0 for none.

    Returns:
        The best settings first and the defaults last, which are left out if they are on the
        shortlist themselves. Empty for a study without an estimate.
    """
    rows = shortlist_of(study.rows()).rows if num_seeds else ()
    if not rows:
        return []
    budget = rows[0]["budget_sec"]
    defaults = full_settings(study.method, {})
    chosen = [(settings_of(row), row["trial_id"], study.plugin) for row in rows]
    if all(settings != defaults for settings, _, _ in chosen):
        # No plugin builds them: they are what `parsl-llc` runs where nothing is said.
        chosen.append((defaults, f"{study.problem.pid}:{study.method}:defaults", None))
    return [
        TrialSpec(
            pid=study.problem.pid,
            problem=study.problem.spec,
            method=study.method,
            hyperparams=settings,
            seed=confirming_seed(name, number),
            budget_sec=budget,
            plugin=plugin,
        )
        for settings, name, plugin in chosen
        for number in range(num_seeds)
    ]
