"""The Pareto fronts of studies with several objectives, as tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from lambda_hat.report.formatting import format_number, format_settings
from lambda_hat.tuning.study import Study


def front_tables(studies: Sequence[Study]) -> list[Table]:
    """A table for each study that has a front, from the smallest error to the smallest cost."""
    return [_front_table(study) for study in studies if study.progress.front]


def _front_table(study: Study) -> Table:
    title = f"Pareto front of {study.method}, {escape(study.problem.label)}"
    table = Table(title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD)
    for name in ("trial", *study.settings.objectives):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("settings")
    best = study.progress.best
    for row in sorted(study.progress.front, key=lambda row: row["objective"]):
        values = [format_number(value) for value in row["objectives"].values()]
        picked = best is not None and best["trial_number"] == row["trial_number"]
        settings = escape(format_settings(row["hyperparams"])) + (" [bold](best)[/]" * picked)
        table.add_row(str(row["trial_number"]), *values, settings)
    return table
