"""A user's script: functions of its own, tuned on workers that a Parsl file of its own describes.

`tests/test_api.py` runs it in a folder of its own, and reads what it says last.
"""

import jax.numpy as jnp
import numpy as np

import lambda_hat as lh

SCALE = jnp.asarray(0.5)


def weighted(curvature):
    """A function of a function, which refers to a global of the script."""
    return lambda params, batch: SCALE * batch["one"][:, None] * params["w"] ** 2 @ curvature


if __name__ == "__main__":
    loss = weighted(np.array([2.0, 1.0, 0.5]))
    data = {"one": np.ones(200)}
    problem = lh.problem(loss=loss, params={"w": np.zeros(3)}, data=data, gamma=1.0)
    reference = lh.reference(problem, budget=60, method="hmc")
    study = lh.tune(
        problem,
        ["mclmc"],
        reference=reference,
        trials=2,
        confirm_seeds=0,
        parsl_config="my_workers.py",
    )
    print("SAID", reference.llc, *study.trials.status, *study.trials.llc_hat)
