"""Settings of one of several kinds, and the fault of those that cannot act on a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lambda_hat.conf.checks import read, unknown_name
from lambda_hat.conf.families import ModelConfig


def read_kind(
    registry: dict, tag: str, preset: Mapping, over: Mapping, where: str, faults: list[str]
) -> Any:
    """Reads one of several dataclasses, chosen by the key `tag`.

    A user who names another kind than the preset's starts from that kind's own defaults.
    """
    kind = over.get(tag, preset.get(tag))
    if not isinstance(kind, str) or kind not in registry:
        faults.append(unknown_name(f"`{tag}`", kind, registry, where))
        return None
    merged = {**(preset if preset.get(tag) == kind else {}), **over, tag: kind}
    return read(registry[kind], merged, where, faults)


def idle(what: str, model: ModelConfig, where: str, more: str = "") -> str:
    """The fault of what cannot act on a model, and must therefore be left out."""
    of = f"a {model.title} model{more}"
    return f"{what} must be left out, since it cannot act on {of} ({where})."
