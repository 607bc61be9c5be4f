"""The house: one module a stop, in the order that `lambda_hat.__doc__` tells."""

from __future__ import annotations

import ast
import functools
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lambda_hat

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lambda_hat"
STOPS = re.findall(r"^    (\S+ -> \S+) +(lambda_hat\.\w+)$", lambda_hat.__doc__ or "", re.M)

NUMERICS = ("problems", "target", "samplers", "llc", "traces", "diagnostics", "references")
WORKERS = (*NUMERICS, "runners")
"""What a worker runs; everything else steers, and starts without JAX."""

LAYERS = (
    ("store", "conf", "intervals"),
    ("target",),
    ("problems",),
    ("samplers",),
    ("diagnostics",),
    ("llc", "traces"),
    ("references",),
    ("plugin", "trial_gates"),
    ("trial",),
    ("runners",),
    ("execution",),
    ("tables",),
    ("fixed_runs",),
    ("tuning",),
    ("report",),
    ("terminal", "entrypoints"),
    ("api",),
)
"""The rooms, from the ground up: a module imports from its own layer and from those below."""
LAYER = {room: height for height, rooms in enumerate(LAYERS) for room in rooms}
MODULES = sorted(
    path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem != "__init__"
)


def room_of(path: Path) -> str:
    """The room of a module: the first name below the package."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def dotted(path: Path) -> str:
    """A module's name, as it is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def tree_of(path: Path) -> ast.Module:
    """A module, parsed once for all that is asked of it."""
    return ast.parse(path.read_text())


def rooms_imported(path: Path) -> set[str]:
    """The rooms of this package that a module imports from, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lambda_hat"):
            parts = (node.module or "").split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            found |= {name[1] for name in names if name[0] == "lambda_hat" and len(name) > 1}
    return found


def files(*names: str) -> list[Path]:
    found = [path for name in names for path in (PACKAGE / name).rglob("*.py")]
    return found + [PACKAGE / f"{name}.py" for name in names if (PACKAGE / f"{name}.py").exists()]


def imports(path: Path) -> set[str]:
    """Top-level packages that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


def test_the_line_has_all_its_stops() -> None:
    assert len(STOPS) == 11
    assert STOPS[0] == ("YAML -> Config", "lambda_hat.conf")
    assert STOPS[-1] == ("Parquet -> Report", "lambda_hat.report")


@pytest.mark.parametrize(("arrow", "module"), STOPS)
def test_a_stop_begins_with_its_arrow(arrow: str, module: str) -> None:
    first = (importlib.import_module(module).__doc__ or "").splitlines()[0]
    assert first.startswith(f"{arrow}:"), f"{module} begins with {first!r}"


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_no_module_imports_from_a_room_above_its_own(path: Path) -> None:
    above = {room for room in rooms_imported(path) if LAYER[room] > LAYER[room_of(path)]}
    assert not above, f"{dotted(path)} imports from {above}"


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_only_the_stops_begin_with_an_arrow(path: Path) -> None:
    first = path.read_text().splitlines()[0]
    assert "->" not in first or dotted(path) in {module for _, module in STOPS}, first


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(tree_of(path)), f"{path} has no docstring"


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_no_parameter_shadows_a_function_of_its_module(path: Path) -> None:
    tree = tree_of(path)
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    parameters = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    assert not functions & parameters, f"{dotted(path)}: {functions & parameters}"


@pytest.mark.parametrize("path", files(*NUMERICS), ids=lambda p: p.name)
def test_numerics_know_nothing_of_studies_and_clusters(path: Path) -> None:
    assert not imports(path) & {"optuna", "parsl"}


def test_steering_starts_without_jax() -> None:
    names = [dotted(path) for path in MODULES if room_of(path) not in WORKERS]
    code = (
        "import importlib, sys\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
        "    if 'jax' in sys.modules:\n"
        "        sys.exit(f'{name} imports JAX')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_one_module_hashes() -> None:
    hashing = [dotted(path) for path in MODULES if "hashlib" in imports(path)]
    assert hashing == ["lambda_hat.store.content"]


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda p: p.name)
def test_a_benchmark_imports_names_that_are_there(path: Path) -> None:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lambda_hat"):
            importing = f"from {node.module} import {', '.join(a.name for a in node.names)}"
            exec(importing, {})


def test_nothing_is_called_utils() -> None:
    names = {path.stem for path in PACKAGE.rglob("*.py")}
    assert not names & {"utils", "helpers", "common", "misc"}


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120
