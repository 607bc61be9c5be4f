"""Two units whose LLC is known: f(x) = w2 w1 x, fitted to zero, has the loss w1^2 w2^2.

Its minima are two crossing lines, so its LLC is neither d / 2 = 1 nor that of any quadratic. The
family `normal_crossing` knows the exact answer at this n; here the same loss is a function of ours.
"""

import numpy as np

import lambda_hat as lh
from lambda_hat.problems import llc_exact

N = 1000


def loss(params, batch):
    """The squared error of each row."""
    prediction = params["w2"] * params["w1"] * batch["x"]
    return (prediction - batch["y"]) ** 2


params = {"w1": np.array(0.0), "w2": np.array(0.0)}
data = {"x": np.where(np.arange(N) % 2, 1.0, -1.0), "y": np.zeros(N)}
problem = lh.problem(loss=loss, params=params, data=data, gamma=1.0)
known = lh.problem({"model": {"family": "normal_crossing", "powers": [1, 1]}, "data": {"n": N}})

exact = llc_exact(known.built())
reference = lh.reference(problem, budget=120)
estimate = lh.estimate(problem, "mclmc", reference=reference)

print(f"The exact LLC is {exact:.4f}.")
print(reference)
print(estimate)
