"""Studies that are asked and told together: one by itself, or those of a joint study.

A joint study tunes one setting for all problems. It is a study of each problem, with the same
trials in each: the first one proposes, and the others follow. Each is told the mean over all
problems, the first one last, so that a trial which a kill has left half told is told to its end.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from lambda_hat.execution.trials import LostTrial
from lambda_hat.trial import ProblemItem, Reference, TrialResult
from lambda_hat.tuning.proposals import Asked
from lambda_hat.tuning.study import Study

Row = dict[str, Any]


class StudyGroup:
    """The studies of one method that share their trials.

    Args:
        studies: One, or those of a joint study, the one that proposes first.
    """

    def __init__(self, studies: Sequence[Study]):
        self.studies = tuple(studies)
        self._references: dict[str, Reference] = {}
        self._outcomes: dict[int, dict[str, tuple[Asked, TrialResult | LostTrial]]] = {}
        """Of trials of which not every problem's run has ended, by number and pid."""
        self._told: dict[int, float | None] = {}
        """What a killed run has told some studies of a trial, by number; None for a failure."""
        self._num_open: dict[int, int] = {}
        """How many studies such a trial is still to be told to."""

    @property
    def is_joint(self) -> bool:
        return len(self.studies) > 1

    @property
    def name(self) -> str:
        return f"of {self.studies[0].method}, joint," if self.is_joint else self.studies[0].name

    def hear(self, problem: ProblemItem, reference: Reference) -> bool:
        """Takes note of a problem's reference; returns whether all are there."""
        self._references[problem.pid] = reference
        return len(self._references) == len(self.studies)

    def begin(self) -> list[tuple[Study, Asked]]:
        """Takes the studies up with their references; returns the runs that must be made again.

        Raises:
            StudyChanged: One was begun with another reference.
            ConfigError: The studies of a joint one do not have the same trials.
        """
        references = self._references
        # Steps that diverge on the stiffest problem are no use to any.
        stiffest = max((one.stiffness or 0.0 for one in references.values()), default=0.0) or None
        left: dict[str, dict[int, Asked]] = {}
        for study in self.studies:
            reference = references[study.problem.pid]
            if self.is_joint:
                reference = replace(reference, stiffness=stiffest)
            left[study.problem.pid] = {one.number: one for one in study.begin(reference)}
        if self.is_joint:
            self._align(left)
        again = [(study, one) for study in self.studies for one in left[study.problem.pid].values()]
        return sorted(again, key=lambda pair: pair[1].number)

    def _align(self, left: dict[str, dict[int, Asked]]) -> None:
        """Gives every study the trials that any has, as a kill or a damaged journal left them."""
        asked = [study.num_asked for study in self.studies]
        for number in range(max(asked)):
            known = next(s for s, count in zip(self.studies, asked, strict=True) if count > number)
            for study, count in zip(self.studies, asked, strict=True):
                if count <= number:
                    followed = study.follow(known.params_of(number), number)
                    left[study.problem.pid][number] = followed
            num_open = sum(number in left[study.problem.pid] for study in self.studies)
            if 0 < num_open < len(self.studies):
                told = (study.told(number) for study in self.studies)
                self._told[number] = next((one for one in told if one is not None), None)
                self._num_open[number] = num_open

    @property
    def wants_more(self) -> bool:
        """Whether another trial is to be asked now."""
        return self.studies[0].wants_more and not any(study.given_up for study in self.studies)

    @property
    def in_flight(self) -> bool:
        return any(study.in_flight for study in self.studies)

    def ask(self) -> list[tuple[Study, Asked]]:
        """Begins the next trial; one run of it for each problem.

        Raises:
            ConfigError: A mistake in a function that users edit, or in a journal's trials.
        """
        first, *others = self.studies
        asked = first.ask()
        params = {} if asked.refused else asked.trial.params
        followed = [(one, one.follow(params, asked.number, asked.refused)) for one in others]
        return [(first, asked), *followed]

    def take(
        self, study: Study, asked: Asked, outcome: TrialResult | LostTrial
    ) -> list[tuple[Study, Row]]:
        """Takes up what a run came to; returns a row a problem once the trial has ended.

        Raises:
            ConfigError: A mistake in a function that users edit.
        """
        outcomes = self._outcomes.setdefault(asked.number, {})
        outcomes[study.problem.pid] = asked, outcome
        if len(outcomes) < self._num_open.get(asked.number, len(self.studies)):
            return []
        del self._outcomes[asked.number]
        ended = [(s, *outcomes[s.problem.pid]) for s in self.studies if s.problem.pid in outcomes]
        lost = [(s, one.reason) for s, _, one in ended if isinstance(one, LostTrial)]
        if asked.number in self._told and self._told[asked.number] is None:
            lost.append((study, "it was lost on another one"))
        if lost:
            loser, reason = lost[0]
            said = f"on {loser.problem.label}: {reason}" if self.is_joint else reason
            return [(one, one.lose(asked, said)) for one, asked, _ in ended]
        results = [(s, one, r) for s, one, r in ended if isinstance(r, TrialResult)]
        score = self._told.get(asked.number)
        if score is None and self.is_joint:
            score = statistics.fmean(s.score(result) for s, _, result in results)
        # The one that proposes comes last: what it has been told, all have.
        rows = [(s, s.tell(one, result, score)) for s, one, result in reversed(results)]
        return rows[::-1]

    def give_up(self, reason: str, asked: Asked | None = None) -> None:
        """Ends all studies early."""
        for study in self.studies:
            study.give_up(reason, asked)
            if self.is_joint:
                study.in_flight.clear()


def groups_of(studies: Iterable[Study]) -> list[StudyGroup]:
    """The groups of a run's studies, in their order."""
    found: dict[Any, list[Study]] = {}
    for study in studies:
        found.setdefault(study.method if study.settings.joint else study.name, []).append(study)
    return [StudyGroup(group) for group in found.values()]
