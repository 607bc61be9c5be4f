"""Printing of lines, facts and warnings, shared by both commands."""

from __future__ import annotations

import io
import os
import shlex
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from rich.console import Console as RichConsole
from rich.markup import escape

from lambda_hat.execution import Pool
from lambda_hat.execution.event_loop import Outcome
from lambda_hat.report.formatting import format_count, format_duration
from lambda_hat.store import Store
from lambda_hat.terminal.event_log import EventLog

PLAIN_WIDTH = 100


class Terminal:
    """Prints text: in colour on a terminal, as plain lines elsewhere.

    Args:
        file: Output stream; by default standard output.
        began: Start of the run in monotonic seconds, for elapsed times; by default now.
        log: Where every line goes as well.
    """

    def __init__(
        self, file: Any = None, *, began: float | None = None, log: EventLog | None = None
    ):
        file = file or sys.stdout
        if isinstance(file, io.TextIOWrapper):
            # A character that the terminal cannot show must not end the run.
            file.reconfigure(errors="replace")
        self.out = RichConsole(file=file, highlight=False)
        self.is_interactive = self.out.is_terminal or _has_widgets(self.out)
        """Whether progress is redrawn in place: on a terminal, and in a notebook with widgets."""
        if not self.is_interactive:
            # In a notebook too, where rich would make each line a piece of HTML.
            self.out = RichConsole(
                file=file, highlight=False, width=PLAIN_WIDTH, force_jupyter=False
            )
        self.began = time.monotonic() if began is None else began
        self.log = log
        """Where every line goes as well, from when there is a folder for it."""

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

    def keep_log(self, store: Store, command: Sequence[str]) -> None:
        """From now on every line goes to the log of this results folder as well."""
        self.log = EventLog(store.events)
        where = f"process {os.getpid()} on {socket.gethostname()}"
        self.note(escape(f"{shlex.join(command)} ({where})"), news=False)

    def note(self, text: str, *, news: bool = True) -> None:
        """Writes a line of rich markup to the log alone."""
        if self.log is not None:
            self.log.write(text, news=news)

    def warn(self, text: str, *, news: bool = True) -> None:
        """Prints a warning."""
        self.note(escape(text), news=news)
        self.out.print(f"[yellow]{escape(text)}[/]", soft_wrap=True)

    def line(self, text: str, *, news: bool = True) -> None:
        """Prints one line of rich markup, with the time since the start.

        Args:
            text: The line.
            news: Whether something has happened, and not only been found done.
        """
        self.note(text, news=news)
        elapsed = format_duration(time.monotonic() - self.began)
        self.out.print(f"[dim]{elapsed:>9}[/]  {text}", soft_wrap=True)

    def show_ending(self, outcome: Outcome, resume: str, *, any_done: bool) -> None:
        """Shows the failures and how to resume; `any_done`: whether there is any estimate."""
        self.note(_ending(outcome), news=False)
        for failure in outcome.failures:
            self.note(escape(failure), news=False)
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


def _ending(outcome: Outcome) -> str:
    if outcome.interrupted:
        return "interrupted"
    if not outcome.failures:
        return "ended: all is done"
    return escape(f"ended with {format_count(len(outcome.failures), 'failure')}")


def _has_widgets(out: RichConsole) -> bool:
    """Whether this is a notebook in which rich can draw a line again."""
    return out.is_jupyter and find_spec("ipywidgets") is not None
