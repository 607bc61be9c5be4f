"""The log of a results folder: one line an event, over all commands that write there."""

from __future__ import annotations

import time
from pathlib import Path

from rich.text import Text


class EventLog:
    """Appends a line for each event, with its time.

    What is no news (a study that is found done, say) is held back until something happens, so that
    a command with nothing to do writes nothing.

    Args:
        path: The file; made with the first news.
    """

    def __init__(self, path: Path):
        self._path = path
        self._held: list[str] = []
        self._began = False

    def write(self, text: str, *, news: bool = True) -> None:
        """Adds a line of rich markup, as plain text."""
        plain = " ".join(Text.from_markup(text).plain.split())
        self._held.append(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {plain}\n")
        self._began |= news
        if self._began:
            with self._path.open("a", encoding="utf-8") as file:
                file.writelines(self._held)
            self._held.clear()
