"""Scores: how much each weight matters. The largest are kept first, and grown first.

A score is a function `(params, grads, key) -> scores` over whole trees. Any function of that form
will do, so a score of one's own needs no class and no registration.
"""

import jax
import jax.numpy as jnp

from sparsejax.typing import Params


def magnitude(params: Params, grads: Params, key: jax.Array) -> Params:
    """Returns |w|, the score of Han et al. 2015, arXiv 1506.02626.

    Args:
      params: Any pytree of arrays.
      grads: Not used.
      key: Not used.

    >>> magnitude({"w": jnp.array([-2.0, 1.0])}, None, None)["w"].tolist()
    [2.0, 1.0]
    """
    del grads, key
    return jax.tree.map(jnp.abs, params)


def gradient(params: Params, grads: Params, key: jax.Array) -> Params:
    """Returns |g|, by which RigL grows connections: Evci et al. 2020, arXiv 1911.11134.

    Args:
      params: Not used.
      grads: The gradients, a pytree of arrays.
      key: Not used.

    >>> gradient(None, {"w": jnp.array([-2.0, 1.0])}, None)["w"].tolist()
    [2.0, 1.0]
    """
    del params, key
    return jax.tree.map(jnp.abs, grads)


def saliency(params: Params, grads: Params, key: jax.Array) -> Params:
    """Returns |w · g|, the first-order change of the loss when a weight goes, as in SNIP.

    Lee et al. 2019, arXiv 1810.02340; Molchanov et al. 2017, arXiv 1611.06440.

    Args:
      params: Any pytree of arrays.
      grads: The gradients, of the same structure.
      key: Not used.

    >>> saliency({"w": jnp.array([-2.0, 1.0])}, {"w": jnp.array([3.0, 1.0])}, None)["w"].tolist()
    [6.0, 1.0]
    """
    del key
    return jax.tree.map(lambda p, g: jnp.abs(p * g), params, grads)


def nearness(params: Params, grads: Params, key: jax.Array) -> Params:
    """Returns how near each entry lies to the diagonal of its matrix: keeps a fixed band.

    That is -|(i + 1/2) / m - (j + 1/2) / n| max(m, n), of the last two axes (m, n): the diagonal is
    scaled, so that it runs from corner to corner.

    Args:
      params: Any pytree of arrays; only the shapes matter.
      grads: Not used.
      key: Not used.

    Returns:
      float32 arrays of the shapes of `params`; 0 for those of fewer than two axes.

    >>> nearness({"w": jnp.ones((2, 4))}, None, None)["w"].tolist()
    [[-0.5, -0.5, -1.5, -2.5], [-2.5, -1.5, -0.5, -0.5]]
    """
    del grads, key

    def score(p: jax.Array) -> jax.Array:
        if p.ndim < 2 or not p.size:
            return jnp.zeros(p.shape, jnp.float32)
        *_, m, n = p.shape
        rows, columns = ((jnp.arange(k) + 0.5) * (max(m, n) / k) for k in (m, n))
        return jnp.broadcast_to(-jnp.abs(rows[:, None] - columns), p.shape)

    return jax.tree.map(score, params)


def random(params: Params, grads: Params, key: jax.Array) -> Params:
    """Returns random whole numbers: a uniformly random choice of connections.

    The numbers of a leaf depend on the key, the leaf's place in the tree and its shape, and not on
    how it is laid out over devices.

    Args:
      params: Any pytree of arrays; only the shapes matter.
      grads: Not used.
      key: A key of `jax.random`.

    Returns:
      uint32 arrays of the shapes of `params`.

    >>> random({"w": jnp.ones((2, 3))}, None, jax.random.key(0))["w"].shape
    (2, 3)
    """
    del grads
    leaves, structure = jax.tree.flatten(params)
    bits = [
        jax.random.bits(
            jax.random.fold_in(key, i),
            p.shape,
            jnp.uint32,
            out_sharding=jax.typeof(p).sharding,
        )
        for i, p in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, bits)
