"""Layout of the two folders: artifacts, which runs share, and the results of one run."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Store:
    """Where things are: one folder of artifacts (shared by runs), one of results."""

    artifacts: Path
    results: Path

    @classmethod
    def at(cls, artifacts: Path | str, results: Path | str) -> Store:
        """A store on absolute paths: Optuna's journal and remote workers need them."""
        return cls(Path(artifacts).absolute(), Path(results).absolute())

    def reference(self, pid: str) -> Path:
        return self.artifacts / "problems" / pid / "ref.json"

    def target_id(self, pid: str) -> str | None:
        """Which target of a problem is stored, by its content; None if there is no whole one.

        What is not whole is left for a worker to find, which sets it aside and builds it again.
        """
        folder = self.artifacts / "problems" / pid
        try:
            record = json.loads((folder / "target.json").read_bytes())
            arrays = hashlib.sha256((folder / "target.npz").read_bytes()).hexdigest()
            usable = record["evidence"]["status"] != "refused" and arrays == record["sha256"]
            return record["target"] if usable else None
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def trial_folder(self, pid: str, method: str, trial_id: str) -> Path:
        return self.artifacts / "runs" / pid / method / trial_id

    def trial_folders(self, pid: str, method: str) -> list[Path]:
        """The folders of the trials that are there, by name."""
        return sorted((self.artifacts / "runs" / pid / method).glob("*"))

    def manifest(self, pid: str, method: str, trial_id: str) -> Path:
        return self.trial_folder(pid, method, trial_id) / "manifest.json"

    def metrics(self, pid: str, method: str, trial_id: str) -> Path:
        return self.trial_folder(pid, method, trial_id) / "metrics.json"

    @property
    def studies(self) -> Path:
        return self.results / "studies" / "optuna_llc"

    def journal(self, pid: str, method: str) -> Path:
        return self.studies / f"{pid}:{method}.journal"

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
    def logs(self) -> Path:
        """Parsl's own run folder."""
        return self.results / "parsl"
