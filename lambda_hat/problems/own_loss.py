"""A user's own loss: how the function is imported, called and tried."""

from __future__ import annotations

import functools
import importlib
import pickle
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from lambda_hat.conf.checks import ConfigError
from lambda_hat.conf.families import ExternalModel
from lambda_hat.conf.own_files import find_source
from lambda_hat.problems.forms import ProblemForm
from lambda_hat.store import digest_bytes
from lambda_hat.target import block_rows

Loss = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class OwnForm(ProblemForm):
    """`function(params, batch)`; `w` is `ravel_pytree` of params."""

    function: Loss
    structure: Any
    """The pytree structure of the parameters."""
    shapes: tuple[tuple[int, ...], ...]
    """The shape of each of its leaves."""
    batch: tuple[Any, tuple[str, ...]] | None = None
    """The pytree structure of a batch, and the names of its leaves; None is a dict of them."""

    @property
    def has_rows(self) -> bool:
        """Every array of the data has its rows first."""
        return True

    @property
    def has_kinks(self) -> bool:
        """Nobody knows; looking for kinks where there are none changes nothing."""
        return True

    def losses(self, w: Float[Array, " d"], data: Any) -> Float[Array, " rows"]:
        """Loss of each row."""
        if self.batch is not None:
            structure, names = self.batch
            data = jax.tree.unflatten(structure, [data[name] for name in names])
        return self.function(self.params(w), data)

    def params(self, w: Float[Array, " d"]) -> Any:
        """The parameters as the function takes them, of the dtype of `w`."""
        leaves = [np.zeros(shape, w.dtype) for shape in self.shapes]
        return ravel_pytree(jax.tree.unflatten(self.structure, leaves))[1](w)


class Given(NamedTuple):
    """What a loss is called with: a pytree with names of arrays as its leaves."""

    function: Loss
    params: Any = None
    """None is a dict of dicts, by path."""
    batch: Any = None
    """None is a dict, by name."""


def form_of(given: Given | Loss, params: Any) -> OwnForm:
    """The form of a loss of parameters like these."""
    given = given if isinstance(given, Given) else Given(given)
    leaves, structure = jax.tree.flatten(params)
    shapes = tuple(np.shape(leaf) for leaf in leaves)
    if given.batch is None:
        return OwnForm(given.function, structure, shapes)
    names, batch = jax.tree.flatten(given.batch)
    return OwnForm(given.function, structure, shapes, (batch, tuple(names)))


def flat(params: Any) -> Float[np.ndarray, " d"]:
    """The parameters as one float64 vector."""
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
        return np.asarray(ravel_pytree(params)[0])


def import_loss(model: ExternalModel) -> Given:
    """The function that a problem names, from the very source that the problem's id is of.

    Raises:
        ConfigError: It cannot be imported, or the source was edited meanwhile.
    """
    if model.pickled is not None:
        return _unpickled(Path(model.path, f"{model.pickled}.pkl").absolute(), model.pickled)
    return Given(_imported(model.loss, str(Path(model.path).absolute()), model.source))


@functools.lru_cache(maxsize=32)
def _unpickled(path: Path, digest: str) -> Given:
    """What a session wrote: only bytes of the hash that travels with the task are unpickled."""
    raw = path.read_bytes() if path.exists() else b""
    if digest_bytes([raw]) != digest:
        rule = "The file of a loss must be as lambda_hat.problem wrote it"
        raise ConfigError([f"{rule}, but {path} is missing or another. Make the problem again."])
    try:
        return Given(*pickle.loads(raw))
    except Exception as error:
        said = _said(error, path)
        raise ConfigError([f"The loss must come back from its file, but {said}."]) from error


@functools.lru_cache(maxsize=32)
def _imported(target: str, folder: str, source: str) -> Loss:
    file, found = find_source(target, Path(folder), target)
    if found != source:
        rule = "The source of a loss must stay the same in a run"
        raise ConfigError([f"{rule}, but {file} was edited. Give the command again."])
    module_name, _, name = target.partition(":")
    _forget_namesake(module_name, file)
    others = [path for path in sys.path if path != folder]
    sys.path[:] = [folder, *others]
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ConfigError([f"{file} must be importable, but {_said(error, file)}."]) from error
    finally:  # Last, so that none of its files hides an installed package of that name.
        sys.path[:] = [*others, folder]
    function = getattr(module, name, None)
    if not callable(function):
        raise ConfigError([f"`loss` must name a function, but {file} has no {name!r}."])
    return function


def _forget_namesake(module: str, file: Path) -> None:
    """Has a module of that name from another folder, or of another text, imported anew."""
    loaded = sys.modules.pop(module, None)
    if loaded is None or getattr(loaded, "__file__", None) == str(file):
        return
    package = module.partition(".")[0]
    for name in [n for n in sys.modules if n == package or n.startswith(f"{package}.")]:
        del sys.modules[name]


def check_loss(form: OwnForm, data: dict[str, np.ndarray], w: np.ndarray, label: str) -> None:
    """Tries a loss at `w`: a number a row, of that row alone, the same again, finite, smooth.

    Args:
        form: The loss.
        data: All rows.
        w: Where.
        label: What messages call it.

    Raises:
        ConfigError: It is no such loss; the text says how.
    """
    with jax.enable_x64(True):
        arrays, point = jax.tree.map(jnp.asarray, data), jnp.asarray(w)
        try:
            fault = _fault(form, arrays, point)
        except Exception as error:
            place = getattr(getattr(form.function, "__code__", None), "co_filename", "?")
            fault = f"must take (params, batch), but {_said(error, Path(place))}"
    if fault:
        raise ConfigError([f"The loss {label} {fault}."])


def _fault(form: OwnForm, data: dict[str, Array], w: Array) -> str | None:
    """What must hold of the loss, and what came; None where all of it holds."""
    rows = len(next(iter(data.values())))
    for size in (min(rows, 7), min(rows, 7) - 1):
        losses = form.losses(w, _rows(data, 0, size))
        if np.shape(losses) != (size,):
            got = f"of {size} rows it returned shape {list(np.shape(losses))}"
            return f"must return one number a row, shape [rows], but {got}"
    dtype = getattr(losses, "dtype", None)
    if dtype != w.dtype:
        got = f"of {w.dtype} it made {dtype}"
        return f"must keep the floating type of its parameters, but {got}. Cast nothing in it"
    if not np.array_equal(losses, form.losses(w, _rows(data, 0, size)), equal_nan=True):
        return "must return the same again, but did not. Draw nothing in it: no dropout, no noise"
    elsewhere = w + 0.1 * (1 + abs(w)) * jax.random.normal(jax.random.key(0), w.shape, w.dtype)
    for point in (w, elsewhere):  # At w itself weights of zero may hide what is shared.
        if fault := _fault_of_batches(form, _rows(data, 0, size), point):
            return fault
    return _fault_of_rows(form, data, w, size, rows)


def _fault_of_batches(form: OwnForm, batch: dict[str, Array], w: Array) -> str | None:
    """Whether a row's loss depends on the rows beside it; what is not finite tells nothing."""
    few = np.asarray(form.losses(w, batch))
    for row, loss in enumerate(few):
        alone = float(form.losses(w, _rows(batch, row, row + 1))[0])
        if abs(alone - loss) > 1e-8 * (1 + abs(loss)):
            got = f"row {row} has {loss:.6g} in a batch of {len(few)} and {alone:.6g} alone"
            return f"must be of each row alone, but {got}. Leave batch statistics out"
    return None


def _fault_of_rows(
    form: OwnForm, data: dict[str, Array], w: Array, few: int, rows: int
) -> str | None:
    whole = jax.jit(form.losses)
    for start in range(0, rows, block_rows()):
        losses = np.asarray(whole(w, _rows(data, start, start + block_rows())))
        if len(bad := np.flatnonzero(~np.isfinite(losses))):
            return f"must be finite, but is {losses[bad[0]]} in row {start + bad[0]}"
    gradient = jax.grad(lambda w: form.losses(w, _rows(data, 0, few)).sum())(w)
    if bad := int((~np.isfinite(np.asarray(gradient))).sum()):
        return f"must have a finite gradient, but {bad} of its {len(w)} components are not"
    return None


def _rows(data: dict[str, Array], start: int, stop: int) -> dict[str, Array]:
    return {name: array[start:stop] for name, array in data.items()}


def _said(error: Exception, file: Path) -> str:
    """What an error says, with its line in a file, as the end of a sentence."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(file)]
    place = f" (line {lines[-1]} of {file})" if lines else ""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {(text[0] if text else 'no message').rstrip('.')}{place}"
