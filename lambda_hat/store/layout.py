"""Paths of every file in the artifacts folder (shared by runs) and the results folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from lambda_hat.store.content import digest_bytes


def trace_beside(out: Path) -> Path:
    """Where the draws of a run go whose result goes to `out`."""
    usual = out.name in ("metrics.json", "ref.json")
    return out.with_name("trace.nc" if usual else f"{out.stem}.trace.nc")


def partial_beside(out: Path) -> Path:
    """Where it is told how a reference stands that goes to `out` and whose engines still run."""
    return out.with_name(f"{out.name}.partial")


def wanted_beside(out: Path) -> Path:
    """Where the reference of a folder says which draws it wants, while others may help."""
    return out.with_name("ref.wanted.json")


@dataclass(frozen=True)
class Store:
    """The two folders of a run: artifacts (shared between runs) and results."""

    artifacts: Path
    results: Path

    @classmethod
    def at(cls, artifacts: Path | str, results: Path | str) -> Store:
        """A store with absolute paths, which Optuna's journal and remote workers need."""
        return cls(Path(artifacts).absolute(), Path(results).absolute())

    def reference(self, pid: str) -> Path:
        return self.artifacts / "problems" / pid / "ref.json"

    def partial_reference(self, pid: str) -> Path:
        """Where a reference tells how it stands while it is computed."""
        return partial_beside(self.reference(pid))

    def target(self, pid: str) -> Path:
        """What vouches for a problem's stored target: it is written last."""
        return self.artifacts / "problems" / pid / "target.json"

    def target_id(self, pid: str) -> str | None:
        """The content id of a problem's stored target; None if it is missing or damaged.

        A damaged target is left alone here; the next worker that loads it builds it again.
        """
        target = self.target(pid)
        try:
            record = json.loads(target.read_bytes())
            arrays = digest_bytes([target.with_suffix(".npz").read_bytes()])
            usable = record["evidence"]["status"] != "refused" and arrays == record["sha256"]
            return record["target"] if usable else None
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def trial_folder(self, pid: str, method: str, trial_id: str) -> Path:
        return self.artifacts / "runs" / pid / method / trial_id

    def trial_folders(self, pid: str, method: str) -> list[Path]:
        """The folders of all stored trials, sorted by name."""
        return sorted((self.artifacts / "runs" / pid / method).glob("*"))

    def manifest(self, pid: str, method: str, trial_id: str) -> Path:
        return self.trial_folder(pid, method, trial_id) / "manifest.json"

    def metrics(self, pid: str, method: str, trial_id: str) -> Path:
        return self.trial_folder(pid, method, trial_id) / "metrics.json"

    def trace(self, pid: str, method: str, trial_id: str) -> Path:
        return trace_beside(self.metrics(pid, method, trial_id))

    def reference_trace(self, pid: str) -> Path:
        return trace_beside(self.reference(pid))

    @property
    def studies(self) -> Path:
        return self.results / "studies" / "optuna_llc"

    def journal(self, pid: str, method: str) -> Path:
        """Optuna's storage of a study, named as scp and Windows take it.

        One that an earlier version began keeps its name, which has a colon.
        """
        path = self.studies / f"{pid}.{method}.journal"
        earlier = self.snapshot(pid, method).with_suffix(".journal")
        return earlier if earlier.exists() and not path.exists() else path

    def journals(self) -> list[Path]:
        """The journals of all studies, sorted by name."""
        return sorted(self.studies.glob("*.journal"))

    def snapshot(self, pid: str, method: str) -> Path:
        return self.studies / f"{pid}:{method}.pkl"

    @property
    def trials_table(self) -> Path:
        return self.results / "optuna_trials.parquet"

    @property
    def best(self) -> Path:
        return self.results / "optuna_best.yaml"

    @property
    def llc_table(self) -> Path:
        return self.results / "llc_runs.parquet"

    @property
    def planned(self) -> Path:
        """What the last parsl-optuna set out to do."""
        return self.results / "run.json"

    @property
    def events(self) -> Path:
        """What happened, one line an event, over all commands with this results folder."""
        return self.results / "events.log"

    @property
    def logs(self) -> Path:
        """Where Parsl writes its logs."""
        return self.results / "parsl"
