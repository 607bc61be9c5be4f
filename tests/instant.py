"""Both commands with runners that take no time, in this process: for tests of the steering."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lambda_hat.entrypoints import parsl_llc, parsl_optuna
from lambda_hat.execution import InProcessPool
from lambda_hat.store import write_json

LLC = 1.3


def instant_reference(problem_spec: dict, out_ref_json: str, **kwargs: Any) -> dict:
    ref = {"llc_ref": LLC, "se_ref": 0.01, "status": "ok", "reasons": [], "settings": {}}
    if problem_spec.get("seed"):
        ref |= {"status": "unreliable", "reasons": ["`R-hat <= 1.01` must hold, but it is 1.4."]}
    write_json(Path(out_ref_json), ref)
    return ref


def instant_trial(spec: dict, method_cfg: dict, ref: float, out: str, **kwargs: Any) -> dict:
    metrics = {"status": "complete", "llc_hat": LLC + 0.1, "se_hat": 0.05, "runtime_sec": 0.1}
    metrics["hyperparams"] = {key: v for key, v in method_cfg.items() if key != "name"}
    write_json(Path(out), metrics)
    return metrics


def instant_build(spec: dict, artifacts_dir: str) -> list[str]:
    return []


FAKES: dict[str, Callable[..., Any]] = {
    "lambda_hat.runners.hmc_reference:run_hmc_reference": instant_reference,
    "lambda_hat.runners.run_method:run_method_trial": instant_trial,
    "lambda_hat.runners.build_problem:build_problem": instant_build,
}


class InstantPool(InProcessPool):
    """Runs the fakes in place of the runners; `on_trial` is called before each trial."""

    on_trial: Callable[[], None] | None = None

    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Future:
        fake = FAKES[function]
        if self.on_trial and fake is instant_trial:
            self.on_trial()
        return super().submit(fake, *args, **kwargs)


@contextmanager
def instant_pool(**kwargs: Any) -> Iterator[InstantPool]:
    pool = InstantPool()
    try:
        yield pool
    finally:
        pool.close(cancel=True)


def use_instant_runners(monkeypatch: pytest.MonkeyPatch, opening: Any = instant_pool) -> None:
    """Has both commands open this pool in place of Parsl's."""
    for entrypoint in (parsl_llc, parsl_optuna):
        monkeypatch.setattr(entrypoint, "open_pool", opening)
