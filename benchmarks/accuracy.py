"""How far each method's LLC is from the truth: with settings as published, and with tuned ones.

    python benchmarks/accuracy.py FOLDER [--seeds 4] [--workers PARSL_CONFIG]

runs `parsl-optuna` on the three configs beside it and then `parsl-llc`, for each problem, with the
untuned and with the best settings under seeds that no search has seen, all in FOLDER; and writes
the table of docs/accuracy.md. Stopped at any point, the same command goes on.

The truth is the exact value at finite n where it is known, else the reference. A run that fails
is counted and is no part of the mean.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from scipy import stats

from lambda_hat.conf.compose import compose_problem, compose_sampler
from lambda_hat.conf.families import DeepLinearConfig, MLPConfig
from lambda_hat.conf.schema import ProblemConfig
from lambda_hat.store import read_json
from lambda_hat.tables.reading import read_table
from lambda_hat.trial import ESTIMATED, NOISY

HERE = Path(__file__).parent
CONFIGS = (
    HERE / "accuracy.yaml",
    HERE / "accuracy_networks.yaml",
    HERE / "accuracy_deep_linear.yaml",
)
PAGE = HERE.parent / "docs" / "accuracy.md"
BEGIN, END = "<!-- table: benchmarks/accuracy.py -->\n", "<!-- end of table -->\n"

PUBLISHED: dict[str, dict[str, Any]] = {"sgld": {"eta0": 5e-7, "batch": 500, "steps": 10_000}}
"""Furman & Lau's (2024, Appendix E.2) for deep linear networks of 1 000 and 10 000 parameters."""
METHODS = ("hmc", "mclmc", "sgld", "vi")
FIRST_SEED = 1000
OWN_SEEDS = range(FIRST_SEED, 2 * FIRST_SEED)
"""Those of the runs that are reported; a study confirms its best with seeds derived from names."""


class Cell(NamedTuple):
    """Runs of one method with one setting on one problem."""

    error: float
    """Mean of llc_hat / truth - 1 over the runs that ended with an estimate."""
    margin: float
    """Half of its 95 % interval: Student's t over runs, the truth's own error added."""
    failed: int
    noisy: int
    """Runs whose own gates fail; their estimates count."""
    runs: int
    work: float
    """Full-data gradients, mean over runs."""
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=4, help="runs of each setting")
    parser.add_argument("--workers", type=Path, help="a Parsl config; this machine by default")
    args = parser.parse_args()
    where = ["--parsl-config", str(args.workers)] if args.workers else ["--local"]
    folders = [f"--{n}-dir={(args.folder / n).absolute()}" for n in ("artifacts", "results")]
    table: list[str] = []
    for config in CONFIGS:
        table += tune_and_run(config, args.folder, [*where, *folders], args.seeds)
    write_page(table)


def tune_and_run(config: Path, folder: Path, options: Sequence[str], seeds: int) -> list[str]:
    """Tunes a config's problems and runs what was found; the table's lines."""
    study = yaml.safe_load(config.read_text())
    command("parsl_optuna", config, *options)
    best = yaml.safe_load((folder / "results" / "optuna_best.yaml").read_text())
    budget = {"method_budget_sec": study["optuna"]["method_budget_sec"]}
    problems = [compose_problem(spec) for spec in study["problems"]]
    for spec, problem in zip(study["problems"], problems, strict=True):
        runs = samplers(problem, best.get(problem.pid, {}).get("methods", {}), seeds)
        own = folder / f"{problem.pid}.yaml"
        own.write_text(yaml.safe_dump({"problems": [spec], "samplers": runs, "llc": budget}))
        command("parsl_llc", own, *options)
    rows = read_table(folder / "results" / "llc_runs.parquet")
    return [line for problem in problems for line in lines(problem, rows, folder, best)]


def command(name: str, config: Path, *options: str) -> None:
    """One of the package's commands. Its exit code 1 (some run failed) is a result here."""
    full = [sys.executable, "-m", f"lambda_hat.entrypoints.{name}", "--config", str(config)]
    code = subprocess.run([*full, *options]).returncode
    if code not in (0, 1):
        raise SystemExit(code)


def untuned(problem: ProblemConfig, method: str) -> dict[str, Any]:
    """Settings nobody tuned: as published for these networks, else the method's defaults."""
    model = problem.model
    drawn = isinstance(model, DeepLinearConfig) and not model.population
    return whole(method, PUBLISHED.get(method, {}) if drawn else {})


def whole(method: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a method: those given, and its defaults."""
    return asdict(compose_sampler(method, given))


def samplers(problem: ProblemConfig, best: Mapping[str, Any], seeds: int) -> list[dict[str, Any]]:
    """What `parsl-llc` is to run: each method untuned and, where a study found one, at its best.

    A study tries the defaults too, and may have found none better.
    """
    settings = [(method, untuned(problem, method)) for method in METHODS]
    tuned = [(method, whole(method, found["hyperparams"])) for method, found in best.items()]
    settings += [one for one in tuned if one not in settings]
    return [
        {"name": method, "seed": FIRST_SEED + k, "overrides": values}
        for method, values in settings
        for k in range(seeds)
    ]


def lines(
    problem: ProblemConfig, rows: Sequence[Mapping], folder: Path, best: Mapping[str, Any]
) -> list[str]:
    """The problem's lines of the table, a method each."""
    reference = read_json(folder / "artifacts" / "problems" / problem.pid / "ref.json", ("status",))
    exact = reference["llc_exact"]
    truth, error = (exact, 0.0) if exact else (reference["llc_ref"], reference["se_ref"])
    if truth is None:
        return [f"| {name_of(problem)} | | {reference['d']} | no reference | | | | | | | | |"]
    shown = f"{truth:.4g}" if exact else f"{truth:.4g} ± {error:.2g}"
    if reference["status"] != "ok" and not exact:
        shown += " (unreliable)"
    found = best.get(problem.pid, {}).get("methods", {})
    lines = []
    for method in METHODS:
        asked = (problem.pid, method)
        mine = [r for r in rows if (r["pid"], r["method"]) == asked and r["seed"] in OWN_SEEDS]
        plain = with_settings(mine, untuned(problem, method))
        tuned = found.get(method, {}).get("hyperparams")
        best_rows = with_settings(mine, whole(method, tuned)) if tuned else []
        text = "".join(show(cell(runs, truth, error)) for runs in (plain, best_rows))
        limit = f"{reference['rlct']['value']:.4g}" if reference["rlct"] else ""
        lines.append(
            f"| {name_of(problem)} | {reference['d']} | {shown} | {limit} | {method}{text} |"
        )
    return lines


def with_settings(rows: Iterable[Mapping], settings: Mapping[str, Any]) -> list[Mapping]:
    """The rows that were run with exactly these settings."""
    return [row for row in rows if row["hyperparams"] == settings]


def cell(rows: Sequence[Mapping], truth: float, truth_error: float) -> Cell:
    """What the runs of one setting come to."""
    ended = [row for row in rows if row["status"] in ESTIMATED]
    errors = np.asarray([row["llc_hat"] / truth - 1 for row in ended])
    spread = np.std(errors, ddof=1) / np.sqrt(len(errors)) if len(errors) > 1 else np.nan
    wide = stats.t.ppf(0.975, max(1, len(errors) - 1))
    return Cell(
        error=float(np.mean(errors)) if len(errors) else np.nan,
        margin=float(np.hypot(wide * spread, 1.96 * truth_error / truth)),
        failed=len(rows) - len(ended),
        noisy=sum(row["status"] == NOISY for row in rows),
        runs=len(rows),
        work=mean(row["work"]["full_gradients"] for row in rows),
        seconds=mean(row["runtime_sec"] for row in rows),
    )


def mean(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else np.nan


def show(result: Cell) -> str:
    """A cell as three columns: error with interval, work, seconds."""
    if not result.runs:
        return " | | | "
    counts = {"failed": result.failed, "noisy": result.noisy}
    said = "".join(f", {n} of {result.runs} {what}" for what, n in counts.items() if n)
    if np.isnan(result.error):
        return f" | all {result.runs} failed | | "
    margin = "" if np.isnan(result.margin) else f" ± {100 * result.margin:.1f}"
    error = f"{100 * result.error:+.1f}{margin}{said}"
    return f" | {error} | {result.work:.2g} | {result.seconds:.1f}"


def name_of(problem: ProblemConfig) -> str:
    """The problem in a few words."""
    model, noise = problem.model, problem.data.noise
    if isinstance(model, MLPConfig):
        widths = (model.in_dim, *(model.widths or ()), model.out_dim)
        return f"{model.activation} {'-'.join(map(str, widths))}, n {problem.data.n}"
    if not isinstance(model, DeepLinearConfig):
        names = {"normal_crossing": "w1² w2²", "linear": "linear regression"}
        return str(names.get(str(model.family), model.family))
    layers = f"deep linear {'-'.join(map(str, model.widths))}, rank {model.rank}"
    if model.population:
        return layers
    return f"{layers}, {'no ' if noise is None or noise.kind == 'none' else ''}label noise"


def write_page(lines: Sequence[str]) -> None:
    """Puts the table into docs/accuracy.md, between its marks."""
    header = (
        "| problem | d | truth | limit | method | untuned: error, % | gradients | s "
        "| tuned: error, % | gradients | s |\n" + "| --- " * 11 + "|\n"
    )
    table = header + "\n".join(lines) + "\n"
    print(table)
    before, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(before + BEGIN + table + END + rest.split(END, 1)[1])


if __name__ == "__main__":
    main()
