"""An Equinox network of one's own: trained with Optax, then its LLC."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import lambda_hat as lh

rng = np.random.default_rng(0)
x = rng.standard_normal((200, 2))
y = np.tanh(x @ [1.0, -0.7]) + 0.2 * rng.standard_normal(200)

model = eqx.nn.MLP(2, "scalar", 2, 1, activation=jnp.tanh, key=jax.random.key(1))
params, static = eqx.partition(model, eqx.is_inexact_array)


def loss(params, batch):
    """The squared error of each row."""
    x, y = batch
    return (jax.vmap(eqx.combine(params, static))(x) - y) ** 2


@jax.jit
def step(params, state):
    """One step of Adam on all rows."""
    gradient = jax.grad(lambda params: loss(params, (x, y)).mean())(params)
    updates, state = adam.update(gradient, state)
    return eqx.apply_updates(params, updates), state


adam = optax.adam(0.01)
state = adam.init(params)
for _ in range(500):
    params, state = step(params, state)

# Adam stops near a minimum; the polish descends to it, in float64.
problem = lh.problem(loss=loss, params=params, data=(x, y), polish=True)
reference = lh.reference(problem, budget=120)
estimate = lh.estimate(problem, "sgld", steps=20_000, eta0=2e-3, reference=reference)

print(f"The polish moved w* by {problem.built().evidence['polish_moved']:.3g}.")
print(reference)
print(estimate)
