"""The report page: one self-contained HTML file with tables, figures and provenance."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from lambda_hat.report import plots
from lambda_hat.report.findings import (
    Finding,
    estimates_of,
    findings,
    read_trials,
    reference_of,
    select,
    summary,
)
from lambda_hat.report.formatting import (
    format_count,
    format_estimate,
    format_number,
    format_percent,
    format_settings,
    join_words,
)
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
from lambda_hat.report.settings import searched_settings
from lambda_hat.report.style import (
    BACKGROUND,
    COLOURS,
    GRID,
    MUTED,
    TEXT,
    colour_and_marker,
    css_name,
    style_sheet,
    to_svg,
)
from lambda_hat.store import Store
from lambda_hat.tables.reading import read_table

_NAMES = {"ink": TEXT, "muted": MUTED, "grid": GRID, "paper": BACKGROUND, "accent": COLOURS[1]}
_NAMES |= {"alarm": COLOURS[0], "good": COLOURS[2], "panel": GRID}

_CAPTIONS = {
    "estimates": "Upper marks: the trial with the smallest error, with the 95 % interval of its "
    "own Monte Carlo error. Faint marks: all trials. The grey band is the reference.",
    "errors_by_time": "Wall time of a whole trial in its worker, compilation included. The line "
    "is the least error that any trial reached in that time or less.",
    "history": "Trials in the order in which they were proposed, by their error; lines are the "
    "best so far. In the grey band the reference itself may be wrong by as much.",
    "hyperparameters": "Each trial's error against each of its settings. Crosses are failed "
    "trials; choices are spread a little, so that marks do not hide each other.",
}


def make_page(store: Store, *, about: Mapping[str, str], notes: Sequence[str]) -> str:
    """Makes the report page of a results folder.

    Args:
        store: The folders with the tables, references, manifests and metrics.
        about: Values for the `<meta>` elements of the page; `command` is shown to the reader too.
        notes: Warnings to show at the top.
    """
    trials = read_trials(store.trials_table)
    runs = read_table(store.llc_table) if store.llc_table.exists() else []
    sections, contents = [], []
    for index, (pid, rows) in enumerate(trials.groupby("pid", sort=False)):
        sentence, section = _problem(store, rows, runs, str(index))
        sections.append(section)
        link = f'<a href="#{escape(str(pid))}">{escape(rows.problem.iloc[0])}</a>'
        contents.append(f"<li>{link}: {escape(sentence)}</li>")
    body = [_head_lines(store, trials, about.get("command", ""))]
    body += [f'<p class="warning">{escape(note)}</p>' for note in notes]
    body += [f"<ol>{''.join(contents)}</ol>"] if len(contents) > 1 else []
    metas = [f'<meta name="lambda-hat-{k}" content="{escape(v)}">' for k, v in about.items()]
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            *metas,
            "<title>Lambda-Hat: samplers against their references</title>",
            f"<style>{_style()}</style></head><body><main>",
            *body,
            *sections,
            "</main></body></html>",
        ]
    )


def _style() -> str:
    names = "".join(f"--{name}:var(--{css_name(colour)});" for name, colour in _NAMES.items())
    css = Path(__file__).with_name("page.css").read_text()
    return f"{style_sheet()}:root{{{names}}}\n{css}"


def _head_lines(store: Store, trials: pd.DataFrame, command: str) -> str:
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(store.trials_table.stat().st_mtime))
    methods = join_words([str(name) for name in trials.method.unique()])
    scope = f"{format_count(len(trials), 'trial')} of {methods}" if len(trials) else "No trial"
    lines = [
        "<h1>Samplers against their references</h1>",
        f'<p class="quiet">{escape(scope)} on {format_count(trials.pid.nunique(), "problem")}, '
        f"from {escape(store.trials_table.name)} of {when}. The LLC is the local learning "
        "coefficient; ± is one standard error.</p>",
    ]
    if command:
        lines.append(f"<p>Made by</p>{_code(command)}")
    return "\n".join(lines)


def _problem(
    store: Store, rows: pd.DataFrame, runs: Sequence[Mapping[str, Any]], name: str
) -> tuple[str, str]:
    """The summary sentence and the HTML section of one problem."""
    pid, label = rows.pid.iloc[0], rows.problem.iloc[0]
    reference, found = read_if_present(store.reference(pid)), findings(rows, runs)
    sentence = summary(found, format_estimate(*reference_of(rows)))
    metrics = [
        read_if_present(store.metrics(one.best.pid, one.best.method, one.best.trial_id))
        for one in found
        if one.best is not None
    ]
    parts = [
        f'<section id="{escape(pid)}">',
        f'<h2>{escape(label)} <span class="pid">{escape(pid)}</span></h2>',
        f'<p class="finding">{_keep_together(escape(sentence))}</p>',
        _reference(store, rows, reference),
        "<h3>Methods</h3>",
        _methods(found, list(rows.method.unique())),
        _failures(rows),
        *_figures(rows, name),
        "<h3>How it was computed</h3>",
        _facts(describe_computation(reference, metrics) | _budget(rows)),
        _details("The problem, composed", problem_json(reference)),
        _details(
            "To confirm: the best settings with other seeds, as a config of parsl-llc",
            confirmation_config(store, found),
        ),
        "</section>",
    ]
    return sentence, "\n".join(part for part in parts if part)


def _reference(store: Store, rows: pd.DataFrame, reference: Mapping[str, Any]) -> str:
    """The reference, how it was computed, and which gates it passed or failed."""
    status = str(rows.ref_status.iloc[-1])
    value = f"<b>{format_estimate(*reference_of(rows))}</b>"
    how = describe_reference(reference)
    lines = ["<h3>Reference</h3>", f"<p>LLC {value}{escape(f', by {how}' if how else '')}.</p>"]
    if status != "ok":
        lines.append(
            f'<p class="warning">The reference is {escape(status)}, and was accepted all the same: '
            "errors below may be the reference's own.</p>"
        )
    if not reference:
        path = store.reference(rows.pid.iloc[0])
        lines.append(f'<p class="quiet">{escape(str(path))} is missing: no more is known.</p>')
    broken = [str(reason) for reason in reference.get("reasons") or []]
    items = [f'<li class="broken"><b>✗</b>{escape(reason)}</li>' for reason in broken]
    items += [f'<li class="held"><b>✓</b>{escape(s)}</li>' for s in passed_gates(reference)]
    lines.append(f'<ul class="gates">{"".join(items)}</ul>' if items else "")
    lines.append(_facts(other_values(reference)))
    return "\n".join(line for line in lines if line)


def _methods(found: Sequence[Finding], methods: Sequence[str]) -> str:
    """A table with the best trial of each method and its settings."""
    titles = "method,LLC,error,relative,seconds,full gradients,trials,failed,agree"
    head = "".join(f"<th>{title}</th>" for title in titles.split(","))
    body = "".join(_method(one, methods) for one in found)
    confirmed = all(one.confirmation for one in found if one.best is not None)
    advice = "trust what other seeds say" if confirmed else "confirm it with other seeds, below"
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>{body}</table></div>'
        '<p class="quiet">The best trial of each method, by its error. "agree" counts the trials '
        "whose difference to the reference is within its own 95 % interval. The smallest of many "
        f"noisy errors is smaller than any of them deserves: {advice}.</p>"
    )


def _method(one: Finding, methods: Sequence[str]) -> str:
    colour = css_name(colour_and_marker(one.method, methods)[0])
    dot = f'<span class="dot" style="background:var(--{colour})">'
    counts = [str(one.trials), f'<span class="bad">{one.failed}</span>' if one.failed else "0"]
    counts.append(str(one.agreeing))
    values, below = ["-"] * 5, "No trial gave an estimate."
    if one.best is not None:
        best = one.best
        joint = math.hypot(_finite_or_zero(best.se_hat), _finite_or_zero(best.se_ref))
        work = (best.work or {}).get("full_gradients")
        values = [
            format_estimate(best.llc_hat, best.se_hat),
            format_estimate(best.error, joint),
            format_percent(best.error / (abs(best.llc_ref) or 1.0)),
            f"{best.runtime_sec:.3g}" if math.isfinite(best.runtime_sec) else "-",
            format_number(work) if work else "-",
        ]
        params = {
            name: best.hyperparams[name]
            for name in searched_settings([best.hyperparams], one.method)
        }
        below = f"<code>{escape(format_settings(params))}</code> in trial {best.trial_number}"
        below += ", ended by its budget" if best.budget_exhausted else ""
        below += _confirmed(one)
    cells = "".join(f"<td>{cell}</td>" for cell in [*values, *counts])
    return (
        f'<tbody><tr><td class="method">{dot}</span>{escape(one.method)}</td>{cells}</tr>'
        f'<tr class="settings"><td></td><td colspan="8">{below}</td></tr></tbody>'
    )


def _confirmed(one: Finding) -> str:
    """The confirmation of the best settings, on a separate line."""
    confirmation = one.confirmation
    if confirmation is None or one.best is None:
        return ""
    seeds = format_count(confirmation.num_runs, "other seed")
    if confirmation.error is None:
        return f"<br><b>none of {seeds} gave an estimate</b>"
    joint = math.hypot(confirmation.se_hat or 0.0, _finite_or_zero(one.best.se_ref))
    failed = f", {confirmation.num_failed} of them failed" if confirmation.num_failed else ""
    return (
        f"<br><b>with {seeds}{failed}: "
        f"{format_estimate(confirmation.llc_hat, confirmation.se_hat)}</b>, "
        f"error {format_estimate(confirmation.error, joint)} "
        f"({format_percent(abs(one.relative_difference))})"
    )


def _failures(rows: pd.DataFrame) -> str:
    """Reasons why trials failed, grouped by similar sentences, with counts."""
    failed = rows.drop(estimates_of(rows).index)
    if failed.empty:
        return ""
    kinds: dict[tuple[str, str], list[str]] = {}
    for method, message in zip(failed.method, failed.error_msg, strict=True):
        sentence = str(message) if message else "no reason was given"
        kinds.setdefault((method, re.sub(r"[\d.e+-]+", "#", sentence)), []).append(sentence)
    items = [
        f"<li>{escape(method)}, {format_count(len(alike), 'trial')}: {escape(alike[0])}</li>"
        for (method, _), alike in sorted(kinds.items(), key=lambda item: -len(item[1]))[:8]
    ]
    title = f"{format_count(len(failed), 'trial')} failed, scored as worst:"
    return f"<p>{title}</p><ul>{''.join(items)}</ul>"


def _figures(rows: pd.DataFrame, name: str) -> list[str]:
    """The figures of a problem; none if there is no reference."""
    if not math.isfinite(reference_of(rows)[0]):
        return []
    drawn = [
        ("estimates", "Estimates", plots.estimates(rows)),
        ("errors_by_time", "Error and time", plots.errors_by_time(rows)),
        ("history", "Optimisation history", plots.history(rows)),
    ]
    for method in rows.method.unique():
        if any(select(rows, rows.method == method).hyperparams):
            figure = plots.hyperparameters(rows, method)
            drawn.append(("hyperparameters", f"Settings of {method}", figure))
    return [_figure(*one, name=f"f{name}-{place}") for place, one in enumerate(drawn)]


def _figure(kind: str, title: str, figure: Figure, *, name: str) -> str:
    says = (figure.get_suptitle() or title).replace("\n", " ")
    svg = to_svg(figure, name).replace("<svg ", f'<svg role="img" aria-label="{escape(says)}" ', 1)
    return (
        f"<h3>{escape(title)}</h3><figure>"
        f'<div class="scroll">{svg}</div><figcaption>{_CAPTIONS[kind]}</figcaption></figure>'
    )


def _budget(rows: pd.DataFrame) -> Facts:
    budgets = sorted(set(rows.budget_sec))
    return {"budget of a trial": f"{join_words([f'{budget:g}' for budget in budgets])} s"}


def _facts(facts: Facts) -> str:
    items = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts.items())
    return f"<dl>{items}</dl>" if items else ""


def _details(title: str, text: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{_code(text)}</details>" if text else ""


def _keep_together(text: str) -> str:
    """Keeps a number, its error and its unit on one line."""
    return re.sub(r" (±|%|s\b|min\b|h\b)", "\u00a0\\1", text).replace("± ", "±\u00a0")


def _code(text: str) -> str:
    return f"<pre><code>{escape(text)}</code></pre>"


def _finite_or_zero(value: float) -> float:
    return value if math.isfinite(value) else 0.0
