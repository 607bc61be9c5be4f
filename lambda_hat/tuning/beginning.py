"""What a study was begun with, against what this run asks for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from lambda_hat.conf.ranged_trial import Ranges
from lambda_hat.conf.search_space import bounds_of
from lambda_hat.trial import Reference
from lambda_hat.tuning.fingerprint import differences, fingerprint, identity, reference_to_keep
from lambda_hat.tuning.functions import StudyFunctions
from lambda_hat.tuning.journal import Journal
from lambda_hat.tuning.settings import StudySettings


class Settled(NamedTuple):
    """What a study goes on with."""

    reference: Reference
    ranges: Ranges
    note: str | None = None
    """What to tell the user of a reference that differs from the first within its errors."""


@dataclass(frozen=True)
class Beginning:
    """One study's fingerprint, as its journal has it and as this run would make it."""

    method: str
    ranges: Ranges
    functions: StudyFunctions
    settings: StudySettings
    journal: Journal

    def changes(self) -> list[str]:
        """What differs between this run's settings and those the study was begun with."""
        begun = self.journal.fingerprint
        if begun is None:
            return []
        old = {key: begun[key] for key in begun if key not in ("reference", "bounds")}
        return differences(old, self._fingerprint())

    def taken_up(self) -> Beginning:
        """With the bounds that the study has, and its choices.

        A study that was begun when each of several coinciding choices was its own keeps them.
        """
        begun = self.journal.fingerprint
        if not begun:
            return self
        now = replace(self, ranges=replace(self.ranges, most=begun.get("bounds", {})))
        if now.changes():
            each = replace(now, ranges=replace(now.ranges, num_rows=None))
            return now if each.changes() else each
        return now

    def settle(self, reference: Reference) -> Settled:
        """The reference that the trials are scored against, from first to last.

        Raises:
            StudyChanged: The study was begun with another reference.
        """
        begun = self.journal.fingerprint
        if begun is not None:
            kept, note = reference_to_keep(begun["reference"], reference)
            return Settled(kept, self.ranges, note)
        bounds = bounds_of(self.method, reference.stiffness)
        bounded = replace(self, ranges=replace(self.ranges, most=bounds))
        stamp = {**bounded._fingerprint(), "reference": identity(reference)}
        self.journal.stamp({**stamp, **({"bounds": bounds} if bounds else {})})
        return Settled(reference, bounded.ranges)

    def _fingerprint(self) -> dict[str, Any]:
        return fingerprint(self.method, self.ranges, self.functions, self.settings)
