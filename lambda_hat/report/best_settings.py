"""A method's best settings in the page, with what they gave under other seeds, as text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lambda_hat.report.findings import WITHIN, Finding, format_cost
from lambda_hat.report.formatting import (
    format_count,
    format_duration,
    format_estimate,
    format_number,
    format_percent,
    format_settings,
)
from lambda_hat.report.overview import finite_or_zero
from lambda_hat.report.settings import searched_settings
from lambda_hat.report.style import colour_and_marker
from lambda_hat.report.svg import css_name
from lambda_hat.tables.best import Cost, Setting, Winner


def best_settings(one: Finding, methods: Sequence[str]) -> dict[str, Any]:
    """What the page says of a method's best settings.

    Args:
        one: The method's finding.
        methods: All methods of the problem, which have colours of their own.

    Returns:
        Texts: `method`, `colour`, `settings`, `where` they were found, and `confirmed`, sentences
        on what other seeds, the defaults and the cheapest good settings give.
    """
    text = {"method": one.method, "colour": css_name(colour_and_marker(one.method, methods)[0])}
    winner = one.winner
    if winner is None:
        return text | {"settings": "", "where": "No trial gave an estimate.", "confirmed": []}
    ended = ", ended by its budget" if winner.best.row.budget_exhausted else ""
    said = [_confirmed(one, winner), _against_defaults(winner), _cheapest(winner)]
    return text | {
        "settings": _settings(winner.best),
        "where": f"in trial {winner.best.row.trial_number}{ended}",
        "confirmed": [sentence for sentence in said if sentence],
    }


def _settings(one: Setting) -> str:
    params = one.row.hyperparams
    names = searched_settings([params], one.row.method)
    return format_settings({name: params[name] for name in names})


def _confirmed(one: Finding, winner: Winner) -> str:
    confirmation = winner.best.confirmation
    if confirmation is None:
        return ""
    seeds = format_count(confirmation.num_runs, "other seed")
    if confirmation.error is None:
        return f"None of {seeds} gave an estimate."
    joint = math.hypot(finite_or_zero(confirmation.se_hat), finite_or_zero(winner.best.row.se_ref))
    counts = ((confirmation.num_failed, "failed"), (confirmation.num_noisy, "noisy"))
    odd = "".join(f", {number} of them {word}" for number, word in counts if number)
    return (
        f"With {seeds}{odd}: {format_estimate(confirmation.llc_hat, confirmation.se_hat)}, "
        f"error {format_estimate(confirmation.error, joint)} "
        f"({format_percent(abs(one.relative_difference))}), in {_whole_cost(winner.best.cost)}."
    )


def _whole_cost(cost: Cost) -> str:
    if not cost.compile_sec:
        return format_cost(cost)
    return f"{format_cost(cost)}, after {format_duration(cost.compile_sec)} of compiling"


def _against_defaults(winner: Winner) -> str:
    """Whether tuning has helped, where both have run with other seeds."""
    untuned = winner.untuned
    if untuned is None:
        return ""
    if winner.is_default:
        return "They are the method's defaults."
    if untuned.error is None:
        return "The defaults gave no estimate."
    seeds = format_count(untuned.num_runs, "seed")
    found = f"The defaults, with {seeds}: {format_estimate(untuned.llc_hat, untuned.se_hat)}."
    gain = winner.gain
    if gain is None:
        return f"{found} Too few runs to tell whether tuned is better."
    off = f"a run is {format_number(abs(gain.gain))} ± {format_number(gain.margin)}"
    side = "nearer to" if gain.gain > 0 else "farther from"
    told = {
        "better": "Tuned is better",
        "worse": "Tuned is worse",
        "unclear": "Whether tuned is better is unclear",
    }[gain.verdict]
    return f"{found} {told}: {off} (95 %) {side} the reference than one of the defaults."


def _cheapest(winner: Winner) -> str:
    """The settings with the least work that are good enough."""
    cheapest = winner.cheapest
    if cheapest is None:
        return f"No settings have their whole 95 % interval within {WITHIN} of the reference."
    cost = _whole_cost(cheapest.cost)
    if cheapest.row is winner.best.row:
        return f"They are the cheapest within {WITHIN} of the reference: {cost}."
    which = f"in trial {cheapest.row.trial_number}: {_settings(cheapest)}"
    return f"The cheapest within {WITHIN} of the reference, {cost}, were {which}."
