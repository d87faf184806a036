"""What the tests of single methods share: a training run that NumPy can follow, and its selection.

The loss is ½ |w' - target|² with another target at each step, so that its gradient at the weights
w' of the forward pass is w' - target.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import sparsejax
from tests.algorithms.oracle import quick_jit


def problem(steps, shape=(6, 8), seed=0):
    """Initial weights and a target for each step, float32."""
    rng = np.random.default_rng(seed)
    weights, targets = rng.normal(size=shape), rng.normal(size=(steps, *shape))
    return weights.astype(np.float32), targets.astype(np.float32)


def train(tx, weights, targets):
    """Yields after each step the stored weights, the forward pass's, the mask and the state."""
    params = {"w": jnp.asarray(weights)}
    state = tx.init(params)

    @quick_jit
    def step(params, state, target):
        def loss(p):
            return jnp.sum((sparsejax.forward_params(p, state)["w"] - target) ** 2) / 2

        grads = jax.grad(loss)(params)
        updates, state = tx.update(grads, state, params, grad_fn=jax.grad(dense_loss(target)))
        return optax.apply_updates(params, updates), state

    def dense_loss(target):
        return lambda p: jnp.sum((p["w"] - target) ** 2) / 2

    for target in targets:
        params, state = step(params, state, target)
        forward = sparsejax.forward_params(params, state)
        masks = sparsejax.get_masks(state)
        yield tuple(np.asarray(tree["w"]) for tree in (params, forward, masks)), state


def largest(scores, kept):
    """The mask of the largest scores, the first of equals, by sorting."""
    mask = np.zeros(scores.size, bool)
    mask[np.argsort(-scores.ravel(), kind="stable")[:kept]] = True
    return mask.reshape(scores.shape)
