"""Which settings of a study are the best: the one decision of it.

All that names a best asks here: the search, its end, the terminal, the YAML and the report.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lambda_hat.tables.confirmation import (
    Confirmation,
    Gain,
    comparable_runs,
    confirm,
    confirm_defaults,
    full_settings,
    gain_over,
    settings_of,
)
from lambda_hat.trial import COMPLETE, ESTIMATED, NOISY, finite
from lambda_hat.trial_gates import interval

Study = tuple[str, str]
"""(pid, method)."""
Row = Any
"""A row of the table of trials: a mapping, or a row of a pandas DataFrame."""

NUM_BEST = 3
"""How many of a study's best settings run again with other seeds."""
GOOD_ERROR = 0.05
"""A relative error that is good enough for many purposes."""


@dataclass(frozen=True)
class Cost:
    """What a run costs; None where that is not known."""

    full_gradients: float | None
    seconds: float | None
    """Wall time without compilation, which is paid once for a shape."""
    compile_sec: float | None

    @property
    def rank(self) -> tuple[float, float]:
        """Gradients first: unlike seconds they are the same on every machine."""
        known = (self.full_gradients, self.seconds)
        gradients, seconds = (math.inf if one is None else one for one in known)
        return gradients, seconds


@dataclass(frozen=True)
class Setting:
    """Settings that a trial had, with what they gave under other seeds, if they have run so."""

    row: Row
    confirmation: Confirmation | None = None

    @property
    def cost(self) -> Cost:
        """Of one run: the mean over those with other seeds, or else what the trial took."""
        if (found := self.confirmation) is not None and found.llc_hat is not None:
            return _cost(found.full_gradients, found.runtime_sec, found.compile_sec)
        work, seconds = self.row.get("work") or {}, self.row.get("seconds") or {}
        return _cost(work.get("full_gradients"), self.row["runtime_sec"], seconds.get("compile"))

    @property
    def is_good(self) -> bool:
        """Whether the whole 95 % interval of its error is within 5 % of the reference."""
        row, found = self.row, self.confirmation
        if found is None:
            known, error, se = row["status"] == COMPLETE, finite(row["error"]), row["se_hat"]
        else:
            known = not (found.is_noisy or found.num_failed)
            error, se = found.error, found.se_hat
        llc_ref = finite(row["llc_ref"])
        if not known or llc_ref is None or error is None:
            return False
        off = error / (abs(llc_ref) or 1.0)
        return off + interval(finite(se), finite(row["se_ref"]), llc_ref) <= GOOD_ERROR


def _cost(gradients: Any, runtime: Any, compiling: Any) -> Cost:
    whole, part = finite(runtime), finite(compiling)
    return Cost(finite(gradients), None if whole is None else whole - (part or 0.0), part)


@dataclass(frozen=True)
class Shortlist:
    """The trials of a study whose settings are worth another look.

    Attributes:
        best: Up to three with the smallest objectives, the smallest first, of different settings.
            A noisy one comes after every complete one.
        cheapest: The one with the least work whose error is small with its whole interval; none in
            a joint study, whose settings are to suit all problems.
        front: The Pareto front of a study with several objectives.
    """

    best: tuple[Row, ...] = ()
    cheapest: Row | None = None
    front: tuple[Row, ...] = ()

    @property
    def rows(self) -> tuple[Row, ...]:
        """The best and the cheapest, each once."""
        known = self.cheapest is None or any(_alike(self.cheapest, row) for row in self.best)
        return self.best if known else (*self.best, self.cheapest)

    def and_row(self, row: Row) -> Shortlist:
        """The same after one more trial."""
        if row.get("pareto"):
            return replace(self, front=(*self.front, row))._and_ranked(row)
        return self._and_ranked(row)

    def _and_ranked(self, row: Row) -> Shortlist:
        if not _can_be_best(row):
            return self
        cheap = (
            not is_joint(row)
            and Setting(row).is_good
            and (self.cheapest is None or Setting(row).cost.rank < Setting(self.cheapest).cost.rank)
        )
        return replace(
            self, best=_leading(self.best, row), cheapest=row if cheap else self.cheapest
        )


def _leading(leaders: Sequence[Row], row: Row) -> tuple[Row, ...]:
    """The best of these and one more; of several that are equal, the first."""
    twin = next((one for one in leaders if _alike(one, row)), None)
    if twin is not None and _rank(twin) <= _rank(row):
        return tuple(leaders)
    others = [one for one in leaders if one is not twin]
    return tuple(sorted([*others, row], key=_rank)[:NUM_BEST])


def _alike(one: Row, other: Row) -> bool:
    return one["hyperparams"] == other["hyperparams"]


def _can_be_best(row: Row) -> bool:
    """Whether a trial gave an estimate that was scored, in no more than the seconds it may take."""
    if row.get("within_max_seconds") in (False,):  # It may be NumPy's.
        return False
    known = finite(row["error"]) is not None and finite(row["objective"]) is not None
    return row["status"] in ESTIMATED and known


def _rank(row: Row) -> tuple[bool, float, int]:
    """A noisy one only where none is complete, the smallest objective, the first of equals.

    Joint trials rank alike on all problems: by their mean, in which noise is counted.
    """
    return row["status"] == NOISY and not is_joint(row), row["objective"], row["trial_number"]


def is_joint(row: Row) -> bool:
    """Whether a trial's settings were tuned for all problems at once."""
    number = row.get("joint_trial")
    return number is not None and number == number  # pandas has NaN where there is none.


def shortlist_of(rows: Iterable[Row]) -> Shortlist:
    """The shortlist of one study, whose rows come by number."""
    found = Shortlist()
    for row in rows:
        found = found.and_row(row)
    return found


def best_of(rows: Iterable[Row]) -> Row | None:
    """The best trial of one study's search, before any runs with other seeds."""
    return next(iter(shortlist_of(rows).best), None)


@dataclass(frozen=True)
class Winner:
    """What a study has found.

    Attributes:
        best: The best settings. Where settings of the shortlist have run with other seeds, the best
            of these, as `Confirmation.rank` has it; before that, the trial with the smallest
            objective.
        cheapest: The settings with the least work whose whole interval is within 5 % of the
            reference, under other seeds where any have run; None if there are none.
        untuned: What the method's defaults gave with other seeds.
        gain: How much better than the defaults the best settings are; None where that is not
            known, and where they are the defaults.
    """

    best: Setting
    cheapest: Setting | None = None
    untuned: Confirmation | None = None
    gain: Gain | None = None

    @property
    def is_default(self) -> bool:
        """Whether the best settings are the method's defaults."""
        row = self.best.row
        return settings_of(row) == full_settings(row["method"], {})


def winner_of(
    shortlist: Shortlist, runs: Sequence[Row], *, chosen: int | None = None
) -> Winner | None:
    """What a study has found, given the runs that repeat its settings with other seeds.

    Args:
        shortlist: Of the study.
        runs: Rows of `llc_runs.parquet`, of any settings.
        chosen: The number of the joint trial that is the best over all problems, if there is one.

    Returns:
        None if no trial can be the best.
    """
    if not shortlist.best:
        return None
    best = tuple(row for row in shortlist.best if row["trial_number"] == chosen)
    shortlist = replace(shortlist, best=best) if best else shortlist
    settings = [Setting(row, confirm(row, runs)) for row in shortlist.rows]
    confirmed = [one for one in settings if one.confirmation is not None]
    best = _best_confirmed(confirmed, runs) if confirmed else settings[0]
    good = [one for one in confirmed or settings if one.is_good]
    cheapest = min(good, key=lambda one: one.cost.rank) if good else None
    untuned = confirm_defaults(best.row, runs)
    winner = Winner(best, cheapest, untuned)
    if untuned is None or best.confirmation is None or winner.is_default:
        return winner
    return replace(winner, gain=gain_over(untuned, best.confirmation, best.row["se_ref"]))


def chosen_jointly(lists: Mapping[Study, Shortlist], runs: Sequence[Row]) -> dict[str, int]:
    """The number of each method's best joint trial.

    Args:
        lists: The shortlists of all studies, of a joint one those of every problem.
        runs: Rows of `llc_runs.parquet`. Of the trials that they repeat on each problem, the best
            fails least, is not noisy and has the smallest relative error: means over problems.

    Returns:
        By method; nothing for those without a trial that has an estimate on each problem.
    """
    joint: dict[str, list[Shortlist]] = {}
    for (_, method), shortlist in lists.items():
        if shortlist.best and is_joint(shortlist.best[0]):
            joint.setdefault(method, []).append(shortlist)
    chosen = {}
    for method, group in joint.items():
        compared = [run for one in group for run in comparable_runs(one.best, runs)]
        by_number = [{row["trial_number"]: row for row in one.best} for one in group]
        shared = [n for n in by_number[0] if all(n in rows for rows in by_number)]
        ranked = {n: _joint_rank([rows[n] for rows in by_number], compared) for n in shared}
        confirmed = {n: rank for n, rank in ranked.items() if rank is not None}
        if shared:
            chosen[method] = min(confirmed, key=confirmed.__getitem__) if confirmed else shared[0]
    return chosen


def _joint_rank(rows: Sequence[Row], runs: Sequence[Row]) -> tuple[float, float, float] | None:
    """The mean over problems of what ranks a confirmation; None unless there is one of each."""
    found = [(row, confirm(row, runs)) for row in rows]
    ranks = [(one.rank, abs(row["llc_ref"]) or 1.0) for row, one in found if one is not None]
    if len(ranks) < len(rows):
        return None
    failed, noisy, off = zip(*[(f, n, rms / scale) for (f, n, rms), scale in ranks], strict=True)
    return statistics.fmean(failed), statistics.fmean(noisy), statistics.fmean(off)


def _best_confirmed(settings: Sequence[Setting], runs: Sequence[Row]) -> Setting:
    """The best of these, going by runs that do it justice: `comparable_runs`."""
    compared = comparable_runs([one.row for one in settings], runs)
    found = [(confirm(one.row, compared) or one.confirmation, one) for one in settings]
    ranked = [(known.rank, one) for known, one in found if known is not None]
    return min(ranked, key=lambda pair: pair[0])[1]


def shortlists(rows: Iterable[Row]) -> dict[Study, Shortlist]:
    """The shortlist of each study, by (pid, method)."""
    found: dict[Study, Shortlist] = {}
    for row in rows:
        study = (row["pid"], row["method"])
        found[study] = found.get(study, Shortlist()).and_row(row)
    return found
