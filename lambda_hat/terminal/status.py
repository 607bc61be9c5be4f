"""How a run stands, as `parsl-optuna status` prints it, from what its files say."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from lambda_hat.report.formatting import (
    format_duration,
    format_estimate,
    format_percent,
)
from lambda_hat.store import Holder, Store, holder_of
from lambda_hat.terminal.printing import Terminal
from lambda_hat.trial import NOISY
from lambda_hat.tuning.standing import (
    RUNNING,
    ReferenceStanding,
    StudyStanding,
    reference_of,
)


class StatusConsole(Terminal):
    """Prints how a run stands."""

    def show(self, store: Store, studies: Sequence[StudyStanding]) -> None:
        """Shows who runs, and of each problem its reference and studies."""
        holder = holder_of(store.results)
        self.show_facts(
            {
                "results": str(store.results),
                "artifacts": str(store.artifacts),
                "driver": _driver(holder),
                "last event": last_event(store) or "none is written down",
            }
        )
        alive = holder is not None and holder.alive
        for pid, label in {study.pid: study.label for study in studies}.items():
            self.out.print(f"[bold]{escape(label)}[/]  [dim]{pid}[/]", soft_wrap=True)
            words = reference_words(reference_of(store, pid), alive=alive)
            self.out.print(f"  reference  {escape(words)}", soft_wrap=True)
            self.out.print(_table([s for s in studies if s.pid == pid], alive=alive))
            self.out.print()


def _driver(holder: Holder | None) -> str:
    if holder is None:
        return "none: the last command has ended"
    if holder.alive:
        return f"{holder.name} is at work"
    return f"none: {holder.name} was killed; the same command goes on from where it was"


def last_event(store: Store) -> str | None:
    """The last line of the log of events; None if there is none."""
    try:
        lines = store.events.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return None
    return lines[-1] if lines else None


def reference_words(standing: ReferenceStanding, *, alive: bool) -> str:
    """How a reference stands, in a line.

    Args:
        standing: What its files say.
        alive: Whether a run is going on, which may be computing it.
    """
    stored, partial = standing.stored, standing.partial
    if partial:
        return f"{'under way' if alive else 'not finished'}: {engine_words(partial)}"
    if stored is None:
        return "under way or waiting, nothing is known yet" if alive else "there is none"
    if stored.llc_ref is None:
        return f"failed: {stored.why}"
    value = format_estimate(stored.llc_ref, stored.se_ref)
    return f"{value} ok" if stored.status == "ok" else f"{value} {stored.status}: {stored.why}"


def engine_words(partial: Mapping[str, Any]) -> str:
    """How the engine of a reference stands, by its ref.json.partial."""
    words = [str(partial.get("method", "?"))]
    if partial.get("llc") is not None:
        words.append(f"LLC {format_estimate(partial['llc'], partial.get('se'))}")
    if partial.get("rhat") is not None:
        words.append(f"R-hat {partial['rhat']:.3f}")
    if partial.get("ess_bulk") is not None:
        words.append(f"ESS {partial['ess_bulk']:,.0f}")
    if partial.get("relative_se") is not None:
        words.append(f"relative SE {format_percent(abs(partial['relative_se']))}")
    more = partial.get("seconds_to_gates")
    if more is not None:
        words.append(f"{format_duration(more)} more needed" if more else "its gates hold")
    return ", ".join(words)


def _table(studies: Sequence[StudyStanding], *, alive: bool) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    for name in ("method", "trials", "counts", "best", "error", "written"):
        # Where the terminal is narrow, counts and times are broken into lines, and no number is.
        grid.add_column(no_wrap=name not in ("counts", "written"))
    for study in studies:
        grid.add_row(f"  {study.method}", *_cells(study, alive=alive))
    return grid


def _cells(study: StudyStanding, *, alive: bool) -> tuple[str, ...]:
    total = "" if study.max_trials is None else f" of {study.max_trials}"
    named = {NOISY: NOISY, "pruned": "pruned", "failed": "failed"}
    named[RUNNING] = "running" if alive else "cut off"
    counts = [f"{study.counts[name]} {word}" for name, word in named.items() if study.counts[name]]
    trials = (f"{study.num_ended}{total} trials", ", ".join(counts))
    if study.changed is None or not study.counts:
        return (*trials, "not begun")
    ago = f"{format_duration(max(1, round(time.time() - study.changed)))} ago"
    if study.best is None:
        return (*trials, "no estimate yet", "", ago)
    if study.confirmed is not None:
        runs = study.confirmed
        estimate = format_estimate(runs["llc_hat"], runs["se_hat"])
        return (*trials, f"LLC {estimate}", f"error {runs['error']:.2g} confirmed", ago)
    best = study.best
    noisy = " noisy" if best["status"] == NOISY else ""
    estimate = format_estimate(best["llc_hat"], best["se_hat"])
    return (*trials, f"LLC {estimate}", f"error {best['error']:.2g}{noisy}", ago)


def done_words(store: Store, studies: Sequence[StudyStanding]) -> list[str]:
    """What is done already of each problem, in a line; nothing of those without anything."""
    lines = []
    for pid, label in {study.pid: study.label for study in studies}.items():
        own = [study for study in studies if study.pid == pid and study.max_trials is not None]
        stored = reference_of(store, pid).stored
        if own and (stored or any(study.num_ended for study in own)):
            reference = f"reference {stored.status}" if stored else "no reference"
            counts = [f"{s.num_ended} of {s.max_trials} trials of {s.method}" for s in own]
            lines.append(f"{label}: {', '.join([reference, *counts])}")
    return lines
