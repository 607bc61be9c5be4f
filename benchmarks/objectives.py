"""How far a study's winner is off under seeds that no search has seen: objective abs against rmse.

    NPROC=1 python benchmarks/objectives.py FOLDER [--studies 4] [--minutes 20]

draws studies of 12 random settings on families whose LLC is known exactly, and scores the
same trials by `abs` and by `rmse`, so that both have equal budgets. Each winner runs with 20 seeds
that no study has seen; so does the best of the first three of `rmse` under four other seeds. It
prints a table. There is no search by TPE: what is compared is what a score
picks.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from known_problems import SPACE, Bench, benches, interval

from lambda_hat.entrypoints.parsl_optuna import FUNCTIONS
from lambda_hat.intervals import error_of_mean
from lambda_hat.tables.best import NUM_BEST
from lambda_hat.trial import derive_seed
from lambda_hat.tuning.functions import probe

TRIALS, CONFIRMING, FRESH = 12, 4, 20
RULES = ("abs", "rmse", "rmse, confirmed")


def settings_of(bench: Bench, *name: object) -> dict[str, Any]:
    """Settings drawn at random from the search space."""
    trial = probe(derive_seed(bench.method, "settings", *name))
    return {key: entry.suggest(trial, key) for key, entry in SPACE[bench.method].items()}


def study(bench: Bench, number: int) -> dict[str, tuple[float, float]]:
    """For each rule, what its winner's trial showed and what it gives with fresh seeds."""
    settings = [settings_of(bench, number, trial) for trial in range(TRIALS)]
    told = [bench.run(one, "trial", number, place) for place, one in enumerate(settings)]
    picked: dict[str, int] = {}
    ranked: list[int] = []
    for rule in RULES[:2]:
        scores = [FUNCTIONS.score(m, bench.truth, huber_delta=None, objective=rule) for m in told]
        noisy = [metrics["status"] != "complete" for metrics in told]
        ranked = sorted(range(TRIALS), key=lambda place: (noisy[place], scores[place]))
        picked[rule] = ranked[0]
    leaders = ranked[:NUM_BEST]
    confirmed = [bench.off(settings[k], CONFIRMING, f"confirm {number} {k}") for k in leaders]
    picked[RULES[2]] = leaders[int(np.argmin(confirmed))]
    fresh = {k: bench.off(settings[k], FRESH, f"fresh {number} {k}") for k in set(picked.values())}
    return {rule: (abs(bench.relative(told[k])), fresh[k]) for rule, k in picked.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--studies", type=int, default=4, help="of each method on each problem")
    parser.add_argument("--minutes", type=float, default=20.0, help="no study begins after these")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    found: dict[tuple[str, str], list[dict[str, tuple[float, float]]]] = {}
    end = time.monotonic() + 60 * args.minutes
    known = list(benches(args.folder))
    for number in range(args.studies):
        for name, bench in known:
            if time.monotonic() < end:
                found.setdefault((name, bench.method), []).append(study(bench, number))
                print(name, bench.method, number, found[name, bench.method][-1], flush=True)
    print_table(found)


def print_table(found: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]) -> None:
    titles = [f"{rule}: {what}" for rule in RULES for what in ("shown", "fresh")]
    print(f"| problem | method | studies | {' | '.join(titles)} |\n{'| --- ' * 9}|")
    for (name, method), studies in found.items():
        cells = [interval([one[rule][k] for one in studies]) for rule in RULES for k in (0, 1)]
        print(f"| {name} | {method} | {len(studies)} | {' | '.join(cells)} |")
    every = [one for studies in found.values() for one in studies]
    for rule in RULES[1:]:
        gains = [one["abs"][1] - one[rule][1] for one in every]
        print(f"abs less {rule}, fresh, over {len(gains)} studies: {interval(gains)}")
        logs = [math.log(one[rule][1] / one["abs"][1]) for one in every]
        half = 1.96 * error_of_mean(logs)
        ends = (math.exp(np.mean(logs) + sign * half) for sign in (0, -1, 1))
        print("{}, fresh: x {:.2f} ({:.2f} to {:.2f}) of abs".format(rule, *ends))
        same = sum(log == 0 for log in logs)
        print(f"the same winner in {same} of {len(logs)} studies")


if __name__ == "__main__":
    main()
