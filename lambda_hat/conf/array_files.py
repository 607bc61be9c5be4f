"""Arrays by name in a file of a user's: .npz, safetensors, Parquet or CSV."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lambda_hat.conf.checks import ConfigError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    Arrays = dict[str, np.ndarray]


def read_arrays(path: Path, key: str, where: str, *, label: str | None = None) -> Arrays:
    """The arrays of a file: numbers, all of them finite.

    Args:
        path: The file; how it ends says what it is.
        key: The setting that names it, and `where` its place, for messages.
        label: The column of a table that is `y`; the others are `x`. Without it every column is
            an array of its own.

    Raises:
        ConfigError: It is missing, of another kind, empty, or holds something else.
    """
    rule = f"`{key}` must name a file of arrays ({', '.join(READERS)})"
    if (read := READERS.get(path.suffix)) is None:
        raise ConfigError([f"{rule}, but got {path} ({where})."])
    try:
        arrays = read(path)
    except FileNotFoundError:
        raise ConfigError([f"{rule}, but there is no {path} ({where})."]) from None
    except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile, EOFError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError([f"{rule}, but {path} is none: {why} ({where})."]) from None
    except ImportError:
        do = "Install lambda-hat[safetensors]"
        raise ConfigError([f"{rule}; {path} needs safetensors, which is missing. {do}."]) from None
    if not arrays:
        raise ConfigError([f"{rule}, but {path} is empty ({where})."])
    check_arrays(arrays, str(path), where)
    return arrays if label is None else _labelled(arrays, label, path, where)


def _read_npz(path: Path) -> Arrays:
    import numpy as np

    with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _read_safetensors(path: Path) -> Arrays:
    """Its names have dots where paths have slashes."""
    from safetensors.numpy import load

    return {name.replace(".", "/"): array for name, array in load(path.read_bytes()).items()}


def _read_parquet(path: Path) -> Arrays:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        return _columns(file.read())


def _read_csv(path: Path) -> Arrays:
    from pyarrow import csv

    return _columns(csv.read_csv(path))


def _columns(table: pa.Table) -> Arrays:
    return {name: table[name].to_numpy() for name in table.column_names}


READERS: Mapping[str, Callable[[Path], Arrays]] = {
    ".npz": _read_npz,
    ".safetensors": _read_safetensors,
    ".parquet": _read_parquet,
    ".csv": _read_csv,
}
"""By the end of a file's name."""


def _labelled(arrays: Arrays, label: str, path: Path, where: str) -> Arrays:
    """The columns of a table as `x` and `y`."""
    import numpy as np

    if label not in arrays or len(arrays) < 2:
        got = f"{path.name} has {', '.join(arrays)}"
        raise ConfigError([f"`label` must name one of several columns, but {got} ({where})."])
    wide = [name for name, array in arrays.items() if array.ndim != 1]
    if wide:
        rule = "`label` must be left out where arrays are no columns of a table"
        raise ConfigError([f"{rule}, but {wide[0]!r} of {path.name} is none ({where})."])
    inputs = [array for name, array in arrays.items() if name != label]
    return {"x": np.column_stack(inputs).astype(np.float64), "y": arrays[label]}


def check_arrays(arrays: Mapping[str, np.ndarray], what: str, where: str) -> None:
    """Whether all arrays are numbers and finite.

    Raises:
        ConfigError: One is not.
    """
    import numpy as np

    for name, array in arrays.items():
        if array.dtype.kind not in "fiub":
            got = f"{name!r} of {what} is {array.dtype}"
            raise ConfigError([f"Every array must be of real numbers, but {got} ({where})."])
        bad = array.size - int(np.isfinite(array).sum())
        if bad:
            got = f"{name!r} of {what} has {bad} values that are NaN or infinite"
            raise ConfigError([f"Every number must be finite, but {got} ({where})."])
