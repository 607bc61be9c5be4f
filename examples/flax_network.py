"""A Flax NNX network of one's own: its state is the parameters, its graph belongs to the loss."""

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import lambda_hat as lh

rng = np.random.default_rng(0)
x = np.linspace(-3, 3, 200)[:, None]
y = np.sin(x[:, 0]) + 0.2 * rng.standard_normal(200)


class Net(nnx.Module):
    """One hidden layer of tanh units."""

    def __init__(self, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(1, 2, rngs=rngs)
        self.out = nnx.Linear(2, 1, rngs=rngs)

    def __call__(self, x):
        return self.out(jnp.tanh(self.hidden(x)))[:, 0]


@nnx.jit
def step(model, optimizer):
    """One step of Adam on all rows."""
    gradient = nnx.grad(lambda model: jnp.mean((model(x) - y) ** 2))(model)
    optimizer.update(model, gradient)


model = Net(nnx.Rngs(0))
optimizer = nnx.Optimizer(model, optax.adam(0.01), wrt=nnx.Param)
for _ in range(1000):
    step(model, optimizer)
graph, params = nnx.split(model)


def loss(params, batch):
    """The squared error of each row."""
    return (nnx.merge(graph, params)(batch["x"]) - batch["y"]) ** 2


problem = lh.problem(loss=loss, params=params, data={"x": x, "y": y}, polish=True)
reference = lh.reference(problem, budget=120)
estimate = lh.estimate(problem, "mclmc", reference=reference)

print(reference)
print(estimate)
