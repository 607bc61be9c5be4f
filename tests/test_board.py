"""Studies -> lines on a terminal: the board that is redrawn, and the time that is left."""

from __future__ import annotations

import io
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from lambda_hat.store import Store, write_json
from lambda_hat.terminal.board import Board, seconds_left
from lambda_hat.trial import ProblemItem
from lambda_hat.tuning.progress import StudyProgress

LONG = "small/small model.activation=tanh data.n=500 posterior.gamma=1.0"


def study(
    method: str = "sgld",
    *,
    label: str = "small/small",
    seconds: tuple[float, ...] = (),
    left: int = 0,
    in_flight: int = 0,
    batch_size: int = 4,
) -> Any:
    """A study of which trials have ended in these seconds: a noisy one, a failed one, good ones."""
    progress = StudyProgress()
    for number, took in enumerate(seconds):
        status = ("noisy", "failed")[number] if number < 2 and len(seconds) > 2 else "complete"
        failed = status == "failed"
        progress.take(
            {
                "trial_number": number,
                "status": status,
                "runtime_sec": took,
                "objective": 99.0 if failed else 0.04,
                "error": None if failed else 0.0412,
                "llc_hat": None if failed else 5.921,
                "se_hat": None if failed else 0.068,
                "llc_ref": None,
                "objectives": {},
                "hyperparams": {"lr": number},
            }
        )
    return SimpleNamespace(
        problem=ProblemItem(f"p_{hash(label)}", {}, label),
        method=method,
        name=f"{label}:{method}",
        progress=progress,
        num_left=left,
        in_flight=set(range(in_flight)),
        settings=SimpleNamespace(batch_size=batch_size, max_trials=len(seconds) + left),
    )


POOL: Any = SimpleNamespace(num_workers=8, num_busy=5)


def drawn(board: Board, *, width: int, height: int = 24) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True)
    with console.capture() as capture:
        console.print(board)
    return [line.rstrip() for line in Text.from_ansi(capture.get()).plain.splitlines()]


@pytest.fixture
def board(tmp_path: Path) -> Board:
    """Two studies at work, and a problem whose reference is under way."""
    timed = (2.0, 4.0, 6.0)
    studies = [
        study("sgld", seconds=timed, left=9, in_flight=3),
        study("mclmc", seconds=timed, left=9, in_flight=2),
        study("sgld", label=LONG, left=12),
    ]
    begun = {one.name for one in studies[:2]}
    store = Store(tmp_path / "artifacts", tmp_path / "results")
    pid = studies[2].problem.pid
    partial = {"method": "hmc", "llc": 5.9, "se": 0.1, "rhat": 1.021, "ess_bulk": 312.0}
    write_json(store.partial_reference(pid), {**partial, "seconds_to_gates": 95.0})
    return Board(studies, store, POOL, begun, {pid: time.monotonic() - 40.0})


def test_the_board_tells_all_at_120_columns(board: Board) -> None:
    lines = drawn(board, width=120)
    assert lines[0] == (
        "5 of 8 workers busy, 6 of 36 trials, about 15 s left after the references, "
        "5 running, 2 noisy, 2 failed"
    )
    assert lines[1] == "small/small"
    assert (
        lines[2].split()
        == (
            "sgld ━━━━━╺━━━━━━━━━━━━━━ 3/12 3 running, 1 noisy, 1 failed "
            "error 0.041 LLC 5.921 ± 0.068"
        ).split()
    )
    assert lines[4].startswith(f"{LONG}: reference under way for 40 s: hmc, LLC 5.90")


@pytest.mark.parametrize("width", [80, 120])
def test_the_board_never_wraps(board: Board, width: int) -> None:
    lines = drawn(board, width=width)
    assert len(lines) == 5 and max(map(len, lines)) <= width
    assert all(word in lines[2] for word in ("3/12", "3 running", "error 0.041"))


def test_where_there_is_no_room_problems_at_work_come_first(tmp_path: Path) -> None:
    idle = [study(label=f"problem {i}", left=5) for i in range(30)]
    busy = study(label="the one at work", left=5, in_flight=1)
    studies = [*idle, busy]
    shown = Board(studies, Store(tmp_path, tmp_path), POOL, {one.name for one in studies})
    lines = drawn(shown, width=80, height=20)
    assert len(lines) <= 20 and "the one at work" in lines
    assert lines[-1] == "and 23 more problems"


def test_the_time_left_is_what_the_trials_so_far_say() -> None:
    assert seconds_left([study(left=9)], 2) is None, "nothing has been measured"
    assert seconds_left([study(seconds=(2.0, 4.0), left=10)], 2) == pytest.approx(15.0)
    assert seconds_left([study(seconds=(2.0, 4.0), left=0)], 2) == 0.0


def test_a_study_without_trials_counts_as_the_others() -> None:
    others = [study(seconds=(2.0, 4.0), left=0), study("vi", left=8)]
    assert seconds_left(others, 4) == pytest.approx(6.0)


def test_a_study_uses_no_more_workers_than_its_batch() -> None:
    assert seconds_left([study(seconds=(3.0,), left=8, batch_size=2)], 100) == pytest.approx(12.0)
