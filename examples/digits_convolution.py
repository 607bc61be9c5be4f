"""A convolutional network of 1e5 parameters on scikit-learn's digits, and no reference to trust.

HMC would need hours here on a CPU. What one does then: compare step sizes, preconditioners and
chains with each other, at several gammas, and say that nothing else vouches for the number.

    python digits_convolution.py [rows] [steps of SGLD] [seconds for HMC] [gamma] [gamma] ..
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import lambda_hat as lh

ROWS, STEPS, SECONDS, *GAMMAS = map(int, sys.argv[1:]) if sys.argv[1:] else (300, 4000, 60, 20, 80)
images, labels = load_digits(return_X_y=True)
data = {
    "image": images[:ROWS].reshape(-1, 8, 8, 1).astype(np.float32) / 16,
    "label": labels[:ROWS],
}


def patches(x):
    """The 3 x 3 pixels around every second pixel: with them a convolution is a product."""
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    size = x.shape[1] - 2
    shifts = [(i, j) for i in range(3) for j in range(3)]
    return jnp.concatenate([x[:, i : i + size : 2, j : j + size : 2] for i, j in shifts], axis=-1)


def loss(params, batch):
    """The squared error of each row, averaged over the ten classes."""
    h = batch["image"]
    for layer in params["convolutions"]:
        h = jnp.tanh(patches(h) @ layer["w"] + layer["b"])
    h = h.reshape(len(h), -1)
    h = jnp.tanh(h @ params["dense"]["w"] + params["dense"]["b"])
    out = h @ params["out"]["w"] + params["out"]["b"]
    return jnp.mean((out - jax.nn.one_hot(batch["label"], 10)) ** 2, axis=1)


def layer(inputs, outputs):
    """Weights and biases before training."""
    w = rng.standard_normal((inputs, outputs)) / inputs**0.5
    return {"w": w.astype(np.float32), "b": np.zeros(outputs, np.float32)}


@jax.jit
def step(params, state):
    """One step of Adam on all rows."""
    gradient = jax.grad(lambda params: loss(params, data).mean())(params)
    updates, state = adam.update(gradient, state)
    return optax.apply_updates(params, updates), state


rng = np.random.default_rng(0)
params = {
    "convolutions": [layer(9, 32), layer(288, 64)],
    "dense": layer(256, 300),
    "out": layer(300, 10),
}
adam = optax.adam(optax.cosine_decay_schedule(3e-3, 600))
state = adam.init(params)
for _ in range(600):
    params, state = step(params, state)

# With more parameters than data there are minima of loss zero, and Adam ends in one of them.
problem = lh.problem(loss=loss, params=params, data=data, gamma=GAMMAS[0])
built = problem.built()
print(f"{len(built.w_star)} parameters, loss {built.init_loss:.2g} at w*")

# 1. Ask for a reference.
reference = lh.reference(problem, budget=SECONDS)
print(reference)
print(f"There is {'a' if reference.status == 'ok' else 'no'} reference.")

# 2. Samplers against each other, chains against chains, at more than one gamma.
samplers = {
    "step 1e-3": {"eta0": 1e-3},
    "step 5e-4": {"eta0": 5e-4},
    "preconditioned": {"eta0": 5e-4, "precond_type": "rmsprop"},
}
for gamma in GAMMAS:
    here = lh.problem(loss=loss, params=params, data=data, gamma=gamma)
    print(f"gamma {gamma}")
    found = []
    for name, settings in samplers.items():
        estimate = lh.estimate(here, "sgld", steps=STEPS, batch=32, **settings)
        found += [estimate.llc] if estimate.status == "complete" else []
        llc = "no LLC" if estimate.llc is None else f"LLC {estimate.llc:.4g} ± {estimate.se:.2g}"
        print(f"  SGLD, {name}: {llc}, {estimate.status}. {estimate.reason or ''}")
    if len(found) < len(samplers):
        print("  No number to report: a sampler's own checks failed. Give it more steps.")
        continue
    spread = np.ptp(found) / np.mean(found)
    if spread > 0.1:
        print(f"  No number to report: all passed their own checks, and differ by {spread:.0%}.")
        print("  The step decides: halve it, and enlarge the batch, until that changes nothing.")
    else:
        print(f"  They lie within {spread:.1%} of each other: report them with that spread.")
