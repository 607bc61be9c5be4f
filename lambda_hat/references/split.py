"""Chains of one reference that any number of processes go on with.

Where a gradient is dear, each chain has a file of its own, or each pair of chains
(`lambda_hat.references.chain_files`), and whoever holds the file's lock goes on with it for a
moment: the process that leads, and others that help while it draws. Once they are warmed up, chains
have nothing to do with each other, nor have short chains that begin elsewhere. So the number is
the same whatever the split, and a process that dies costs no more than its last moment: the system
takes its locks back.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from lambda_hat.references.aids import is_large
from lambda_hat.references.annealing import OutOfTime
from lambda_hat.references.chain_files import ELSEWHERE, KINDS, ChainFiles, Kind
from lambda_hat.references.chains import Chains, Measure, Task
from lambda_hat.references.checkpoint import load_arrays, save_arrays
from lambda_hat.references.elsewhere import num_starts
from lambda_hat.references.engine import Attempt
from lambda_hat.references.starts import Starts, anneal_starts, chains_at, num_chains
from lambda_hat.samplers.loop import Progress, Runner
from lambda_hat.store import claim, is_claimed, read_json, wanted_beside, write_json
from lambda_hat.target import Target

PATIENCE_SEC = 0.2
"""Between two looks for a chain that is free."""


def is_dear(target: Target) -> bool:
    """Whether its chains are split: a matter of the problem, and not of who is there to help.

    One program for all chains spares little of a large problem's gradients. An accelerator makes
    all chains go on in the time of one.
    """
    return is_large(target) and jax.default_backend() == "cpu"


class SplitChains(Chains):
    """Chains that lie in files of their own, once they are warmed up; this process leads."""

    def __init__(
        self,
        task: Task,
        kind: Kind,
        config: Any,
        *,
        tuning: dict[str, Any],
        attempts: tuple[Attempt, ...],
        resume: Callable[[Any], Progress] | None,
        measure: Measure | None = None,
    ):
        given = {"tuning": tuning, "attempts": attempts, "resume": resume, "measure": measure}
        super().__init__(task, kind.method, config, **given)
        self._files, self._num_warmup = _files(task, config, tuning, kind), config.num_warmup
        self._kind = kind
        self._runner.progress.seconds["compile"] += self._files.seconds_to_compile
        self._gather()

    def draw(self, num_draws: int, deadline: float) -> None:
        """See `Chains.draw`; others may help from when the chains are warmed up."""
        super().draw(0, deadline)
        progress = self._runner.progress
        if progress.step < self._num_warmup:
            return
        self._files.begin(progress.state, self._num_warmup)
        before, began = progress.seconds["sample"], time.monotonic()
        with _leading(self._task, self._tuning, num_draws, self._kind):
            while self.num_draws < num_draws and not progress.diverged:
                if time.monotonic() >= deadline:
                    return
                if not self._files.go_on(num_draws, deadline):
                    time.sleep(PATIENCE_SEC)
                progress.seconds["sample"] = before + time.monotonic() - began
                self._gather()
                self._look(progress)

    @property
    def state(self) -> Any:
        """See `Chains.state`."""
        return self._files.state() if self.num_draws else super().state

    def _gather(self) -> None:
        """Takes up what all chains have drawn, as far as the shortest one goes."""
        progress, count = self._runner.progress, self._files.num_draws
        if count and progress.step >= self._num_warmup:
            row = self._files.drawn(count)
            progress.rows, progress.step = [row], self._num_warmup + count
            progress.diverged = not np.isfinite(row["loss"]).all()

    def _to_save(self) -> Progress:
        """The end of the warm-up, from which the chains' files began; they have the rest."""
        progress = self._runner.progress
        return replace(progress, rows=[], step=min(progress.step, self._num_warmup))


class SplitShortChains:
    """Short chains from elsewhere (`elsewhere.ShortChains`) in files; this process leads.

    Args:
        task: what the chains that they check are for.
        config: HMC's settings.
        tuning: what was found by trying.
        runner: of the chains that they check, which stay as they are.
        key: for the way from the tether.
        deadline: a `time.monotonic()` value.
    """

    def __init__(
        self,
        task: Task,
        config: Any,
        tuning: dict[str, Any],
        runner: Runner,
        *,
        key: PRNGKeyArray,
        deadline: float,
    ):
        self._task, self._tuning, self._runner = task, tuning, runner
        self._key, self._deadline = key, deadline
        self._num_warmup, self._target_accept = config.num_warmup, config.target_accept
        self._files = _files(task, config, tuning, ELSEWHERE)
        self.work = 0.0

    def starts(self) -> Starts:
        """See `elsewhere.ShortChains`; a run that was killed has left them in a file."""
        path, identity = self._files.folder / "starts.ckpt", self._task.identity
        if stored := load_arrays(path, identity=identity):
            header, arrays = stored
            starts = Starts(arrays["position"], header["temperatures"], header["work"])
        else:
            starts = anneal_starts(
                self._runner,
                count=num_starts(num_chains(self._runner)),
                target_accept=self._target_accept,
                key=self._key,
                deadline=self._deadline,
            )
            header = {**starts._asdict(), "identity": identity}
            save_arrays(path, header, {"position": header.pop("position")})
        arrays, adaptation = self._runner.target.arrays, self._runner.progress.state.adaptation
        state = chains_at(self._runner, arrays, starts.position, adaptation)
        self._files.begin(state, self._num_warmup)
        return starts

    def draw(self, count: int) -> Float[np.ndarray, "draws chains"]:
        """See `elsewhere.ShortChains`; others may help."""
        with _leading(self._task, self._tuning, count, ELSEWHERE):
            while self._files.num_draws < count:
                if time.monotonic() >= self._deadline:
                    raise OutOfTime
                if not self._files.go_on(count, self._deadline):
                    time.sleep(PATIENCE_SEC)
        drawn = self._files.drawn(count)
        self.work = float(drawn["work"].sum())
        return drawn["loss"]


def help_chains(task: Task, config: Callable[[dict[str, Any]], Any], *, budget_sec: float) -> int:
    """Goes on with chains while another process leads them.

    Args:
        task: what that process was asked for.
        config: the sampler's settings, for the tuning that it has found.
        budget_sec: wall time.

    Returns:
        How many times it went on with one; 0 where there was nothing to do.
    """
    deadline = time.monotonic() + budget_sec

    @functools.lru_cache(maxsize=2)
    def files(tuning: str, kind: str) -> ChainFiles:
        found = json.loads(tuning)
        return _files(task, config(found), found, KINDS[kind])

    moments = 0
    with jax.enable_x64(True):
        while time.monotonic() < deadline and (work := _work(task)) is not None:
            chosen = files(json.dumps(work["tuning"]), work["kind"])
            if chosen.go_on(work["num_draws"], deadline):
                moments += 1
            else:
                time.sleep(PATIENCE_SEC)
    return moments


def _files(task: Task, config: Any, tuning: dict[str, Any], kind: Kind) -> ChainFiles:
    """The files of chains of one kind."""
    if kind == ELSEWHERE:
        config = replace(config, num_chains=num_starts(config.num_chains))
    return ChainFiles(task, config, tuning, kind)


@contextmanager
def _leading(task: Task, tuning: dict[str, Any], num_draws: int, kind: Kind) -> Iterator[None]:
    """Says what is to be drawn, for as long as the block runs and this process lives."""
    path = wanted_beside(task.checkpoint)
    work = {"identity": task.identity, "tuning": tuning, "num_draws": num_draws, "kind": kind.name}
    with claim(path.with_suffix(".lock")):
        write_json(path, work)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _work(task: Task) -> dict[str, Any] | None:
    """What the process that leads wants drawn; None where none does."""
    path = wanted_beside(task.checkpoint)
    if not is_claimed(path.with_suffix(".lock")):
        return None
    try:
        work = read_json(path)
    except FileNotFoundError:
        return None  # It has just ended.
    return work if work["identity"] == task.identity else None
