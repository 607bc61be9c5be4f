"""Chains of one reference that any number of processes go on with.

Where a gradient is dear, each chain has a file of its own, or each pair of chains, and whoever
holds the file's lock goes on with it for a moment: the process that leads, and others that help
while it draws. Once they are warmed up, chains have nothing to do with each other, and step i of a
chain uses the same random numbers whoever makes it. So the number is the same whatever the split,
and a process that dies costs no more than its last moment: the system takes its locks back.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lambda_hat.conf.samplers import HMCConfig
from lambda_hat.references.chains import Chains, Task
from lambda_hat.references.checkpoint import load_checkpoint, save_checkpoint
from lambda_hat.references.engine import Attempt
from lambda_hat.samplers import hmc
from lambda_hat.samplers.loop import Progress, Runner
from lambda_hat.store import claim, digest, is_claimed, read_json, wanted_beside, write_json
from lambda_hat.target import Target, num_rows

DEAR = 500_000
"""Parameters times rows of data from which on chains are split: a gradient takes a tenth of a
millisecond or more, of which one program for all chains spares little."""
LARGE = 1_000
"""Parameters below which chains go in pairs: products of such thin matrices are dear by themselves.
On one core a chain's gradient takes 335 us with three others, 373 with one and 455 alone (d 45,
n 20 000)."""
MOMENT_SEC = 5.0
"""How long a chain is gone on with before it is written and let go."""
PATIENCE_SEC = 0.2
"""Between two looks for a chain that is free."""
_CHAIN_KEY = 2
"""What the key of chains that are files is folded with; 1 is for chains from elsewhere."""


def is_dear(target: Target) -> bool:
    """Whether its chains are split: a matter of the problem, and not of who is there to help.

    An accelerator makes all chains go on in the time of one.
    """
    whole = target.arrays.statistics is not None
    rows = 1 if whole else num_rows(target.form, target.arrays)
    return target.d * rows >= DEAR and jax.default_backend() == "cpu"


class SplitChains(Chains):
    """Chains that lie in files of their own, once they are warmed up; this process leads."""

    def __init__(
        self,
        task: Task,
        config: HMCConfig,
        *,
        tuning: dict[str, Any],
        attempts: tuple[Attempt, ...],
        resume: Callable[[Any], Progress] | None,
    ):
        super().__init__(task, hmc, config, tuning=tuning, attempts=attempts, resume=resume)
        self._files, self._num_warmup = ChainFiles(task, config, tuning), config.num_warmup
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
        with _leading(self._task, self._tuning, num_draws):
            while self.num_draws < num_draws and not progress.diverged:
                if time.monotonic() >= deadline:
                    return
                if not self._files.go_on(num_draws, deadline):
                    time.sleep(PATIENCE_SEC)
                progress.seconds["sample"] = before + time.monotonic() - began
                self._gather()
                self._look(progress)

    def _gather(self) -> None:
        """Takes up what all chains have drawn, as far as the shortest one goes."""
        progress, chains = self._runner.progress, self._files.read()
        count = min((chain.num_draws for chain in chains), default=0)
        if count and progress.step >= self._num_warmup:
            blocks = [chain.rows for chain in chains]
            joined = [{n: np.concatenate([b[n] for b in rows]) for n in rows[0]} for rows in blocks]
            row = {n: np.hstack([one[n][:count] for one in joined]) for n in joined[0]}
            progress.rows, progress.step = [row], self._num_warmup + count
            progress.diverged = not np.isfinite(row["loss"]).all()

    def _to_save(self) -> Progress:
        """The end of the warm-up, from which the chains' files began; they have the rest."""
        progress = self._runner.progress
        return replace(progress, rows=[], step=min(progress.step, self._num_warmup))


def help_chains(
    task: Task, config: Callable[[dict[str, Any]], HMCConfig], *, deadline: float
) -> int:
    """Goes on with chains while another process leads them.

    Args:
        task: what that process was asked for.
        config: HMC's settings, for the tuning that it has found.
        deadline: a `time.monotonic()` value.

    Returns:
        How many times it went on with one.
    """
    files = functools.lru_cache(maxsize=1)(
        lambda tuning: ChainFiles(task, config(dict(tuning)), dict(tuning))
    )
    moments = 0
    while time.monotonic() < deadline and (work := _work(task)) is not None:
        if files(tuple(work["tuning"].items())).go_on(work["num_draws"], deadline):
            moments += 1
        else:
            time.sleep(PATIENCE_SEC)
    return moments


@contextmanager
def _leading(task: Task, tuning: dict[str, Any], num_draws: int) -> Iterator[None]:
    """Says what is to be drawn, for as long as the block runs and this process lives."""
    path = wanted_beside(task.checkpoint)
    with claim(path.with_suffix(".lock")):
        write_json(path, {"identity": task.identity, "tuning": tuning, "num_draws": num_draws})
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


class ChainFiles:
    """The chains of one tuning: their files, and the right to go on with one of them.

    Args:
        task: what they are for.
        config: HMC's settings.
        tuning: what was found by trying.
    """

    def __init__(self, task: Task, config: HMCConfig, tuning: dict[str, Any]):
        self._identity = digest([task.identity, tuning])
        self._folder = task.checkpoint.with_suffix("") / self._identity[:12]
        target = task.problem.target(hmc.DTYPE)
        size = 1 if target.d >= LARGE else 2
        every = range(config.num_chains)
        self._parts = [every[first : first + size] for first in every[::size]]
        key = jax.random.fold_in(jax.random.key(task.seed), _CHAIN_KEY)
        self._runners = [
            Runner(
                hmc,
                target,
                replace(config, num_chains=len(part)),
                key=jax.random.fold_in(key, part.start),
            )
            for part in self._parts
        ]

    @property
    def seconds_to_compile(self) -> float:
        """What their programs took."""
        return sum(runner.progress.seconds["compile"] for runner in self._runners)

    def begin(self, state: hmc.State, step: int) -> None:
        """Writes the files that are not there, as chains are after `step` steps of warm-up."""
        for index, part in enumerate(self._parts):
            of_part = slice(part.start, part.stop)
            own = jax.tree.map(lambda x, of_part=of_part: x[of_part], state.chains)
            with self._claim(index) as mine:
                if mine and self._load(index) is None:
                    self._save(index, Progress(state._replace(chains=own), step))

    def read(self) -> list[Progress]:
        """All chains, as their files have them; none before they have begun."""
        found = [self._load(index) for index in range(len(self._parts))]
        return [one for one in found if one] if None not in found else []

    def go_on(self, num_draws: int, deadline: float) -> bool:
        """Goes on for a moment with a free file that has the fewest draws; False if none is."""
        lengths = [progress.num_draws for progress in self.read()]
        for index in sorted(range(len(lengths)), key=lengths.__getitem__):
            with self._claim(index) as mine:
                if mine and self._move(index, num_draws, deadline):
                    return True
        return False

    def _move(self, index: int, num_draws: int, deadline: float) -> bool:
        """Goes on with a file that this process holds; False where it has its draws."""
        progress = self._load(index)
        if progress is None or progress.num_draws >= num_draws or time.monotonic() >= deadline:
            return False
        runner, until = self._runners[index], min(deadline, time.monotonic() + MOMENT_SEC)
        runner.progress = progress
        runner.run(deadline=until, num_draws=num_draws, cut_warmup=False)
        self._save(index, runner.progress)
        return True

    def _load(self, index: int) -> Progress | None:
        stored = load_checkpoint(self._path(index, "ckpt"), identity=self._identity)
        return stored.rebuild(self._runners[index].progress.state) if stored else None

    def _save(self, index: int, progress: Progress) -> None:
        given = {"identity": self._identity, "tuning": {}, "attempts": ()}
        save_checkpoint(self._path(index, "ckpt"), progress=progress, **given)

    def _claim(self, index: int) -> AbstractContextManager[bool]:
        return claim(self._path(index, "lock"))

    def _path(self, index: int, kind: str) -> Path:
        return self._folder / f"chains_{index}.{kind}"
