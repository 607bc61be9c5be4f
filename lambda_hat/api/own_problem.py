"""A loss, parameters and data of a session, written to files that every worker can read."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lambda_hat.api.content import Content
from lambda_hat.api.own_classes import reduced
from lambda_hat.conf import ConfigError
from lambda_hat.conf.array_files import check_arrays
from lambda_hat.conf.own_files import count_rows, digest_arrays
from lambda_hat.store import digest_bytes, write_bytes

if TYPE_CHECKING:
    import types

    import numpy as np

_ADVICE = (
    "Take its arrays out first: eqx.partition(model, eqx.is_inexact_array) in Equinox, "
    "nnx.split(model, nnx.Param, ..) in Flax."
)


def write_own(loss: Callable[..., Any], params: Any, data: Any, folder: Path) -> dict[str, Any]:
    """Writes what a session gives into a folder; returns the `model` and `data` that name it.

    Args:
        loss: `loss(params, batch)`, one number a row.
        params: A pytree of floating-point arrays.
        data: A pytree of arrays, each with its rows first.
        folder: Where the files go, each under the hash of its content.

    Raises:
        ConfigError: Something of it is no such thing, or cannot be told by its content.
    """
    if not callable(loss):
        raise ConfigError([f"`loss` must be a function of (params, batch), but got {loss!r}."])
    weights, params = _taken_apart(params, "params")
    rows, batch = _taken_apart(data, "data")
    shapes = {name.partition(" ")[2]: array.shape for name, array in rows.items()}
    count_rows(shapes, "what was given", "data")
    if bad := [name for name, array in weights.items() if array.dtype.kind != "f"]:
        got = f"{bad[0].partition(' ')[2]!r} is {weights[bad[0]].dtype}"
        raise ConfigError([f"Parameters must be floating-point arrays, but {got}. {_ADVICE}"])
    content = Content("The loss")
    what = content.digest([loss, params, batch])
    pickled = _pickled([loss, params, batch], content.modules)
    write_bytes(folder / f"{(sha := digest_bytes([pickled]))}.pkl", pickled)
    name = getattr(loss, "__name__", type(loss).__name__)
    model = {
        "family": "external",
        "loss": f"{name}@{what}",
        "params": _write_arrays(weights, folder),
        "path": str(folder.absolute()),
        "pickled": sha,
    }
    return {"model": model, "data": {"file": _write_arrays(rows, folder)}}


def _taken_apart(tree: Any, what: str) -> tuple[dict[str, np.ndarray], Any]:
    """The arrays of a pytree by name, and the tree with the names in their place.

    Raises:
        ConfigError: It has no leaves, or one that is no array of finite real numbers.
    """
    import jax
    import numpy as np

    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    if not leaves:
        raise ConfigError([f"`{what}` must hold arrays, but got {tree!r}."])
    arrays: dict[str, np.ndarray] = {}
    for number, (path, leaf) in enumerate(leaves):
        place = jax.tree_util.keystr(path, simple=True, separator="/") or what
        try:
            arrays[f"{number} {place}"] = np.asarray(leaf)
        except (TypeError, ValueError):
            got = f"{place!r} of `{what}` is a {type(leaf).__name__}"
            raise ConfigError([f"Every leaf must be an array, but {got}. {_ADVICE}"]) from None
        if arrays[f"{number} {place}"].dtype.hasobject:
            got = f"{place!r} of `{what}` is {_shown(leaf)}"
            raise ConfigError([f"Every leaf must be an array, but {got}. {_ADVICE}"])
    check_arrays({name.partition(" ")[2]: array for name, array in arrays.items()}, what, what)
    return arrays, jax.tree.unflatten(structure, list(arrays))


def _shown(leaf: Any) -> str:
    return f"{getattr(leaf, '__name__', leaf)!r}, a {type(leaf).__name__}"


def _write_arrays(arrays: Mapping[str, np.ndarray], folder: Path) -> str:
    """Writes arrays under the hash of their content; returns the file's name."""
    import numpy as np

    name = f"{digest_arrays(arrays)}.npz"
    if not (folder / name).exists():
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        write_bytes(folder / name, buffer.getvalue())
    return name


def _pickled(values: Any, own: Mapping[str, types.ModuleType]) -> bytes:
    """The values by value, modules of the user's own included, which a worker may not find.

    Raises:
        ConfigError: They cannot be pickled.
    """
    import cloudpickle

    class Pickler(cloudpickle.Pickler):
        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, type) and (obj.__module__ == "__main__" or obj.__module__ in own):
                return reduced(obj)
            return super().reducer_override(obj)

    buffer = io.BytesIO()
    try:
        with _by_value(own):
            Pickler(buffer).dump(values)
    except Exception as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError([f"A loss must be one that can be pickled, but: {said}."]) from error
    return buffer.getvalue()


@contextmanager
def _by_value(modules: Mapping[str, types.ModuleType]) -> Iterator[None]:
    """Has cloudpickle take what is in these modules by value, for the time of a block."""
    import cloudpickle

    before = cloudpickle.list_registry_pickle_by_value()
    ours = [module for name, module in modules.items() if name not in before]
    for module in ours:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in ours:
            cloudpickle.unregister_pickle_by_value(module)
