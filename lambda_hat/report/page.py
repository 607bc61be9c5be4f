"""The report page: one self-contained HTML file with tables, figures and provenance."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from lambda_hat.report.best_settings import best_settings
from lambda_hat.report.failures import failures_table
from lambda_hat.report.figures import draw_all
from lambda_hat.report.findings import Finding, findings, has_failed, read_trials, reference_of
from lambda_hat.report.formatting import (
    format_count,
    format_estimate,
    join_words,
)
from lambda_hat.report.overview import joint_table, results_table, runs_table, transfer_table
from lambda_hat.report.provenance import (
    Facts,
    confirmation_config,
    describe_computation,
    describe_reference,
    other_values,
    passed_gates,
    problem_json,
    read_if_present,
)
from lambda_hat.report.run_record import ranges_table, read_fingerprint
from lambda_hat.report.sentences import summary
from lambda_hat.report.style import BACKGROUND, COLOURS, GRID, MUTED, TEXT
from lambda_hat.report.svg import css_name, style_sheet, to_svg
from lambda_hat.report.traces import draw_traces
from lambda_hat.store import Store
from lambda_hat.tables.best import chosen_jointly, shortlists
from lambda_hat.tables.confirmation import settings_of
from lambda_hat.tables.reading import read_table
from lambda_hat.tables.transfer import Tuned, transfers

_NAMES = {"text": TEXT, "muted": MUTED, "grid": GRID, "page": BACKGROUND, "accent": COLOURS[1]}
_NAMES |= {"alarm": COLOURS[0], "good": COLOURS[2], "panel": GRID}
_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Problem:
    """Everything that the page says of one problem."""

    trials: pd.DataFrame
    findings: Sequence[Finding]
    reference: Mapping[str, Any]

    @property
    def pid(self) -> str:
        return str(self.trials.pid.iloc[0])


def make_page(
    store: Store, *, about: Mapping[str, str], machine: Facts, notes: Sequence[str]
) -> str:
    """Makes the report page of a results folder.

    Args:
        store: The folders with the tables, references, manifests and metrics.
        about: Values for the `<meta>` elements of the page; `command` is shown to the reader too.
        machine: The machine and versions of the run that made the table.
        notes: Warnings to show at the top.
    """
    trials = read_trials(store.trials_table)
    runs = read_table(store.llc_table) if store.llc_table.exists() else []
    chosen = chosen_jointly(shortlists(row for _, row in trials.iterrows()), runs)
    problems = [
        Problem(rows, findings(rows, runs, chosen), read_if_present(store.reference(str(pid))))
        for pid, rows in trials.groupby("pid", sort=False)
    ]
    fingerprints = _fingerprints(store, trials)
    moved = transfers(_winners(problems), runs)
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template("page.html").render(
        about=about,
        notes=notes,
        style=Markup(_style()),
        script=Markup((_FOLDER / "page.js").read_text()),
        scope=_scope(store, trials),
        results=results_table((one.trials, one.findings, one.reference) for one in problems),
        joint=joint_table([(str(p.trials.problem.iloc[0]), p.findings) for p in problems]),
        problems=[_section(store, one, f"f{place}") for place, one in enumerate(problems)],
        runs=runs_table(runs) if runs else None,
        runs_from=store.llc_table.name,
        moved=transfer_table(moved) if moved else None,
        provenance=machine | _seeds(fingerprints.values()),
        ranges=ranges_table(fingerprints),
    )


def _winners(problems: Sequence[Problem]) -> list[Tuned]:
    """The best settings of every study."""
    return [
        Tuned(one.method, each.pid, str(one.best.problem), settings_of(one.best))
        for each in problems
        for one in each.findings
        if one.best is not None
    ]


def _style() -> str:
    names = "".join(f"--{name}:var(--{css_name(colour)});" for name, colour in _NAMES.items())
    return f"{style_sheet()}:root{{{names}}}\n{(_FOLDER / 'page.css').read_text()}"


def _scope(store: Store, trials: pd.DataFrame) -> str:
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(store.trials_table.stat().st_mtime))
    methods = join_words([str(name) for name in trials.method.unique()])
    scope = f"{format_count(len(trials), 'trial')} of {methods}" if len(trials) else "No trial"
    problems = format_count(trials.pid.nunique(), "problem")
    return f"{scope} on {problems}, from {store.trials_table.name} of {when}"


def _fingerprints(store: Store, trials: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """What the first study of each method recorded when it began."""
    found: dict[str, dict[str, Any]] = {}
    for pid, method in trials[["pid", "method"]].drop_duplicates().itertuples(index=False):
        if not found.get(method):
            found[method] = read_fingerprint(store.journal(pid, method))
    return found


def _seeds(fingerprints: Any) -> Facts:
    seeds = {str(one["optuna"]["seed"]) for one in fingerprints if "optuna" in one}
    if not seeds:
        return {}
    text = "of the search; each trial's seed is in the table and in its manifest"
    return {"seed": f"{join_words(sorted(seeds))}, {text}"}


def _section(store: Store, problem: Problem, prefix: str) -> dict[str, Any]:
    """What the template needs for the section of one problem."""
    trials, found = problem.trials, problem.findings
    sentence = summary(found, format_estimate(*reference_of(trials)))
    best = [one.best for one in found if one.best is not None]
    metrics = [read_if_present(store.metrics(one.pid, one.method, one.trial_id)) for one in best]
    confirmed = all(one.confirmation for one in found if one.best is not None)
    failures = failures_table(trials)
    num_failed = int(has_failed(trials).sum())
    return {
        "pid": problem.pid,
        "label": str(trials.problem.iloc[0]),
        "sentence": _keep_together(sentence),
        "reference": _reference(store, problem),
        "best": [best_settings(one, list(trials.method.unique())) for one in found],
        "advice": "trust the runs with other seeds" if confirmed else "confirm it, as below",
        "failures": failures,
        "num_failed": format_count(num_failed, "trial"),
        "figures": _figures(store, problem, best, prefix),
        "computed": describe_computation(problem.reference, metrics) | _budget(trials),
        "problem": problem_json(problem.reference),
        "confirm": confirmation_config(store, found),
    }


def _reference(store: Store, problem: Problem) -> dict[str, Any]:
    """The reference, how it was computed, and which gates it passed or failed."""
    status, how = str(problem.trials.ref_status.iloc[-1]), describe_reference(problem.reference)
    warnings = []
    if status != "ok":
        warnings.append(
            f"The reference is {status}, and was accepted all the same: errors below may be the "
            "reference's own."
        )
    if not problem.reference:
        warnings.append(f"{store.reference(problem.pid)} is missing: no more is known.")
    return {
        "value": format_estimate(*reference_of(problem.trials)),
        "how": f", by {how}" if how else "",
        "warnings": warnings,
        "failed": [str(reason) for reason in problem.reference.get("reasons") or []],
        "passed": passed_gates(problem.reference),
        "facts": other_values(problem.reference),
    }


def _figures(
    store: Store, problem: Problem, best: Sequence[pd.Series], prefix: str
) -> list[dict[str, Any]]:
    """The figures of a problem; none if there is no reference."""
    if not math.isfinite(reference_of(problem.trials)[0]):
        return []
    shown = []
    drawings = draw_all(problem.trials, problem.findings)
    drawings += draw_traces(store, problem.pid, problem.reference, best)
    for place, drawing in enumerate(drawings):
        finding = (drawing.figure.get_suptitle() or drawing.title).replace("\n", " ")
        svg = to_svg(drawing.figure, f"{prefix}-{place}")
        label = f'<svg role="img" aria-label="{escape(finding)}" '
        svg = Markup(svg.replace("<svg ", label, 1))
        shown.append({"title": drawing.title, "caption": drawing.caption, "svg": svg})
    return shown


def _budget(trials: pd.DataFrame) -> Facts:
    budgets = sorted(set(trials.budget_sec))
    return {"budget of a trial": f"{join_words([f'{budget:g}' for budget in budgets])} s"}


def _keep_together(text: str) -> str:
    """Keeps a number, its error and its unit on one line."""
    return re.sub(r" (±|%|s\b|min\b|h\b)", "\u00a0\\1", text).replace("± ", "±\u00a0")
