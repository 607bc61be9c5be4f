"""What mkdocs asks while it builds: made pages are added, and links suit the site.

What is made from the code has its place in a page between `<!-- made: name -->` and
`<!-- end of made -->`, with words that stand there where the repository is hosted.
"""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs" / "made"))

import api  # noqa: E402
import configuration  # noqa: E402
import links  # noqa: E402
import picture  # noqa: E402
import tutorial  # noqa: E402

log = logging.getLogger("mkdocs.hooks.made")

PAGES = {
    "design.md": "plans/optuna.md",
    "changes.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "tutorial.md": "docs/tutorial.ipynb",
}
"""Pages of the site that lie elsewhere in the repository, or are made of a notebook."""
MADE = {
    "configuration": configuration.reference,
    "functions": api.functions,
    "rooms": api.contents,
    "picture": picture.embed,
}
"""What takes the place of a part that is made, by its name."""
PART = re.compile(r"<!-- made: (\w+) -->.*?<!-- end of made -->", re.S)
OUTSIDE = re.compile(r'<(?:script|img|iframe)[^>]+src="https?:|<link[^>]+stylesheet"[^>]+"https?:')


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that lie elsewhere, those of the API, and the pictures."""
    told, pictures = tutorial.page()
    for name, source in PAGES.items():
        text = told if source.endswith(".ipynb") else (ROOT / source).read_text()
        files.append(File.generated(config, name, content=text))
    for name, content in pictures.items():
        files.append(File.generated(config, name, content=content))
    for room in api.rooms():
        files.append(File.generated(config, f"api/{room}.md", content=api.page(room)))
    files.append(File.generated(config, picture.NAME, content=picture.draw()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Puts in what is made, and turns links to sources into their names."""
    markdown = PART.sub(lambda part: MADE[part[1]](), markdown)
    source = ROOT / PAGES.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    return links.for_the_site(markdown, source, PAGES)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Warns, which ends a strict build, of a page that would load something from elsewhere."""
    if found := OUTSIDE.search(output):
        log.warning("%s loads something from elsewhere: %s", page.file.src_uri, found[0])
    return output
