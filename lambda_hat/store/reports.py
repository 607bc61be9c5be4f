"""How a trial tells its study how it stands while it runs, and how the study has it stopped.

Two files in the trial's folder, which every worker and the driver see, and which outlive both: the
worker appends a line a report, the driver leaves its verdict. A worker that runs the trial again
writes the same reports, and finds a verdict that was given before.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from lambda_hat.store.files import BrokenFile, read_json, write_json

NUM_STEPS = 10
"""Reports of a trial: one at each tenth of its run."""


@dataclass(frozen=True)
class Report:
    """A trial at a tenth of its run, of its steps or of its budget, whichever is further on."""

    step: int
    """Which tenth, from 1."""
    llc_hat: float
    """The running estimate."""
    error: float
    """|llc_hat - llc_ref|."""
    runtime_sec: float
    """Since the trial began."""


@dataclass(frozen=True)
class TrialReports:
    """The two files of one trial."""

    folder: Path
    study: str
    """The `study_id` of the study that asks: another one's verdict is none."""

    def begin(self) -> None:
        """Leaves out what an earlier attempt has reported."""
        self._reports.unlink(missing_ok=True)

    def add(self, reports: Iterable[Report]) -> None:
        lines = "".join(json.dumps(asdict(report)) + "\n" for report in reports)
        if lines:
            with self._reports.open("a") as file:
                file.write(lines)

    def read(self) -> list[Report]:
        """The reports so far; a last line that is still being written comes next time."""
        try:
            lines = self._reports.read_text().splitlines(keepends=True)
            return [Report(**json.loads(line)) for line in lines if line.endswith("\n")]
        except (OSError, ValueError, TypeError):
            return []  # None yet, or it is being replaced.

    def prune(self, step: int) -> None:
        """Has the trial stopped, for what it has reported at this step."""
        write_json(self._verdict, {"study": self.study, "step": step}, sync=False)

    def pruned_at(self) -> int | None:
        """The step of the verdict, if there is one of this study."""
        try:
            verdict = read_json(self._verdict, ("study", "step"))
        except (FileNotFoundError, BrokenFile):
            return None
        return verdict["step"] if verdict["study"] == self.study else None

    @property
    def _reports(self) -> Path:
        return self.folder / "reports.jsonl"

    @property
    def _verdict(self) -> Path:
        return self.folder / "pruned.json"
