"""Parquet -> Report: figures and an HTML page from the table of trials.

Pandas and Matplotlib are imported only when a page is made, so that commands start quickly.
"""

from __future__ import annotations

import html
import importlib
import json
import re
import threading
from collections.abc import Sequence
from pathlib import Path

from lambda_hat.store import Store, digest_bytes, write_bytes


def report_path(store: Store) -> Path:
    """The path of the report page."""
    return store.results / "report.html"


def import_ahead() -> None:
    """Imports what draws a page in a thread of its own, for a process that has time until then."""
    page = "lambda_hat.report.page"
    threading.Thread(target=importlib.import_module, args=(page,), daemon=True).start()


def write_report(
    store: Store,
    *,
    command: str | None = None,
    notes: Sequence[str] | None = None,
    anew: bool = False,
) -> Path:
    """Writes the report page of a results folder, unless it exists and its tables are unchanged.

    Args:
        store: The folders with the tables, references, manifests and metrics.
        command: The command line that made the table; by default the one in the existing page.
        notes: Warnings to show at the top of the page; by default those of the existing page.
        anew: Write the page even if nothing has changed.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: There is no table of trials.
    """
    path = report_path(store)
    existing = path.read_text(errors="replace") if path.exists() else ""
    kept = json.loads(_meta_value(existing, "notes") or "[]")
    shown: Sequence[str] = kept if notes is None else notes
    inputs = _digest([store.trials_table, store.best, store.llc_table], shown)
    if _meta_value(existing, "inputs") == inputs and not anew:
        return path
    from lambda_hat.report.page import make_page
    from lambda_hat.report.run_record import describe_machine

    about = {"inputs": inputs, "command": command or _meta_value(existing, "command") or ""}
    # Only a run's own call knows its machine; a page that is made again keeps what it said.
    machine = describe_machine() if command else json.loads(_meta_value(existing, "run") or "{}")
    about |= {"run": json.dumps(machine), "notes": json.dumps(list(shown))}
    page = make_page(store, about=about, machine=machine, notes=shown)
    write_bytes(path, page.encode())
    return path


def _digest(tables: Sequence[Path], notes: Sequence[str]) -> str:
    """A hash of everything that a page is made from."""
    parts = [path.read_bytes() for path in tables if path.exists()]
    parts += [note.encode() for note in notes]
    return digest_bytes([b"\0".join(parts)])[:16]


def _meta_value(page: str, name: str) -> str | None:
    """The value of one of our `<meta>` elements in an existing page, or None."""
    found = re.search(rf'<meta name="lambda-hat-{name}" content="([^"]*)">', page)
    return html.unescape(found[1]) if found else None
