"""Modules -> pages of the API: one for each room of the package, from its docstrings."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "lambda_hat"
HIDDEN = {"api", "terminal", "entrypoints"}
"""Rooms that only the commands call, and the one whose functions the page above all others has."""


def rooms() -> list[str]:
    """The rooms of the package that a program may call, the package's own names first."""
    names = {
        path.stem if path.suffix else path.name for path in PACKAGE.iterdir() if _is_room(path)
    }
    return ["lambda_hat", *sorted(names - HIDDEN)]


def page(room: str) -> str:
    """The page of a room."""
    module = room if room == "lambda_hat" else f"lambda_hat.{room}"
    alone = "\n    options:\n      show_submodules: false\n      members: false"
    options = alone if room == "lambda_hat" else ""
    return f"# {module}\n\n::: {module}{options}\n"


def functions() -> str:
    """What a program calls, each with its docstring."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    named = next(n for n in tree.body if isinstance(n, ast.Assign) and "__all__" in ast.unparse(n))
    names = sorted(ast.literal_eval(named.value), key=lambda name: (name[0].isupper(), name))
    options = "    options:\n      show_root_heading: true\n      heading_level: 3\n"
    return "\n".join(f"::: lambda_hat.api.{name}\n{options}" for name in names)


def contents() -> str:
    """A table of the rooms, with the first line of each."""
    rows = [f"| [`{room}`](api/{room}.md) | {_first_line(room)} |" for room in rooms()]
    return "\n".join(["| room | what it does |", "| --- | --- |", *rows])


def _is_room(path: Path) -> bool:
    if path.suffix == ".py":
        return path.stem != "__init__"
    return (path / "__init__.py").exists()


def _first_line(room: str) -> str:
    parts = [] if room == "lambda_hat" else [room]
    folder = PACKAGE.joinpath(*parts, "__init__.py")
    path = folder if folder.exists() else PACKAGE / f"{room}.py"
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    return text.splitlines()[0].replace("|", "\\|")
