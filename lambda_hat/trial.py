"""What crosses the wire between a study and a worker: what to run, and what it came to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from lambda_hat.plugin import Plugin
from lambda_hat.references.gate import Gate
from lambda_hat.references.result import ReferenceResult
from lambda_hat.store import Store, content_id, digest, strict, write_json
from lambda_hat.trial_gates import check_trial, noise

SCHEMA = 1
"""Part of every trial_id; raised when the same manifest comes to mean another computation."""
SCHEMA_OF = {"hmc": 2, "mclmc": 3, "vi": 4}
"""The same of methods whose own computation has changed: a study of one begins anew."""

RESULT_KEYS = ("status", "llc_hat", "hyperparams")
"""Required keys of a metrics.json."""
REFERENCE_KEYS = ("llc_ref", "status")
"""Required keys of a ref.json."""

COMPLETE, NOISY, PRUNED = "complete", "noisy", "pruned"
ESTIMATED = (COMPLETE, NOISY)
"""The statuses of trials that gave an estimate: one that may be believed, and one that may not."""


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
            "schema": SCHEMA_OF.get(self.method, SCHEMA),
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
        return TrialResult(
            pid=self.pid,
            method=self.method,
            hyperparams=dict(self.hyperparams),
            seed=self.seed,
            budget_sec=float(self.budget_sec),
            llc_ref=llc_ref,
            runtime_sec=runtime_sec,
            error_msg=reason,
        )


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """What one trial came to: each field is a key of metrics.json, in this order."""

    status: str = "failed"
    """`complete`; `noisy`, where a gate failed; `pruned`, stopped early by the study; or `failed`.

    The last two are without an estimate.
    """
    llc_hat: float | None = None
    """The estimate; None for a trial that failed."""
    se_hat: float | None = None
    """Its standard error."""
    llc_ref: float | None = None
    """The reference that the trial was given."""
    objective: float | None = None
    """What Optuna was told; None until it was told, and where there is no study."""
    objectives: Mapping[str, float] = field(default_factory=dict)
    """All that Optuna was told, by name: `objective` first, and costs where a study has several."""
    error: float | None = None
    """|llc_hat - llc_ref|."""
    runtime_sec: float | None = None
    """Wall time of the whole trial."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """The same by what it went into."""
    work: Mapping[str, float | None] = field(default_factory=lambda: {"full_gradients": None})
    """Full-data gradient equivalents."""
    budget_sec: float | None = None
    """What `runtime_sec` must stay within."""
    budget_exhausted: bool = False
    """Whether the budget ended the trial before its last step."""
    diagnostics: Mapping[str, Any] = field(default_factory=dict)
    """Of the draws."""
    gates: Sequence[Gate] = ()
    """What `complete` and `noisy` rest on; none in files of earlier versions."""
    method: str | None = None
    """The sampler's name."""
    hyperparams: Mapping[str, Any] = field(default_factory=dict)
    """All its settings; those that were asked for where it did not come to run."""
    seed: int | None = None
    """Of the sampler."""
    error_msg: str | None = None
    """Why the trial failed, or is noisy, in sentences."""
    notices: Sequence[str] = ()
    """What the worker warned of."""
    target: str | None = None
    """Which target it is of (see `Problem.target_id`); None where it did not come to one."""
    versions: Mapping[str, Any] | None = None
    """Of what computed it."""
    pid: str | None = None
    """The problem's id."""
    traceback: str | None = None
    """Of a fault that nobody foresaw."""
    worker_died: bool = False
    """Whether it killed each worker that ran it."""

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> TrialResult:
        """Reads a metrics.json: keys that an earlier version lacks are as if nothing were known."""
        given = {one.name: stored[one.name] for one in fields(cls) if one.name in stored}
        return cls(**{**given, "gates": tuple(map(Gate.from_json, stored.get("gates") or ()))})

    def to_json(self) -> dict[str, Any]:
        """What is written, in strict JSON."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return strict({**values, "gates": [gate.to_json() for gate in self.gates]})

    @property
    def estimate(self) -> float | None:
        """The LLC of a complete or noisy trial; all others count as failed."""
        return finite(self.llc_hat) if self.status in ESTIMATED else None

    def is_of(self, target: str | None) -> bool:
        """Whether it is of this target, as far as is known (where its worker died, nothing is)."""
        return target is None or self.target in (None, target)

    def failed(self, reason: str) -> TrialResult:
        """The same as a failure, for this reason."""
        return replace(self, status="failed", error_msg=reason)

    def completed(self, llc_hat: float, se_hat: float) -> TrialResult:
        """The same with an estimate, judged against the reference that was given."""
        result = replace(self, status=COMPLETE, llc_hat=llc_hat, se_hat=se_hat)
        return result.judged(self.llc_ref, None)

    def judged(self, llc_ref: float | None, se_ref: float | None) -> TrialResult:
        """The same with error, gates and status against this reference.

        What a worker wrote may have been for another one, for none, or by an earlier version, which
        had no gates: whoever reads it judges it anew, from its diagnostics.
        """
        estimate = self.estimate
        if estimate is None:
            return self
        gates = check_trial(
            self.diagnostics, se=finite(self.se_hat), llc_ref=llc_ref, se_ref=se_ref
        )
        failed = [gate.sentence for gate in gates if not gate.passed]
        return replace(
            self,
            status=NOISY if failed else COMPLETE,
            llc_ref=llc_ref,
            error=None if llc_ref is None else abs(estimate - llc_ref),
            gates=gates,
            error_msg=" ".join(failed) or None,
        )

    @property
    def scored_as(self) -> float | None:
        """The error that a noisy trial is scored as: its own and its uncertainty together.

        None for all others, which are scored as they are.
        """
        if self.status != NOISY or self.error is None or self.llc_ref is None:
            return None
        return math.hypot(self.error, noise(tuple(self.gates)) * (abs(self.llc_ref) or 1.0))


def finite(value: object) -> float | None:
    """The value as a float, or None if it is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _stiffness(stored: ReferenceResult) -> float | None:
    curvature = finite(stored.evidence.get("largest_curvature"))
    if curvature is None or stored.nbeta is None or stored.gamma is None:
        return None
    return stored.nbeta * max(curvature, 0.0) + stored.gamma


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
    stiffness: float | None = None
    """nbeta times the largest curvature at w*, plus gamma; None where it was not computed."""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Reference:
        """Reads what `run_hmc_reference` returns and stores."""
        stored = ReferenceResult.from_json(value)
        llc = finite(stored.llc_ref)
        return cls(
            llc_ref=llc,
            se_ref=finite(stored.se_ref) or 0.0,
            status=stored.status if llc is not None else "failed",
            reasons=tuple(stored.reasons),
            budget_sec=finite(stored.budget_sec),
            settings=stored.settings,
            runtime_sec=finite(stored.runtime_sec),
            target=stored.target,
            stiffness=_stiffness(stored),
        )

    def is_of(self, target: str | None) -> bool:
        """Whether it is of this target, as far as is known."""
        return target is None or self.target in (None, target)

    @property
    def why(self) -> str:
        """What is wrong with it, without a full stop."""
        reasons = [reason.strip().rstrip(".") for reason in self.reasons]
        return "; ".join(reasons) or f"its status is {self.status}"
