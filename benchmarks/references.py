"""What a reference takes, and how right it is: every preset pair, families with exact answers.

    NPROC=1 python benchmarks/references.py FOLDER [--rows small/small ..] [--seeds 42 ..]
        [--budget 600] [--nuts 60] [--page]

computes the references of the rows named (all by default), each in a folder of its own in FOLDER:
stopped at any point, the same command goes on. `--nuts S` gives BlackJAX's NUTS with window
adaptation S seconds of sampling on the same targets; `--page` puts the table into docs/accuracy.md.

Seconds are those of warm-up, draws and checks, without training and compiling. Effective draws are
the bulk ESS of the losses, over all that the method which gave the number was at, its warm-up and
what it tried counted.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import blackjax
import jax
import numpy as np

from lambda_hat.conf import compose_problem
from lambda_hat.diagnostics import ess, rhat
from lambda_hat.problems import Problem, load_or_build
from lambda_hat.runners.hmc_reference import run_hmc_reference
from lambda_hat.target import logdensity, squared_distance

PAGE = Path(__file__).parent.parent / "docs" / "accuracy.md"
BEGIN, END = "<!-- table: benchmarks/references.py -->\n", "<!-- end of table -->\n"
COLUMNS = (
    "problem", "seed", "d", "outcome", "s", "LLC", "exact", "R-hat", "ESS", "ESS/s",
    "ESS/1000 gradients",
)  # fmt: skip
NUTS_COLUMNS = ("NUTS: ESS/s", "ESS/1000 gradients", "R-hat", "divergences")
CHAINS, WARMUP, CHUNK = 4, 1_000, 25
"""Of NUTS: as many chains as a reference has, and draws between two looks at the clock."""

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
    folder, table = args.folder.absolute(), []
    for line in measured(folder, args.rows, args.seeds, args.budget, args.nuts):
        print(line, flush=True)
        table.append(line)
    if args.page:
        before, rest = PAGE.read_text().split(BEGIN)
        PAGE.write_text(before + BEGIN + "\n".join(table) + "\n" + END + rest.split(END, 1)[1])


def measured(
    folder: Path, rows: Sequence[str], seeds: Sequence[int], budget: float, nuts_seconds: float
) -> Iterator[str]:
    """One row of the table after the other."""
    columns = (*COLUMNS, *NUTS_COLUMNS) if nuts_seconds else COLUMNS
    yield f"| {' | '.join(columns)} |"
    yield "| --- " * len(columns) + "|"
    for name in rows:
        for seed in seeds:
            spec = {**(PROBLEMS[name] or two_basins(folder)), "seed": seed}
            pid = compose_problem(spec).pid
            out = folder / "problems" / pid / "ref.json"
            found = run_hmc_reference(spec, str(out), budget, seed, artifacts_dir=str(folder))
            exact = found["llc_exact"] if PROBLEMS[name] else two_basins_exact()
            cells = [name, str(seed), *of_reference(found, exact)]
            if nuts_seconds:
                problem = load_or_build(compose_problem(spec), folder)
                cells += of_nuts(nuts(problem, seed, nuts_seconds, out.with_name("nuts.json")))
            yield f"| {' | '.join(cells)} |"


def of_reference(found: Mapping[str, Any], exact: float | None) -> list[str]:
    """Cells of what a reference came to."""
    gates = ", ".join(gate["name"] for gate in found["gates"] if not gate["passed"])
    outcome = "ok" if found["status"] == "ok" else f"unreliable: {gates or found['reasons'][0]}"
    if found["llc_ref"] is None:
        return [str(found["d"]), outcome, *[""] * (len(COLUMNS) - 4)]
    own, diagnostics = found["methods"][found["method"]], found["diagnostics"]
    effective = diagnostics.get("ess_bulk") or diagnostics["ess"]
    at_it = own["seconds"]["sample"] + own["seconds"].get("warmup", 0.0)
    known = f"{exact:.5g} ({(found['llc_ref'] - exact) / found['se_ref']:+.1f} SE)" if exact else ""
    return [
        str(found["d"]),
        f"{outcome} ({found['method']})",
        f"{without_compiling(found['seconds']):.1f}",
        f"{found['llc_ref']:.5g} ± {found['se_ref']:.2g}",
        known,
        f"{diagnostics['rhat']:.4f}" if "rhat" in diagnostics else "",
        f"{effective:.0f}",
        f"{effective / at_it:.3g}",
        f"{1000 * effective / own['work']['full_gradients']:.3g}",
    ]


def without_compiling(seconds: Mapping[str, float]) -> float:
    """Of a reference, without training either."""
    return sum(value for name, value in seconds.items() if name not in ("compile", "setup"))


def nuts(problem: Problem, seed: int, seconds: float, path: Path) -> dict[str, float]:
    """What BlackJAX's NUTS gives in so many seconds of warm-up and draws; kept in a file."""
    if path.exists():
        return json.loads(path.read_text())
    with jax.enable_x64(True):
        losses, cost = _draw_nuts(problem, seed, seconds)
    found = {"ess": float(ess(losses, "bulk")), "rhat": float(rhat(losses)), **cost}
    path.write_text(json.dumps(found))
    return found


def of_nuts(found: Mapping[str, float]) -> list[str]:
    """Cells of what NUTS came to."""
    return [
        f"{found['ess'] / found['seconds']:.3g}",
        f"{1000 * found['ess'] / found['gradients']:.3g}",
        f"{found['rhat']:.3f}",
        f"{100 * found['divergences']:.2g} %",
    ]


def _draw_nuts(problem: Problem, seed: int, seconds: float) -> tuple[np.ndarray, dict[str, float]]:
    """Losses [draws, chains], after a warm-up of each chain's own; seconds without compiling."""
    target = problem.target("float64")
    form, arrays = target.form, target.arrays
    density = functools.partial(logdensity, form, arrays)
    adapt: Any = blackjax.window_adaptation(
        blackjax.nuts, density, is_mass_matrix_diagonal=target.d > 256
    )
    kernel = blackjax.nuts.build_kernel()

    def warm_up(key: Any) -> Any:
        place, key = jax.random.split(key)
        begin = arrays.w_star + 1e-3 * jax.random.normal(place, arrays.w_star.shape)
        (state, parameters), info = adapt.run(key, begin, num_steps=WARMUP)
        return state, parameters, info.info.num_integration_steps.sum()

    def draw(key: Any, state: Any, parameters: Any) -> Any:
        def one(state: Any, key: Any) -> Any:
            state, info = kernel(key, state, density, **parameters)
            distance = squared_distance(arrays, state.position)
            loss = -(state.logdensity + 0.5 * arrays.gamma * distance) / arrays.nbeta
            return state, (loss, info.num_integration_steps, info.is_divergent)

        return jax.lax.scan(one, state, jax.random.split(key, CHUNK))

    keys = jax.random.split(jax.random.key(seed), CHAINS)
    programs = jax.jit(jax.vmap(warm_up)), jax.jit(jax.vmap(draw))
    warmed = programs[0].lower(keys).compile()
    shapes = jax.eval_shape(programs[0], keys)
    drawn = programs[1].lower(keys, *shapes[:2]).compile()
    began, rows = time.monotonic(), []
    state, parameters, work = jax.block_until_ready(warmed(keys))
    gradients = float(work.sum())
    while not rows or time.monotonic() - began < seconds:
        keys = jax.vmap(lambda key: jax.random.fold_in(key, len(rows)))(keys)
        state, row = jax.block_until_ready(drawn(keys, state, parameters))
        rows.append([np.asarray(values).T for values in row])
    took = time.monotonic() - began
    losses, steps, divergent = (np.concatenate(values) for values in zip(*rows, strict=True))
    gradients += float(steps.sum())
    cost = {"seconds": took, "gradients": gradients, "divergences": float(divergent.mean())}
    return losses, cost


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
