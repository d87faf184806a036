"""Sparsity from training something else than the weights.

Each function returns a `Reparameterization`: what is trained in place of the parameters, what the
forward pass uses, and the ordinary parameters and masks that it ends with. They are called by their
module, as in `sparsejax.reparameterization.powerprop`.

>>> import jax, jax.numpy as jnp, optax
>>> method = powerprop(0.5)
>>> theta = method.init({"w": jnp.array([[1.0, 4.0]])}, jax.random.key(0))
>>> tx = optax.sgd(0.1)
>>> opt_state = tx.init(theta)
>>> def loss(theta, step, key):
...     return jnp.sum((method.apply(theta, step, key)["w"] - 9) ** 2) + method.penalty(theta, step)
>>> for step in range(3):
...     grads = jax.grad(loss)(theta, step, jax.random.fold_in(jax.random.key(1), step))
...     updates, opt_state = tx.update(grads, opt_state)
...     theta = optax.apply_updates(theta, jax.tree.map(lambda u: 0.1 * u, updates))
>>> params, masks = method.finish(theta)
>>> masks["w"].tolist()
[[False, True]]
"""

from sparsejax.reparameterization.continuous_sparsification import continuous_sparsification
from sparsejax.reparameterization.core import Gated, Reparameterization
from sparsejax.reparameterization.l0 import l0
from sparsejax.reparameterization.powerprop import powerprop
from sparsejax.reparameterization.soft_threshold import str_

__all__ = [
    "Gated",
    "Reparameterization",
    "continuous_sparsification",
    "l0",
    "powerprop",
    "str_",
]
