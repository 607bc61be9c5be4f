"""SGLD here beside the field's own library, devinterp, in PyTorch: speed, and the same number.

    pip install torch devinterp
    NPROC=1 OMP_NUM_THREADS=1 python benchmarks/field_library.py FOLDER [--rounds 3]

runs the same chains on the same network, data, w*, temperature and tether with both, one process
and one thread each, in turns. A row has the chain-steps a second of CPU time of the whole call once
everything is compiled, and the LLC with its standard error over chains, beside the reference. Of
devinterp there are two rows: its chains as they come (`sample_single_chain`, with PyTorch's loader
of rows), and its optimizer alone in a loop whose rows are in memory, which is as fast as it gets.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

os.environ["TQDM_DISABLE"] = "1"  # Read where devinterp is imported.
import torch
from devinterp.optim import SGMCMC
from devinterp.slt.sampler import sample_single_chain

import lambda_hat as lh
from lambda_hat.intervals import error_of_mean

CASES = {
    "small/small": ({"model": "small", "data": "small"}, 1e-3),
    "medium/small": ({"model": "medium", "data": "small"}, 3e-4),
}
"""By name: the problem, and a step size that is small enough."""
CHAINS, BATCH, BURN_IN = 4, 32, 0.25
STEPS = {"devinterp": 2000, "its optimizer": 4000, "here": 100_000}
METHODS: dict[str, tuple[str, Callable[..., Any]]] = {
    "SGLD": ("none", SGMCMC.sgld),
    "RMSProp-SGLD": ("rmsprop", SGMCMC.rmsprop_sgld),
}
Timed = tuple[float, np.ndarray]
"""Chain-steps a second, and the LLC of each chain."""


def network(built: Any) -> torch.nn.Module:
    """The network at w*, as PyTorch has it."""
    form, at = built.form, 0
    layers: list[torch.nn.Module] = []
    for fan_in, fan_out in zip(form.sizes[:-1], form.sizes[1:], strict=True):
        layer = torch.nn.Linear(fan_in, fan_out)
        weights, at = built.w_star[at : at + fan_in * fan_out], at + fan_in * fan_out
        biases, at = built.w_star[at : at + fan_out], at + fan_out
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(weights.reshape(fan_out, fan_in)))
            layer.bias.copy_(torch.from_numpy(biases))
        layers += [layer, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def settings(built: Any, eta0: float) -> dict[str, float]:
    posterior = built.config.posterior
    return {"lr": eta0, "nbeta": built.config.nbeta, "localization": posterior.gamma}


def as_it_comes(problem: lh.Problem, method: str, eta0: float, turn: int) -> Timed:
    """Its own chains, one after the other."""
    built, steps = problem.built(), STEPS["devinterp"]
    x, y = (torch.from_numpy(np.float32(built.data[name])) for name in "xy")
    rows = [{"input_ids": a, "y": b} for a, b in zip(x, y, strict=True)]
    model, chains, began = network(built), [], time.process_time()
    for chain in range(CHAINS):
        losses: list[float] = []
        sample_single_chain(
            model,
            rows,  # type: ignore[arg-type]
            lambda model, batch: (torch.mean((model(batch["input_ids"]) - batch["y"]) ** 2, 1), {}),
            {name: None for name, _ in model.named_parameters()},
            num_draws=steps,
            sampling_method=METHODS[method][1],
            sampling_method_kwargs=settings(built, eta0),
            chain=chain,
            seed=CHAINS * turn + chain,
            dataloader_seed=CHAINS * turn + chain,
            batch_size=BATCH,
            callbacks=[lambda loss, to=losses, **_: to.append(float(loss.mean()))],
        )
        chains.append(llc(built, losses))
    return CHAINS * steps / (time.process_time() - began), np.array(chains)


def optimizer_alone(problem: lh.Problem, method: str, eta0: float, turn: int) -> Timed:
    """Its optimizer, given batches that are in memory."""
    built, steps = problem.built(), STEPS["its optimizer"]
    x, y = (torch.from_numpy(np.float32(built.data[name])) for name in "xy")
    chains, began = [], time.process_time()
    for chain in range(CHAINS):
        torch.manual_seed(CHAINS * turn + chain)
        model, losses = network(built), []
        optimizer = METHODS[method][1](model.parameters(), **settings(built, eta0))
        for _ in range(steps):
            batch = torch.randint(len(x), (BATCH,))
            loss = torch.mean((model(x[batch]) - y[batch]) ** 2)
            optimizer.zero_grad()
            loss.backward()
            losses.append(float(loss.detach()))
            optimizer.step()
        chains.append(llc(built, losses))
    return CHAINS * steps / (time.process_time() - began), np.array(chains)


def llc(built: Any, losses: list[float]) -> float:
    kept = losses[round(BURN_IN * len(losses)) :]
    return built.config.nbeta * (float(np.mean(kept)) - built.init_loss)


def ours(problem: lh.Problem, method: str, eta0: float, turn: int) -> Timed:
    """The package's sampler; its first run compiles, and is not timed."""
    steps = STEPS["here"]
    given = {"eta0": eta0, "steps": steps, "batch": BATCH, "num_chains": CHAINS}
    kind, began = METHODS[method][0], time.process_time()
    estimate = lh.estimate(problem, "sgld", seed=turn, precond_type=kind, **given)
    took = time.process_time() - began
    return CHAINS * steps / took, estimate.to_arviz().posterior["llc"].to_numpy().mean(axis=1)


RUNS = {"devinterp": as_it_comes, "its optimizer": optimizer_alone, "here": ours}


def rows(folder: str, rounds: int) -> Iterator[str]:
    shutil.rmtree(Path(folder, "runs"), ignore_errors=True)  # What is stored is not run again.
    yield "| network | d | reference | method | by | chain-steps/s | times devinterp | LLC |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for name, (spec, eta0) in CASES.items():
        problem = lh.problem(spec, artifacts=folder)
        reference, d = lh.reference(problem), len(problem.built().w_star)
        first = f"{name} | {d} | {reference.llc:.2f} ± {reference.se:.2f}"
        for method in METHODS:
            ours(problem, method, eta0, 0)  # Compiles, and is not timed.
            found: dict[str, list[Timed]] = {by: [] for by in RUNS}
            for turn in range(1, rounds + 1):
                for by, run in RUNS.items():
                    found[by].append(run(problem, method, eta0, turn))
            speeds = {by: float(np.median([one[0] for one in runs])) for by, runs in found.items()}
            for by, runs in found.items():
                values = np.concatenate([chains for _, chains in runs])
                cells = (
                    method,
                    by,
                    f"{speeds[by]:,.0f}",
                    f"{speeds[by] / speeds['devinterp']:.1f}",
                )
                number = f"{values.mean():.2f} ± {error_of_mean(values):.2f}"
                yield f"| {first} | {' | '.join(cells)} | {number} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for row in rows(args.folder, args.rounds):
        print(row, flush=True)
