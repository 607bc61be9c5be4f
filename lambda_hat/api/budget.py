"""The budget of a call: its default, and the bar that shows how much of it has gone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from lambda_hat.report.formatting import format_duration
from lambda_hat.terminal.printing import Terminal

BUDGET_SEC = 3600.0
"""What a reference, or an estimate, may take where nothing else is said."""
WIDTH = 30


@contextmanager
def waiting(what: str, budget_sec: float) -> Iterator[None]:
    """Shows the bar for the time of a block, on a terminal and in a notebook.

    Args:
        what: Runs, in words.
        budget_sec: It may take so long, and mostly ends before.
    """
    terminal = Terminal()
    if not terminal.is_interactive:
        yield
        return
    began = time.monotonic()

    def bar() -> Table:
        spent = min(time.monotonic() - began, budget_sec)
        row = Table.grid(padding=(0, 2))
        times = f"{format_duration(spent)} of {format_duration(budget_sec)} at most"
        row.add_row(escape(what), ProgressBar(budget_sec, spent, width=WIDTH), times)
        return row

    with Live(get_renderable=bar, console=terminal.out, refresh_per_second=4, transient=True):
        yield
