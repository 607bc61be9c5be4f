"""TrialSpec, TrialResult: what crosses the wire between the study and a worker."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lambda_hat.plugin import Plugin
from lambda_hat.store import Store, content_id, digest, write_json

SCHEMA = 1
"""Part of every trial_id; raised when the same manifest comes to mean another computation."""

TrialResult = dict[str, Any]
"""What metrics.json holds; docs/results.md has its keys."""

REFERENCE_KEYS = ("llc_ref", "status")
"""Required keys of a ref.json."""

RESULT_KEYS = ("status", "llc_hat", "hyperparams")
"""Without these a metrics.json is none."""


def derive_seed(*parts: object) -> int:
    """A seed in [0, 2^31) from its parts: the same on every machine, unlike `hash`."""
    return int(digest([str(part) for part in parts])[:8], 16) >> 1


@dataclass(frozen=True)
class ProblemItem:
    """A problem of the config, as the steering knows it."""

    pid: str
    spec: Mapping[str, Any] = field(hash=False)
    """As the user wrote it: what workers compose."""
    label: str
    num_rows: int | None = field(default=None, compare=False)
    """Rows of its data; None where that is not known."""


@dataclass(frozen=True)
class TrialSpec:
    """One run of one sampler on one problem, determined whole."""

    pid: str
    problem: Mapping[str, Any]
    """The problem as the user's config has it: what the worker composes."""
    method: str
    hyperparams: Mapping[str, Any]
    seed: int
    budget_sec: float
    """Wall time of the whole trial, compilation included."""
    plugin: Plugin | None = None
    """Builds the sampler's settings in place of the package, and so decides the result as well."""

    @property
    def manifest(self) -> dict[str, Any]:
        """What decides the result, with the problem as its content, not as it was spelled."""
        return {
            "schema": SCHEMA,
            "pid": self.pid,
            "method": self.method,
            "hyperparams": dict(self.hyperparams),
            "seed": self.seed,
            "budget_sec": float(self.budget_sec),
            **({} if self.plugin is None else {"plugin": self.plugin.digest}),
        }

    @property
    def trial_id(self) -> str:
        return content_id("r", self.manifest)

    @property
    def method_cfg(self) -> dict[str, Any]:
        return {"name": self.method, **self.hyperparams}

    def write_manifest(self, store: Store, *, study: str | None = None) -> None:
        """Writes manifest.json, which need not survive a power cut: it is written at each start.

        Args:
            store: Where it goes.
            study: The `study_id` of the study that asks, if one does.
        """
        path = store.manifest(self.pid, self.method, self.trial_id)
        asker = {} if study is None else {"study": study}
        write_json(path, {**self.manifest, **asker, "problem": dict(self.problem)}, sync=False)

    def failure(
        self, reason: str, *, llc_ref: float | None, runtime_sec: float | None = None
    ) -> TrialResult:
        """The result of a trial that could not write its own: ended by the pool, say."""
        return {
            "status": "failed",
            "llc_hat": None,
            "se_hat": None,
            "llc_ref": llc_ref,
            "objective": None,
            "error": None,
            "runtime_sec": runtime_sec,
            "seconds": {},
            "work": {"full_gradients": None},
            "budget_exhausted": False,
            "diagnostics": {},
            "hyperparams": dict(self.hyperparams),
            "error_msg": reason,
        }


def is_complete(result: Mapping[str, Any]) -> bool:
    """Whether a result holds an estimate; all others count as failed."""
    return result.get("status") == "complete" and finite(result.get("llc_hat")) is not None


def is_of(result: Mapping[str, Any], target: str | None) -> bool:
    """Whether a result is of this target; one that names none (its worker died) passes."""
    return target is None or result.get("target") in (None, target)


def finite(value: object) -> float | None:
    """The value as a float, or None if it is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


@dataclass(frozen=True)
class Reference:
    """What a study is scored against, from a problem's ref.json."""

    llc_ref: float | None
    se_ref: float
    status: str
    """`ok`, `unreliable` (a gate failed) or `failed` (there is no number)."""
    reasons: tuple[str, ...] = ()
    budget_sec: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    runtime_sec: float | None = None
    target: str | None = None
    """Which target it is of (see `Problem.target_id`)."""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Reference:
        """Reads what `run_hmc_reference` returns and stores."""
        llc = finite(value.get("llc_ref"))
        reasons = list(value.get("reasons") or [])
        reasons += [value["error_msg"]] if value.get("error_msg") else []
        settings = value.get("settings") or {}
        return cls(
            llc_ref=llc,
            se_ref=finite(value.get("se_ref")) or 0.0,
            status=str(value.get("status")) if llc is not None else "failed",
            reasons=tuple(str(reason) for reason in reasons),
            budget_sec=finite(value.get("budget_sec", settings.get("budget_sec"))),
            settings=settings,
            runtime_sec=finite(value.get("runtime_sec")),
            target=value.get("target"),
        )

    @property
    def why(self) -> str:
        """What is wrong with it, without a full stop."""
        reasons = [reason.strip().rstrip(".") for reason in self.reasons]
        return "; ".join(reasons) or f"its status is {self.status}"
