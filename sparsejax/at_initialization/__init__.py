"""Pruning before training, by methods that need a loss, data or the network, not only gradients.

Each is a function of these and of the parameters that returns masks, once; `sparsejax.fixed` makes
a rule of them. They are called by their module, as in `sparsejax.at_initialization.snip`, since
`sparsejax.snip` is the mask rule that ranks by the gradient of the step it is at, and
`sparsejax.magnitude` and `sparsejax.random` are scores.

>>> import jax, jax.numpy as jnp, optax, sparsejax
>>> params = {"w": jnp.array([[1.0, -2.0, 3.0]])}
>>> loss = lambda params, x: jnp.mean((x @ params["w"].T) ** 2)
>>> batches = jnp.ones((2, 5, 3))
>>> masks = sparsejax.at_initialization.snip(loss, params, batches, 0.5)
>>> tx = sparsejax.sparsify(optax.sgd(0.1), sparsejax.fixed(masks))
>>> sparsejax.apply_masks(params, sparsejax.get_masks(tx.init(params)))["w"].tolist()
[[0.0, -2.0, 3.0]]
"""

from sparsejax.at_initialization.ablations import shuffled
from sparsejax.at_initialization.baselines import magnitude, random
from sparsejax.at_initialization.force import force
from sparsejax.at_initialization.grasp import grasp
from sparsejax.at_initialization.iterative_snip import iterative_snip
from sparsejax.at_initialization.snip import snip
from sparsejax.at_initialization.synflow import synflow

__all__ = [
    "force",
    "grasp",
    "iterative_snip",
    "magnitude",
    "random",
    "shuffled",
    "snip",
    "synflow",
]
