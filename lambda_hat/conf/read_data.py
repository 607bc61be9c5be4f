"""The data of a problem, as the user's config has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from lambda_hat.conf.checks import ConfigError, check_keys, check_mapping, read_values
from lambda_hat.conf.distributions import INPUTS, NOISES
from lambda_hat.conf.families import ModelConfig
from lambda_hat.conf.kinds import idle, read_kind
from lambda_hat.conf.own_files import content_of, count_rows
from lambda_hat.conf.schema import DataConfig, FileData

_OF_A_FILE = ("file", "label", "path")
"""Keys of data that are in a file."""


def read_data(
    preset: Mapping, over: Mapping, where: str, model: ModelConfig, faults: list[str]
) -> DataConfig | None:
    """The data of a problem: how they are drawn, or the file that they are in.

    Args:
        preset: What the named preset says.
        over: What the user says.
        where: The place of `over` in the user's file, for messages.
        model: The problem's.
        faults: Gets what is wrong; the result is None then.
    """
    check_keys(over, [f.name for f in fields(DataConfig)], where, faults)
    given = [key for key in _OF_A_FILE if over.get(key) is not None]
    if "file" in given or model.acts.data == ("file",):
        return _read_file(over, where, model, faults)
    faults += [idle(f"`{key}`", model, where, " without a `file`") for key in given]
    values: dict[str, Any] = {"n": over.get("n", preset.get("n"))}
    for key, registry in (("input", INPUTS), ("noise", NOISES)):
        if key in model.acts.data:
            given = check_mapping(over.get(key), f"{where}.{key}", faults)
            base = preset.get(key) or {}
            values[key] = read_kind(registry, "kind", base, given, f"{where}.{key}", faults)
        elif key in over:
            faults.append(idle(f"`{key}`", model, where))
    number = read_values(DataConfig, {"n": values.pop("n")}, where, faults)
    return None if number is None else DataConfig(**number, **values)


def _read_file(over: Mapping, where: str, model: Any, faults: list[str]) -> FileData | None:
    """Data that are in a file; their number is that of its rows."""
    if "file" not in model.acts.data:
        faults.append(idle("`file`", model, where))
        return None
    kind = f"{model.title} model whose data are in a file"
    faults += [
        f"`{key}` must be left out, since it cannot act on a {kind} ({where})."
        for key in over
        if key not in _OF_A_FILE
    ]
    given = {key: over.get(key) for key in _OF_A_FILE}
    if not isinstance(given["file"], str):
        got = f"got {given['file']!r} ({where})"
        faults.append(f"`file` must name the data of a {model.family} model, but {got}.")
        return None
    given["path"] = given["path"] or getattr(model, "path", None)
    values = read_values(FileData, {**given, "n": 3}, where, faults)
    return None if values is None else _with_content(FileData(**values), where, model, faults)


def _with_content(
    data: FileData, where: str, model: ModelConfig, faults: list[str]
) -> FileData | None:
    """The same with number and hash of its rows, which must suit the model."""
    try:
        content = content_of(data.source, "file", where, label=data.label)
        shapes = dict(content.shapes)
        n = count_rows(shapes, str(data.file), where)
        if model.sizes:
            _check_sizes(shapes, n, (model.sizes[0], model.sizes[-1]), where)
    except ConfigError as error:
        faults += error.faults
        return None
    return replace(data, n=n, rows=content.digest)


def _check_sizes(shapes: dict, n: int, ends: tuple[int, int], where: str) -> None:
    """Whether `x` and `y` are inputs and outputs of a network with these ends."""
    labels = [(n, ends[1])] + ([(n,)] if ends[1] == 1 else [])
    if set(shapes) == {"x", "y"} and shapes["x"] == (n, ends[0]) and shapes["y"] in labels:
        return
    rule = f"The data of this model must be x {[n, ends[0]]} and y {[n, ends[1]]}"
    got = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
    do = "Set `in_dim` and `out_dim` (model), or `label` (data), the column of a table that is y"
    raise ConfigError([f"{rule}, but the file has {got} ({where}). {do}."])
