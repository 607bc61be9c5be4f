"""Parquet -> Report: figures and a page from the table of trials.

Pandas and Matplotlib are imported when a page is made, so that a command starts without them.
"""

from __future__ import annotations

import hashlib
import html
import re
from collections.abc import Sequence
from pathlib import Path

from lambda_hat.store import Store, write_bytes


def report_path(store: Store) -> Path:
    """Where the page lies."""
    return store.results / "report.html"


def write_report(
    store: Store, *, command: str | None = None, notes: Sequence[str] = (), anew: bool = False
) -> Path:
    """Writes the page of a results folder, unless it is there and its table has not changed.

    Args:
        store: Where the table is, the references, and the best trials' manifests.
        command: What made the table; the one that the present page tells, if not given.
        notes: What a reader should know of what is not in the table.
        anew: Write it in any case.

    Returns:
        Where it is.

    Raises:
        FileNotFoundError: There is no table.
    """
    path = report_path(store)
    there = path.read_text(errors="replace") if path.exists() else ""
    inputs = _digest([store.trials_table, store.best], notes)
    if _told(there, "inputs") == inputs and not anew:
        return path
    from lambda_hat.report.page import make_page

    about = {"inputs": inputs, "command": command or _told(there, "command") or ""}
    write_bytes(path, make_page(store, about=about, notes=notes).encode())
    return path


def _digest(tables: Sequence[Path], notes: Sequence[str]) -> str:
    """Names what a page is made of."""
    parts = [path.read_bytes() for path in tables if path.exists()]
    parts += [note.encode() for note in notes]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _told(page: str, name: str) -> str | None:
    """What a page's head says under a name."""
    found = re.search(rf'<meta name="lambda-hat-{name}" content="([^"]*)">', page)
    return html.unescape(found[1]) if found else None
