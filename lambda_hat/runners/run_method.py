"""Runs one method on one problem within a budget, in a worker or by hand.

Importing this brings no JAX, so that the command checks settings by the same function as a worker.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lambda_hat.conf import compose_sampler
from lambda_hat.conf.checks import ConfigError
from lambda_hat.conf.samplers import SamplerConfig
from lambda_hat.plugin import Plugin, build_settings
from lambda_hat.runners.given import number, own_settings, plain


def run_method_trial(
    problem_spec: Mapping[str, Any],
    method_cfg: Mapping[str, Any],
    ref_llc: float | None,
    out_metrics_json: str,
    budget_sec: float = 6000,
    seed: int | None = None,
    artifacts_dir: str | None = None,
    plugin: Mapping[str, str] | None = None,
    study: str | None = None,
) -> dict:
    """Runs one trial and writes its metrics.

    A row of our tables can be given back as it is: NumPy's scalars are numbers, and settings that
    are None, or NaN and none of the method's own, are left out.

    Args:
        problem_spec: {model, data, teacher, seed, overrides, ..} as in a config's `problems`.
        method_cfg: {"name": method, **hyperparams}; the rest are the method's defaults.
        ref_llc: the reference LLC, for `error`; None or NaN where there is none.
        out_metrics_json: where the metrics go, whole or not at all.
        budget_sec: wall time of everything, compilation included. The sampler stops before.
        seed: of the sampler; by default one that the settings determine.
        artifacts_dir: where targets are stored; by default where the output path lies, if it is
            `<artifacts>/runs/<pid>/<method>/<trial_id>/metrics.json`, else `./artifacts`.
        plugin: {path, source} of a plugin whose `build_sampler_cfg` is called.
        study: the id of a study that prunes: it reads `reports.jsonl` beside the output, and stops
            the trial by `pruned.json` there.

    Returns:
        What was written. A numerical failure is a result with status "failed" and a sentence.
    """
    began = time.monotonic()
    from lambda_hat.runners.boundary import artifacts_of  # This and the next bring JAX.
    from lambda_hat.runners.trial_run import run_trial

    out, given_seed = Path(out_metrics_json), number(seed)
    return run_trial(
        plain(problem_spec),
        own_settings(plain(method_cfg)),
        build=partial(build_settings, settings_builder(plugin)),
        ref_llc=number(ref_llc),
        out=out,
        artifacts=artifacts_of(out, "runs/*/*/*/*", artifacts_dir),
        budget_sec=float(budget_sec),
        seed=None if given_seed is None else int(given_seed),
        began=began,
        study=study,
    )


def settings_builder(plugin: Mapping[str, str] | None) -> Callable[[Mapping[str, Any]], Any]:
    """What makes a method's settings of `method_cfg`: the plugin's function, or the one here."""
    own = Plugin(**plugin).function("build_sampler_cfg") if plugin else None
    return own or _build_sampler_cfg


def _build_sampler_cfg(method_cfg: Mapping[str, Any]) -> SamplerConfig:
    """The checked settings of a method: its defaults with these hyperparameters.

    Raises:
        ConfigError: for an unknown method or a setting that is unknown, mistyped or out of range.
    """
    if "name" not in method_cfg:
        raise ConfigError(["`method_cfg` must hold the method's `name`, but has none. Add it."])
    settings = {key: value for key, value in method_cfg.items() if key != "name"}
    return compose_sampler(method_cfg["name"], settings, where="method_cfg")
