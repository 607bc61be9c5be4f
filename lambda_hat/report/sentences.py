"""What was found on one problem, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from lambda_hat.report.findings import AGREES, NO_ESTIMATE, NOISY, UNCERTAIN, VERDICTS, Finding
from lambda_hat.report.formatting import format_count, format_percent, join_words


def summary(found: Sequence[Finding], reference: str) -> str:
    """The findings of one problem in one sentence.

    Args:
        found: The findings of all methods.
        reference: The reference with its standard error, as text.
    """
    ranked = sorted(
        found, key=lambda one: (VERDICTS.index(one.verdict), abs(one.relative_difference))
    )
    clauses = []
    for finding in ranked:
        first = not any(one.verdict == AGREES for one in ranked[: len(clauses)])
        clauses.append(_clause(finding, reference if first else ""))
    head = "" if ranked[0].verdict == AGREES else "No method is shown to agree with the reference, "
    head += f"{reference}: " if head else ""
    return f"{head}{'; '.join(clauses)}.{_gains(found)}"


def _gains(found: Sequence[Finding]) -> str:
    """A sentence on which methods are better tuned than untuned; empty if nothing is known."""
    by_verdict: dict[str, list[str]] = {}
    for one in found:
        if one.winner is not None and one.winner.gain is not None:
            by_verdict.setdefault(one.winner.gain.verdict, []).append(one.method)
    words = [
        f"{verdict} for {join_words(methods)}"
        for verdict in ("better", "worse", "unclear")
        if (methods := by_verdict.get(verdict))
    ]
    return f" Tuned against untuned: {', '.join(words)}." if words else ""


def _clause(finding: Finding, reference: str) -> str:
    """The part of the sentence about one method; it names the reference if it is given."""
    name, value, took = finding.method, finding.estimate, finding.cost
    if finding.verdict == NO_ESTIMATE and finding.best is not None:
        return f"{name} gave no estimate with other seeds than its best trial's"
    if finding.verdict == NO_ESTIMATE:
        return f"{name} gave no estimate in {format_count(finding.trials, 'trial')}"
    if finding.verdict == AGREES:
        # The best of many trials may agree by luck, so the sentence also says how many agree.
        share = f"{finding.agreeing} of {format_count(finding.trials, 'trial')}"
        if reference:
            agreement = f"{value} against {reference}; {share} do"
            return f"{name} agrees with the reference ({agreement}){took}"
        return f"{name} agrees too ({value}; {share}){took}"
    if finding.verdict == NOISY:
        verb = "is" if finding.noisy == 1 else "are"
        share = f"{finding.noisy} of {format_count(finding.trials, 'trial')} {verb}"
        return f"{name} is too noisy to tell ({share})"
    if finding.verdict == UNCERTAIN:
        return f"{name} is too uncertain to tell ({value}){took}"
    return f"{name} is {deviation(finding.relative_difference)} ({value}){took}"


def deviation(difference: float) -> str:
    """A relative difference as text: `66 % high`, `4.2 % low`, `more than 1000 % high`."""
    side = "high" if difference > 0 else "low"
    size = format_percent(abs(difference)) if abs(difference) <= 10 else "more than 1000 %"
    return f"{size} {side}"
