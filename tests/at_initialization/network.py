"""A network of two layers with its gradient by hand, in float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

WEIGHTS = 5 * 4 + 4 * 3


def loss(params, batch, temperature=1.0):
    x, labels = batch
    logits = (jnp.tanh(x @ params["a"]) @ params["b"] + params["bias"]) / temperature
    return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels])


def problem(seed=0):
    """Parameters, and three batches of seven examples."""
    rng = np.random.default_rng(seed)
    params = {"a": rng.normal(size=(5, 4)), "b": rng.normal(size=(4, 3)), "bias": np.zeros(3)}
    params = {name: jnp.float32(p) for name, p in params.items()}
    return params, (jnp.float32(rng.normal(size=(3, 7, 5))), jnp.array(rng.integers(0, 3, (3, 7))))


def vector(tree):
    """The weights without the bias, in one vector of float64."""
    return np.concatenate([np.float64(tree["a"]).ravel(), np.float64(tree["b"]).ravel()])


def gradient(weights, batches, temperature=1.0):
    """The gradient of the mean loss of the batches with respect to the vector of the weights."""
    a, b = weights[:20].reshape(5, 4), weights[20:].reshape(4, 3)
    total = np.zeros(WEIGHTS)
    for x, labels in zip(*map(np.asarray, batches), strict=True):
        x = np.float64(x)
        hidden = np.tanh(x @ a)
        odds = np.exp(hidden @ b / temperature)
        error = odds / odds.sum(1, keepdims=True)
        error[np.arange(len(labels)), labels] -= 1
        error /= len(labels) * temperature
        to_a = x.T @ ((error @ b.T) * (1 - hidden**2))
        total += np.concatenate([to_a.ravel(), (hidden.T @ error).ravel()])
    return total / len(batches[0])


def best(scores, kept):
    """Whether each weight is among so many with the largest scores."""
    return np.isin(np.arange(len(scores)), np.argsort(-scores)[:kept])
