"""What a reference takes, and how right it is: every preset pair, families with exact answers.

    NPROC=1 python benchmarks/references.py FOLDER [--rows small/small ..] [--seeds 42 ..]
        [--budget 600] [--nuts 60] [--page]

computes the references of the rows named (all by default), each in a folder of its own in FOLDER:
stopped at any point, the same command goes on. `--nuts S` gives NUTS with window adaptation,
that of BlackJAX and that of NumPyro (if it is installed, which it need not be), S seconds of
warm-up and draws on the same targets, and prints a second table; `--page` puts the tables into
docs/accuracy.md.

Seconds are those of warm-up, draws and checks, without training and compiling. Effective draws are
the bulk ESS of the losses, over all that the method which gave the number was at, its warm-up and
what it tried counted.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import nuts

from lambda_hat.conf import compose_problem
from lambda_hat.problems import load_or_build
from lambda_hat.runners.hmc_reference import run_hmc_reference

PAGE = Path(__file__).parent.parent / "docs" / "accuracy.md"
BEGIN, END = "<!-- table: benchmarks/references.py -->\n", "<!-- end of table -->\n"
COLUMNS = (
    "problem", "seed", "d", "outcome", "s", "LLC", "exact", "R-hat", "ESS", "ESS/s",
    "ESS/1000 gradients",
)  # fmt: skip
NUTS_BEGIN = "<!-- table: benchmarks/references.py --nuts -->\n"
NUTS_COLUMNS = ("problem", "sampler", *nuts.COLUMNS)

TWO_BASINS = """
def loss(params, batch):
    x, y = params["w"]
    return x**2 * (0.5 * (x - 2.0) ** 2 + 0.25 / 145) + 0.5 * y**2 + 0.0 * batch["row"]
"""
TWO_BASINS_GAMMA, TWO_BASINS_N = 0.2, 1000


def family(model: str, **values: Any) -> dict[str, Any]:
    """A family with an exact answer, at gamma 1."""
    over = {"data": {"n": 1000}, "model": values, "posterior": {"gamma": 1.0}}
    return {"model": model, "data": "small", "overrides": over}


def pair(model: str, data: str, **posterior: float) -> dict[str, Any]:
    """Presets, with the default tether or another."""
    return {"model": model, "data": data, "teacher": "_null", "overrides": {"posterior": posterior}}


PROBLEMS: dict[str, dict[str, Any]] = {
    "w^6": family("normal_crossing", powers=[3]),
    "w1^2 w2^4": family("normal_crossing", powers=[1, 2]),
    "w1^4 w2^4": family("normal_crossing", powers=[2, 2]),
    "(w1 w2 w3)^2": family("normal_crossing", powers=[1, 1, 1]),
    "deep linear 3-3-1": family("deep_linear", widths=[3, 3, 1]),
    "deep linear 4-3-2": family("deep_linear", widths=[4, 3, 2]),
    "deep linear 6-6-6": family("deep_linear", widths=[6, 6, 6]),
    "two basins": {},
    "small/small": pair("small", "small"),
    "small/base": pair("small", "base"),
    "medium/small": pair("medium", "small"),
    "medium/base": pair("medium", "base"),
    "base/small": pair("base", "small"),
    "base/base": pair("base", "base"),
    "small/base, gamma 1": pair("small", "base", gamma=1.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[42, 43, 44])
    parser.add_argument("--budget", type=float, default=600.0, help="seconds of each reference")
    parser.add_argument("--nuts", type=float, default=0.0, help="seconds of NUTS on each target")
    parser.add_argument("--page", action="store_true", help="write the table into the docs")
    args = parser.parse_args()
    folder = args.folder.absolute()
    if args.nuts and not nuts.is_installed("numpyro"):
        print("NumPyro is not installed, so that its NUTS is left out: pip install numpyro.")
    table = list(measured(folder, args.rows, args.seeds, args.budget))
    beside = list(of_nuts(folder, args.rows, args.seeds, args.nuts)) if args.nuts else []
    if args.page:
        put(BEGIN, table)
        if beside:
            put(NUTS_BEGIN, beside)


def put(begin: str, table: Sequence[str]) -> None:
    """Writes a table into the docs, where the comment is that it begins with."""
    before, rest = PAGE.read_text().split(begin)
    PAGE.write_text(before + begin + "\n".join(table) + "\n" + END + rest.split(END, 1)[1])


def told(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """The lines of a table, each printed as soon as it is known."""
    for cells in itertools.chain([columns, ["---"] * len(columns)], rows):
        print(line := f"| {' | '.join(cells)} |", flush=True)
        yield line


def measured(
    folder: Path, rows: Sequence[str], seeds: Sequence[int], budget: float
) -> Iterator[str]:
    """One row of the table of references after the other."""

    def cells() -> Iterator[list[str]]:
        for name, seed in itertools.product(rows, seeds):
            found = reference(folder, name, seed, budget)
            exact = found["llc_exact"] if PROBLEMS[name] else two_basins_exact()
            yield [name, str(seed), *of_reference(found, exact)]

    return told(COLUMNS, cells())


def of_nuts(
    folder: Path, rows: Sequence[str], seeds: Sequence[int], seconds: float
) -> Iterator[str]:
    """One row of the table of samplers after the other: the reference's own, and NUTS."""

    def cells() -> Iterator[list[str]]:
        for name, seed in itertools.product(rows, seeds):
            found = reference(folder, name, seed, 0.0)
            if found["llc_ref"] is not None:
                yield [name, f"reference ({found['method']})", *of_sampler(found)]
            problem = load_or_build(compose_problem(spec_of(folder, name, seed)), folder)
            for library in filter(nuts.is_installed, nuts.LIBRARIES):
                path = path_of(folder, name, seed).with_name(f"nuts_{library}.json")
                run = nuts.run_nuts(library, problem, seed, seconds, path)
                yield [name, f"NUTS ({library})", *nuts.cells(run)]

    return told(NUTS_COLUMNS, cells())


def spec_of(folder: Path, name: str, seed: int) -> dict[str, Any]:
    """The problem of a row."""
    return {**(PROBLEMS[name] or two_basins(folder)), "seed": seed}


def path_of(folder: Path, name: str, seed: int) -> Path:
    """Of its ref.json."""
    return folder / "problems" / compose_problem(spec_of(folder, name, seed)).pid / "ref.json"


def reference(folder: Path, name: str, seed: int, budget: float) -> dict[str, Any]:
    """What is stored, or else computed within the budget."""
    spec, out = spec_of(folder, name, seed), str(path_of(folder, name, seed))
    return run_hmc_reference(spec, out, budget, seed, artifacts_dir=str(folder))


def of_reference(found: Mapping[str, Any], exact: float | None) -> list[str]:
    """Cells of what a reference came to."""
    gates = ", ".join(gate["name"] for gate in found["gates"] if not gate["passed"])
    outcome = "ok" if found["status"] == "ok" else f"unreliable: {gates or found['reasons'][0]}"
    if found["llc_ref"] is None:
        return [str(found["d"]), outcome, *[""] * (len(COLUMNS) - 4)]
    own, diagnostics = found["methods"][found["method"]], found["diagnostics"]
    effective = diagnostics.get("ess_bulk") or diagnostics["ess"]
    known = f"{exact:.5g} ({(found['llc_ref'] - exact) / found['se_ref']:+.1f} SE)" if exact else ""
    return [
        str(found["d"]),
        f"{outcome} ({found['method']})",
        f"{without_compiling(found['seconds']):.1f}",
        f"{found['llc_ref']:.5g} ± {found['se_ref']:.2g}",
        known,
        f"{diagnostics['rhat']:.4f}" if "rhat" in diagnostics else "",
        f"{effective:.0f}",
        f"{effective / time_at_it(own):.3g}",
        f"{1000 * effective / own['work']['full_gradients']:.3g}",
    ]


def of_sampler(found: Mapping[str, Any]) -> list[str]:
    """Cells of the sampler that gave the number, for `nuts.COLUMNS`."""
    own, diagnostics = found["methods"][found["method"]], found["diagnostics"]
    effective, seconds = diagnostics["ess_bulk"], time_at_it(own)
    return [
        f"{effective / seconds:.3g}",
        f"{1000 * effective / own['work']['full_gradients']:.3g}",
        f"{diagnostics['rhat']:.4f}",
        f"{100 * diagnostics['divergence_rate']:.2g} %",
    ]


def time_at_it(own: Mapping[str, Any]) -> float:
    """Seconds of an engine's warm-up and draws, those of abandoned attempts counted."""
    return own["seconds"]["sample"] + own["seconds"].get("warmup", 0.0)


def without_compiling(seconds: Mapping[str, float]) -> float:
    """Of a reference, without training either."""
    return sum(value for name, value in seconds.items() if name not in ("compile", "setup"))


def two_basins(folder: Path) -> dict[str, Any]:
    """A loss with a second basin that is higher up, and holds a fifth of the posterior."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "two_basins.py").write_text(TWO_BASINS)
    np.savez(folder / "two_basins_w.npz", w=np.zeros(2))
    np.savez(folder / "two_basins_rows.npz", row=np.zeros(TWO_BASINS_N))
    files = {"params": "two_basins_w.npz", "path": str(folder)}
    model = {"family": "external", "loss": "two_basins:loss", "polish": False, **files}
    data = {"file": "two_basins_rows.npz"}
    return {"overrides": {"model": model, "data": data, "posterior": {"gamma": TWO_BASINS_GAMMA}}}


def two_basins_exact() -> float:
    """Its LLC, by quadrature."""
    nbeta = TWO_BASINS_N / np.log(TWO_BASINS_N)
    x = np.linspace(-3.0, 5.0, 400_001)
    well = x**2 * (0.5 * (x - 2.0) ** 2 + 0.25 / 145)
    density = np.exp(-nbeta * well - 0.5 * TWO_BASINS_GAMMA * x**2)
    first = nbeta * density @ well / density.sum()
    return float(first + 0.5 * nbeta / (nbeta + TWO_BASINS_GAMMA))


if __name__ == "__main__":
    main()
