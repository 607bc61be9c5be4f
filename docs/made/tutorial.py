"""The tutorial, a notebook -> its page; as a script it runs the notebook and keeps what it says."""

from __future__ import annotations

import tempfile
from pathlib import Path

import nbformat

SOURCE = Path(__file__).resolve().parents[1] / "tutorial.ipynb"
WIDGET = "application/vnd.jupyter.widget-view+json"
NAME = "tutorial"
FRAME = '<table border="1" class="dataframe">'
"""How pandas begins a table; the theme gives borders to tables without a class."""


def executed(folder: Path) -> nbformat.NotebookNode:
    """The notebook with what it says when it is run in a folder.

    Raises:
        CellExecutionError: A cell of it failed.
    """
    from nbclient import NotebookClient

    notebook = nbformat.read(SOURCE, as_version=4)
    place = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=600, resources=place).execute()
    return notebook


def without_bars(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The same without progress bars, which have gone when a page shows what came out."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # When it ran.
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_bar(output)]
    notebook.metadata.pop("widgets", None)
    return notebook


def page() -> tuple[str, dict[str, bytes]]:
    """The notebook as Markdown, and its pictures by name."""
    from nbconvert import MarkdownExporter

    exporter = MarkdownExporter()
    names = {"unique_key": NAME, "output_files_dir": NAME}
    text, made = exporter.from_notebook_node(nbformat.read(SOURCE, as_version=4), names)
    return text.replace(FRAME, "<table>"), made["outputs"]


def _is_bar(output: nbformat.NotebookNode) -> bool:
    """Whether it is a bar, or the empty line that rich leaves where one has been."""
    data = output.get("data", {})
    return WIDGET in data or data.get("text/plain") == ""


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        nbformat.write(without_bars(executed(Path(folder))), SOURCE)
