"""Printing of lines, facts and warnings, shared by both commands."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console as RichConsole
from rich.markup import escape

from lambda_hat.execution import Pool
from lambda_hat.execution.event_loop import Outcome
from lambda_hat.report.formatting import format_duration

PLAIN_WIDTH = 100


class Terminal:
    """Prints text: in colour on a terminal, as plain lines elsewhere.

    Args:
        file: Output stream; by default standard output.
        began: Start of the run in monotonic seconds, for elapsed times; by default now.
    """

    def __init__(self, file: Any = None, *, began: float | None = None):
        file = file or sys.stdout
        if isinstance(file, io.TextIOWrapper):
            # A character that the terminal cannot show must not end the run.
            file.reconfigure(errors="replace")
        self.out = RichConsole(file=file, highlight=False)
        self.is_interactive = self.out.is_terminal
        """Whether the output is a terminal, on which progress is redrawn in place."""
        if not self.is_interactive:
            self.out = RichConsole(file=file, highlight=False, width=PLAIN_WIDTH)
        self.began = time.monotonic() if began is None else began

    def show_facts(self, facts: Mapping[str, str | list[str]]) -> None:
        """Prints aligned names and values; the values are plain text, not markup."""
        width = max(len(name) for name in facts)
        for name, value in facts.items():
            for index, line in enumerate(value if isinstance(value, list) else [value]):
                label = f"[bold]{name:<{width}}[/]" if index == 0 else " " * width
                self.out.print(f"{label}  {escape(line)}", soft_wrap=True)
        self.out.print()

    def show_pool(self, pool: Pool) -> None:
        self.line(escape(pool.description))

    def warn(self, text: str) -> None:
        """Prints a warning."""
        self.out.print(f"[yellow]{escape(text)}[/]", soft_wrap=True)

    def line(self, text: str) -> None:
        """Prints one line of rich markup, with the time since the start."""
        elapsed = format_duration(time.monotonic() - self.began)
        self.out.print(f"[dim]{elapsed:>9}[/]  {text}", soft_wrap=True)

    def show_ending(self, outcome: Outcome, resume: str, *, any_done: bool) -> None:
        """Shows the failures and how to resume; `any_done`: whether there is any estimate."""
        for failure in outcome.failures:
            self.out.print(f"[red]{escape(failure)}[/]", soft_wrap=True)
        if outcome.interrupted:
            self.out.print("Interrupted: everything is kept. To go on:")
        elif outcome.cut_short:
            self.out.print("What is done is kept. To go on once this is fixed:")
        elif outcome.failures:
            rest = "Everything else is done and written. " if any_done else ""
            self.out.print(f"{rest}To go on once this is fixed:")
        if outcome.interrupted or outcome.failures:
            self.out.print(f"  {resume}", markup=False, soft_wrap=True)
