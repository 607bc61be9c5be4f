"""Settings -> the configuration reference: every key with type, default, rule and meaning.

Everything is read from the dataclasses that check a user's config, so the page cannot be behind.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import types
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from lambda_hat.conf.distributions import INPUTS, NOISES
from lambda_hat.conf.families import FAMILIES
from lambda_hat.conf.presets import preset_names
from lambda_hat.conf.samplers import SAMPLERS, ReferenceConfig
from lambda_hat.conf.schema import TEACHERS, DataConfig, PosteriorConfig, TrainingConfig
from lambda_hat.conf.search_space import SEARCH_SPACE, Categorical
from lambda_hat.entrypoints.llc_plan import LLCSection
from lambda_hat.entrypoints.plans import ConvergenceSection, OptunaSection
from lambda_hat.tuning.search_samplers import KINDS

CONF = Path(__file__).resolve().parents[2] / "lambda_hat" / "conf"
GROUPS = ("model", "data", "teacher", "training", "posterior")
TAGS = ("family", "kind")
"""Keys that choose among classes, and are told in the heading."""
NAMES = {int: "whole number", float: "number", bool: "true or false", str: "text"}


def reference() -> str:
    """The page, below its introduction."""
    return "\n\n".join(_parts())


def _parts() -> Iterator[str]:
    yield "## Studies"
    yield _section("`optuna:`", OptunaSection)
    yield _section("`optuna.convergence:`", ConvergenceSection)
    for name, kind in KINDS.items():
        yield _section(f"`optuna.sampler_settings:` of `{name}`", kind.settings)
    yield _section("`reference:`", ReferenceConfig)
    yield _section("`llc:`", LLCSection)
    yield "## Problems"
    for title, classes in (("model: family", FAMILIES), ("teacher: kind", TEACHERS)):
        yield from (_section(f"`{title}: {name}`", cls) for name, cls in classes.items())
    yield _section("`data:`", DataConfig)
    for title, classes in (("input", INPUTS), ("noise", NOISES)):
        yield from (_section(f"`data.{title}: kind: {n}`", cls) for n, cls in classes.items())
    yield _section("`training:`", TrainingConfig)
    yield _section("`posterior:`", PosteriorConfig)
    yield "## Presets\n\nWhat a name in a problem stands for. `overrides` are laid over it."
    yield from map(_presets, GROUPS)
    yield "## Samplers\n\n`overrides` of a sampler for `parsl-llc`, and what a study can search."
    for name, cls in SAMPLERS.items():
        yield _section(f"`{name}`", cls, searched=SEARCH_SPACE.get(name, {}))


def _section(title: str, cls: type, searched: Any = None) -> str:
    """A heading, what the class says of itself, and a row for each key."""
    about = inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0]
    fields = [field for field in dataclasses.fields(cls) if field.name not in TAGS]
    head = ["key", "type", "default", "must hold", "meaning"]
    head += ["searched"] if searched is not None else []
    rows = [_row(cls, field, searched) for field in fields]
    table = [head, ["---"] * len(head), *rows] if rows else []
    lines = ["| " + " | ".join(cells) + " |" for cells in table]
    return "\n".join([f"### {title}", "", about, "", *lines])


def _row(cls: type, field: Any, searched: Any) -> list[str]:
    hint = typing.get_type_hints(cls)[field.name]
    bounds = [f"`{sign} {bound:g}`" for sign, bound in field.metadata.get("bounds", ())]
    cells = [f"`{field.name}`", _kind(hint), _default(field), " and ".join(bounds)]
    cells.append(field_docs(cls).get(field.name, ""))
    if searched is not None:
        cells.append(_range(searched[field.name]) if field.name in searched else "")
    return [" ".join(cell.split()).replace("|", "\\|") for cell in cells]


@cache
def field_docs(cls: type) -> dict[str, str]:
    """The docstrings under the fields of a dataclass, read from its source."""
    body = ast.parse(inspect.cleandoc(inspect.getsource(cls))).body[0].body  # pyright: ignore
    docs = {}
    for node, following in zip(body, body[1:], strict=False):
        if isinstance(node, ast.AnnAssign) and isinstance(following, ast.Expr):
            if isinstance(following.value, ast.Constant):
                docs[node.target.id] = str(following.value.value)  # pyright: ignore
    return docs


def _kind(hint: Any) -> str:
    """A type in words."""
    args = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return ", ".join(f"`{arg}`" for arg in args)
    if typing.get_origin(hint) is tuple:
        return f"list, each a {_kind(args[0])}"
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        kinds = dict.fromkeys("null" if arg is type(None) else _kind(arg) for arg in args)
        return " or ".join(kinds)
    return NAMES.get(hint, "mapping")


def _default(field: Any) -> str:
    if field.default is dataclasses.MISSING:
        return "must be given"
    value = field.default
    return f"`{value}`" if isinstance(value, str) else f"`{json.dumps(value)}`"


def _range(entry: Any) -> str:
    if isinstance(entry, Categorical):
        return ", ".join(map(str, entry.choices))
    return f"{entry.low:g} to {entry.high:g}" + (", log" if entry.log else "")


def _presets(group: str) -> str:
    """The files of a group, as they are."""
    texts = [f"### `{group}:`"]
    for name in preset_names(group):
        text = (CONF / group / f"{name}.yaml").read_text().strip()
        texts.append(f"`{name}`\n\n```yaml\n{text}\n```")
    return "\n\n".join(texts)
