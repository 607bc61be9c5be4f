"""Softmax regression on scikit-learn's digits: parameters that a symmetry makes idle do not count.

Adding the same vector to the weights of every class changes no probability. Of 12 parameters
(3 classes, 3 features and a bias) 4 are idle, so the LLC is near (12 - 4) / 2 = 4, and not 6.
"""

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

import lambda_hat as lh

images, labels = load_digits(n_class=3, return_X_y=True)
x = PCA(3, whiten=True, random_state=0).fit_transform(images)
rng = np.random.default_rng(0)
labels = np.where(rng.random(len(labels)) < 0.1, rng.integers(0, 3, len(labels)), labels)


def loss(params, batch):
    """The cross-entropy of each row."""
    logits = batch["x"] @ params["weights"] + params["bias"]
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), batch["label"][:, None], axis=1)[:, 0]


params = {"weights": np.zeros((3, 3)), "bias": np.zeros(3)}
data = {"x": x, "label": labels}
problem = lh.problem(loss=loss, params=params, data=data, polish=True, gamma=0.1)
reference = lh.reference(problem, budget=120)
estimate = lh.estimate(problem, "mclmc", reference=reference)

print(reference)
print(estimate)
