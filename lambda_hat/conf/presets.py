"""Presets: the YAML files of this package, read with Hydra."""

from __future__ import annotations

import copy
import functools
import threading
from importlib import resources
from typing import Any

import yaml
from hydra import compose, initialize_config_module
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lambda_hat.conf.checks import ConfigError

_HYDRA_IS_GLOBAL = threading.Lock()
"""Hydra keeps its state in one global object, so compositions take turns."""


def preset_names(group: str) -> list[str]:
    """The presets of a group, `_null` and `small` for instance, sorted."""
    folder = resources.files("lambda_hat.conf") / group
    return sorted(
        f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")
    )


def problem_presets(names: dict[str, str]) -> dict[str, dict]:
    """Every group's preset as a plain mapping; the caller has checked the names.

    Raises:
        ConfigError: A preset file of the package does not parse.
    """
    return copy.deepcopy(_compose(tuple(sorted(names.items()))))


@functools.lru_cache(maxsize=64)
def _compose(groups: tuple[tuple[str, str], ...]) -> dict:
    chosen = [f"{group}={name}" for group, name in groups]
    try:
        with _HYDRA_IS_GLOBAL:
            with initialize_config_module("lambda_hat.conf", version_base="1.3"):
                composed = compose("problem", overrides=chosen)
        plain: Any = OmegaConf.to_container(composed, resolve=True)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        named = ", ".join(chosen)
        raise ConfigError([f"The presets {named} must be readable YAML: {error}"]) from error
    return dict(plain or {})
