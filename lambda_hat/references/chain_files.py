"""Chains in files, each of which any process goes on with for a moment while it holds its lock.

Step i of a chain uses the same random numbers whoever makes it, so that the draws are the same
however many processes go on with them, and one that dies costs no more than its last moment.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lambda_hat.references import exchange
from lambda_hat.references.aids import aided
from lambda_hat.references.chains import Task
from lambda_hat.references.checkpoint import load_checkpoint, save_checkpoint
from lambda_hat.samplers import hmc
from lambda_hat.samplers.loop import Progress, Runner
from lambda_hat.store import claim, digest

LARGE = 1_000
"""Parameters below which chains go in pairs: products of such thin matrices are dear by themselves.
On one core a chain's gradient takes 335 us with three others, 373 with one and 455 alone (d 45,
n 20 000)."""
MOMENT_SEC = 5.0
"""How long a chain is gone on with before it is written and let go."""


class Kind(NamedTuple):
    """What it is that lies in files."""

    name: str
    method: Any
    """A sampler's module with `part_of` and `joined`."""
    key: int
    """What the seed's key is folded with; 1 is for what leads to the starts elsewhere."""
    together: int
    """Chains of a file, where there are fewer than `LARGE` parameters."""


CHECKED = Kind("checked", hmc, 2, 2)
"""Chains from around w*."""
ELSEWHERE = Kind("elsewhere", hmc, 3, 2)
"""Chains from elsewhere that these are checked by."""
LADDERS = Kind("ladders", exchange, 4, 1)
"""Of replica exchange, each with as many chains as it has rungs."""
KINDS = {kind.name: kind for kind in (CHECKED, ELSEWHERE, LADDERS)}


class ChainFiles:
    """The chains of one tuning: their files, and the right to go on with one of them.

    Args:
        task: what they are for.
        config: the sampler's settings, with as many chains.
        tuning: what was found by trying.
        kind: what they are.
    """

    def __init__(self, task: Task, config: Any, tuning: Mapping[str, Any], kind: Kind):
        self._method = kind.method
        of_kind = [] if kind == CHECKED else [kind.name]
        self._identity = digest([task.identity, tuning, *of_kind])
        self._folder = task.checkpoint.with_suffix("") / self._identity[:12]
        target, _ = aided(task.problem, self._method.DTYPE, tuning)
        size = 1 if target.d >= LARGE else kind.together
        every = range(config.num_chains)
        self._parts = [every[first : first + size] for first in every[::size]]
        key = jax.random.fold_in(jax.random.key(task.seed), kind.key)
        first = {
            size: Runner(self._method, target, replace(config, num_chains=size), key=key)
            for size in {len(part) for part in self._parts}
        }
        self.seconds_to_compile = sum(one.progress.seconds["compile"] for one in first.values())
        """What their programs took."""
        self._runners = [
            first[len(part)].with_key(jax.random.fold_in(key, part.start)) for part in self._parts
        ]
        self._known: dict[int, tuple[int, int]] = {}

    @property
    def folder(self) -> Path:
        """Where they lie."""
        return self._folder

    def begin(self, state: Any, step: int) -> None:
        """Writes the files that are not there, as chains are after `step` steps of warm-up."""
        for index, part in enumerate(self._parts):
            own = self._method.part_of(state, slice(part.start, part.stop))
            with self._claim(index) as mine:
                if mine and self._load(index) is None:
                    self._save(index, Progress(own, step))

    def read(self) -> list[Progress]:
        """All chains, as their files have them; none before they have begun."""
        found = [self._load(index) for index in range(len(self._parts))]
        return [one for one in found if one] if None not in found else []

    def state(self) -> Any:
        """Where all chains stand, some perhaps further on than others; they must have begun."""
        return self._method.joined([progress.state for progress in self.read()])

    @property
    def num_draws(self) -> int:
        """Draws that all of them have."""
        return min(self._lengths(), default=0)

    def drawn(self, num_draws: int) -> dict[str, np.ndarray]:
        """What was recorded of the first draws of all chains, name -> [num_draws, chains]."""
        blocks = [progress.rows for progress in self.read()]
        joined = [{n: np.concatenate([b[n] for b in rows]) for n in rows[0]} for rows in blocks]
        return {n: np.hstack([one[n][:num_draws] for one in joined]) for n in joined[0]}

    def go_on(self, num_draws: int, deadline: float) -> bool:
        """Goes on for a moment with a free file that has the fewest draws; False if none is."""
        lengths = self._lengths()
        wanting = [index for index, length in enumerate(lengths) if length < num_draws]
        for index in sorted(wanting, key=lengths.__getitem__):
            with self._claim(index) as mine:
                if mine and self._move(index, num_draws, deadline):
                    return True
        return False

    def _lengths(self) -> Sequence[int]:
        """Draws of each; none before all have begun. A file is read where another wrote it."""
        for index in range(len(self._parts)):
            try:
                written = self._path(index, "ckpt").stat().st_mtime_ns
            except FileNotFoundError:
                return []
            if index not in self._known or self._known[index][0] != written:
                if (progress := self._load(index)) is None:
                    return []
                self._known[index] = written, progress.num_draws
        return [self._known[index][1] for index in range(len(self._parts))]

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
