"""A user's own files: their arrays by name, and the source of their loss.

What is read here is checked without JAX; whether the loss works is for those who can call it.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lambda_hat.conf.array_files import read_arrays
from lambda_hat.conf.checks import ConfigError
from lambda_hat.store import digest_bytes

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Content:
    """What a file of arrays holds, without the arrays."""

    digest: str
    """SHA-256 of names, types, shapes and values, so that no repacking makes another problem."""
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    kinds: tuple[str, ...]
    """NumPy's kind of each array: f, i, u or b."""


def digest_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of named arrays, whatever their order."""
    return digest_bytes(_parts(arrays))


def _parts(arrays: Mapping[str, np.ndarray]) -> Iterator[bytes]:
    for name, array in sorted(arrays.items()):
        yield f"{name} {array.dtype.str} {array.shape} ".encode()
        yield array.tobytes()


def content_of(path: Path, key: str, where: str, *, label: str | None = None) -> Content:
    """What a file of arrays holds; read once a process, as long as it does not change.

    Raises:
        ConfigError: As `read_arrays`.
    """
    try:
        state = path.stat()
    except OSError:
        return _content(path, key, where, label, None)
    return _content(path, key, where, label, (state.st_mtime_ns, state.st_size, state.st_ino))


@functools.lru_cache(maxsize=32)
def _content(path: Path, key: str, where: str, label: str | None, state: Any) -> Content:
    arrays = dict(sorted(read_arrays(path, key, where, label=label).items()))
    shapes = tuple((name, array.shape) for name, array in arrays.items())
    kinds = tuple(array.dtype.kind for array in arrays.values())
    return Content(digest_arrays(arrays), shapes, kinds)


def count_rows(shapes: Mapping[str, tuple[int, ...]], what: str, where: str) -> int:
    """The rows that all arrays of the data have.

    Raises:
        ConfigError: They differ, or there are fewer than three.
    """
    rows = {name: shape[0] if shape else None for name, shape in shapes.items()}
    counts = set(rows.values())
    if len(counts) > 1 or None in counts:
        got = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        rule = "Every array of the data must have its rows first, as many as the others"
        raise ConfigError([f"{rule}, but {what} has {got} ({where})."])
    (count,) = counts
    if count is None or count < 3:
        raise ConfigError([f"`n >= 3` must hold, but {what} has {count} rows ({where})."])
    return count


def nested(arrays: Mapping[str, Any], what: str, where: str) -> dict[str, Any]:
    """Arrays by path, `layer1/w`, as a dict of dicts.

    Raises:
        ConfigError: A path goes on below an array.
    """
    tree: dict[str, Any] = {}
    for name, array in sorted(arrays.items()):
        *parents, last = name.split("/")
        here: Any = tree
        for parent in parents:
            here = here.setdefault(parent, {}) if isinstance(here, dict) else None
        if not isinstance(here, dict):
            rule = "A path of parameters must end at its array"
            raise ConfigError([f"{rule}, but {name!r} of {what} goes on below one ({where})."])
        here[last] = array
    return tree


def find_source(target: str, folder: Path, where: str) -> tuple[Path, str]:
    """The file that `module:function` is in, and the SHA-256 of its text; nothing is run.

    Args:
        target: As the user wrote it.
        folder: Searched before what is installed.
        where: Its place, for messages.

    Raises:
        ConfigError: It is spelt otherwise, or there is no such module in Python.
    """
    module, _, function = target.partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), function]):
        rule = '`loss` must be "module:function"'
        raise ConfigError([f"{rule}, but got loss={target!r} ({where}). Write my_module:my_loss."])
    importlib.invalidate_caches()
    search, name, spec = [str(folder), *sys.path], "", None
    for part in module.split("."):
        name = f"{name}.{part}" if name else part
        spec = PathFinder.find_spec(name, search)
        search = list((spec.submodule_search_locations if spec else None) or [])
    if spec is None or not (spec.origin or "").endswith(".py"):
        raise ConfigError(
            [
                f"`loss` must name a module in Python, but there is no {module} in {folder} nor "
                f"among what is installed ({where}). Set `path:` to the folder that holds it."
            ]
        )
    file = Path(str(spec.origin))
    return file, digest_bytes([file.read_bytes()])
