"""How references are computed, and when studies may be scored against one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lambda_hat.conf.samplers import is_as_precise
from lambda_hat.trial import Reference


@dataclass(frozen=True)
class ReferencePlan:
    """How references are computed and when they are accepted."""

    budget_sec: float = 36000.0
    accept_unreliable: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    """`reference:` of the config, with its defaults."""

    def is_final(self, reference: Reference) -> bool:
        """Whether a stored reference is used, or refused, as it is, and not computed (further)."""
        known, asked = reference.settings, self.settings
        compared = (known.keys() & asked.keys()) - {"accept_unreliable", "relative_se"}
        if any(known[key] != asked[key] for key in compared) or not is_as_precise(known, asked):
            return False
        if reference.status == "unreliable" and not self.accept_unreliable:
            return self.budget_sec <= (reference.budget_sec or 0.0)
        return reference.status in ("ok", "unreliable")

    def objection(self, reference: Reference) -> str | None:
        """Why no study is scored against a reference, without a full stop; None if one may."""
        if reference.status == "failed":
            return f"there is no reference: {reference.why}"
        if reference.status == "ok" or self.accept_unreliable:
            return None
        return (
            f"its reference is unreliable: {reference.why}. Give it more time with "
            "--hmc-budget (it goes on where it stopped), raise posterior.gamma, or tune "
            "against it all the same with --set reference.accept_unreliable=true"
        )
