"""Names a problem in a few words, as terminal, table and report show it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lambda_hat.conf.schema import ProblemConfig
from lambda_hat.entrypoints.own_losses import is_own
from lambda_hat.trial import ProblemItem

GROUPS = ("model", "data", "teacher", "training", "posterior")


def item_of(spec: Mapping[str, Any], config: ProblemConfig) -> ProblemItem:
    """A problem as the steering knows it, from what was written and what that is, composed."""
    has_rows = config.data.input is not None or config.data.file is not None
    num_rows = config.data.n if has_rows else None
    return ProblemItem(config.pid, dict(spec), label_of(spec), num_rows)


def label_of(spec: Mapping[str, Any]) -> str:
    """A problem in a few words: its presets, and what was overridden."""
    inline = {name: spec[name] for name in GROUPS if isinstance(spec.get(name), Mapping)}
    if inline:
        rest = {key: value for key, value in spec.items() if key not in inline}
        return label_of({**rest, "overrides": {**(spec.get("overrides") or {}), **inline}})
    if is_own(spec):
        return _label_of_own(spec)
    words = f"{spec.get('model', 'small')}/{spec.get('data', 'small')}"
    for group, default in (("teacher", "_null"), ("training", "default"), ("posterior", "default")):
        if spec.get(group, default) != default:
            words += f" {group}={spec[group]}"
    if spec.get("seed"):
        words += f" seed={spec['seed']}"
    overrides = _leaves(spec.get("overrides") or {})
    return words + "".join(f" {name}={value}" for name, value in overrides if name != "data.path")


def _label_of_own(spec: Mapping[str, Any]) -> str:
    """An external problem by its loss, parameters and data, wherever they lie."""
    over = {name: dict(group or {}) for name, group in spec["overrides"].items()}
    named = [("model", "loss"), ("model", "params"), ("data", "file")]
    words = " ".join(str(over.get(group, {}).pop(key, "?")) for group, key in named)
    for key in ("family", "path"):
        over["model"].pop(key, None)
    if over["model"].pop("pickled", None) is not None:
        words = words.partition("@")[0]  # A function of a session; its files are named by hash.
    seed = f" seed={spec['seed']}" if spec.get("seed") else ""
    return words + seed + "".join(f" {name}={value}" for name, value in _leaves(over))


def _leaves(mapping: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
