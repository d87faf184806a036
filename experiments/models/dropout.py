"""Dropout whose rate follows the connections that pruning leaves."""

import jax
import jax.numpy as jnp


def scaled_dropout(x: jax.Array, kernel: jax.Array, rate: float, key: jax.Array) -> jax.Array:
    """Sets outputs of a layer to 0 at random, the fewer the fewer connections the layer has left.

    The rate is rate × sqrt(C_r / C_o) with C_o the layer's connections and C_r those that are
    left: a pruned layer has less capacity to restrain. Han et al. 2015, arXiv 1506.02626, section
    3.2. In a masked network the weights off the mask are exactly 0, so C_r is the number of weights
    that are not.

    Args:
      x: the layer's outputs, of any shape.
      kernel: the weights that they were made with.
      rate: the probability of dropping an output of the dense layer, in [0, 1).
      key: a key of `jax.random`.

    Returns:
      The outputs, those that stay divided by the probability of staying.

    Example:
      >>> kernel = jnp.ones((4, 4)).at[1:].set(0)  # a quarter is left: half of the rate
      >>> y = scaled_dropout(jnp.ones(10_000), kernel, 0.5, jax.random.key(0))
      >>> round(float((y == 0).mean()), 2), round(float(y.max()), 4)
      (0.25, 1.3333)
    """
    stays = 1 - rate * jnp.sqrt(jnp.mean(kernel != 0))
    return jnp.where(jax.random.bernoulli(key, stays, x.shape), x / stays, 0)
