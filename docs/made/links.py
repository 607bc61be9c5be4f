"""Links between files of the repository -> links between pages of the site."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
FENCE = re.compile(r"(^```.*?^```$)", re.M | re.S)


def for_the_site(markdown: str, source: Path, pages: Mapping[str, str]) -> str:
    """A page whose links lead to pages, and which names other files where it linked to them.

    Args:
        markdown: The page as it lies in the repository.
        source: Where it lies.
        pages: Pages of the site that lie elsewhere, by their name in the site.
    """
    site = {ROOT / lies: name for name, lies in pages.items()}
    site |= {path: path.name for path in (ROOT / "docs").glob("*.md")}
    site[ROOT / "README.md"] = "index.md"

    def link(match: re.Match[str]) -> str:
        text, there, anchor = match[1], match[2], match[3] or ""
        if re.match(r"\w+:", there):
            return match[0]
        path = Path(os.path.normpath(source.parent / there))
        if path in site:
            return f"[{text}]({site[path]}{anchor})"
        if source.parent not in path.parents or path.suffix in (".py", ".yaml"):
            return _named(text, path)
        return match[0]

    parts = FENCE.split(markdown)
    return "".join(part if FENCE.match(part) else LINK.sub(link, part) for part in parts)


def _named(text: str, path: Path) -> str:
    """A file of the repository as words: its name as code, once."""
    name = path.relative_to(ROOT).as_posix()
    bare = text.strip("`")
    return f"`{name}`" if name.endswith(bare) else f"{text} (`{name}`)"
