"""How many losses over all data a run of minibatch steps records.

Each is as much work as a step of n / 3 rows. With n = 1e5 two thousand of them would cost eighteen
times what the steps of `sgld` do, which is better spent on steps. The number follows from the
problem and the settings alone, never from the clock, so that a run can be repeated.
"""

from __future__ import annotations

from lambda_hat.target import Target, num_rows

LEAST_DRAWS = 100
"""Of each chain: R-hat and the hundred effective draws that a trial is asked for need them."""
LOSS_SHARE = 1 / 3
"""Work of a row's loss, in gradients of a row."""


def affordable_draws(target: Target, gradient_rows: float, num_chains: int) -> int:
    """Losses of each chain that cost no more than the steps do.

    Args:
        target: what is sampled; where its loss needs fewer numbers than the rows, losses are free.
        gradient_rows: rows whose gradients the steps evaluate, in all chains together.
        num_chains: how many there are.

    Returns:
        At least `LEAST_DRAWS`, whatever they cost.
    """
    rows = num_rows(target.form, target.arrays)
    if target.arrays.statistics is not None:
        rows = 1
    return max(LEAST_DRAWS, int(gradient_rows / (LOSS_SHARE * rows * num_chains)))
