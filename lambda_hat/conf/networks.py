"""Hidden widths of a network: as given, or equal and near `target_params`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

Activation = Literal["relu", "tanh", "gelu", "identity"]


def num_network_params(sizes: tuple[int, ...], *, bias: bool) -> int:
    """Number of parameters of a network with these layer sizes, inputs and outputs included."""
    return sum(b * (a + bias) for a, b in zip(sizes[:-1], sizes[1:], strict=True))


def resolve_widths(
    network: Any, ends: tuple[int, int], over: Mapping, where: str, faults: list[str]
) -> Any:
    """Settles the hidden widths of a network, so that `target_params` is used up.

    Args:
        network: Settings with `depth`, `widths`, `target_params`, `activation` and `bias`.
        ends: Inputs and outputs.
        over: What the user set, to refuse keys that could not act.
        where: The place, for messages.
        faults: Collects faults.
    """
    widths = network.widths
    if widths is None:
        widths = _infer_widths(network, ends, where, faults)
    elif "target_params" in over and over["target_params"] is not None:
        faults.append(f"`target_params` must be left out where `widths` are given ({where}).")
    elif "depth" in over and network.depth not in (None, len(widths)):
        faults.append(
            f"`depth` must be the number of `widths`, but got depth={network.depth} and "
            f"widths={list(widths)} ({where}). Leave `depth` out."
        )
    network = replace(network, depth=None, widths=widths, target_params=None)
    return replace(network, activation="identity") if widths == () else network


def _infer_widths(
    network: Any, ends: tuple[int, int], where: str, faults: list[str]
) -> tuple[int, ...]:
    depth, target = network.depth, network.target_params
    if depth == 0:
        return ()
    if depth is None or target is None:
        faults.append(f"`widths`, or `depth` and `target_params`, must be given ({where}).")
        return (1,)

    def params(width: int) -> int:
        return num_network_params((ends[0], *[width] * depth, ends[1]), bias=network.bias)

    if params(1) > 2 * target:
        faults.append(
            f"`target_params >= {params(1)}` must hold for depth {depth}, {ends[0]} inputs and "
            f"{ends[1]} outputs, but got target_params={target} ({where}). Raise it."
        )
        return (1,)
    width = 1
    while params(width + 1) <= target:
        width += 1
    if abs(params(width + 1) - target) < abs(params(width) - target):
        width += 1
    return (width,) * depth
