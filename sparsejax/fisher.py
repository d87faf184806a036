"""The inverse of the empirical Fisher information, in blocks along the diagonal.

F = λ I + 1/m Σ g gᵀ over m gradients; only its blocks of B × B along the flattened parameter are
kept. A first axis counts the blocks, and the last block is filled up with weights that are 0.
"""

import jax
import jax.numpy as jnp

from sparsejax.typing import Number


def to_blocks(x: jax.Array, block: int) -> jax.Array:
    """Cuts an array into blocks, as float32.

    Args:
      x: An array of any shape.
      block: B.

    Returns:
      An array (number of blocks, B).

    >>> to_blocks(jnp.ones((2, 3)), 4).tolist()
    [[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0]]
    """
    flat = x.astype(jnp.float32).ravel()
    return jnp.pad(flat, (0, -x.size % block)).reshape(-1, block)


def from_blocks(blocks: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Undoes `to_blocks`.

    >>> from_blocks(to_blocks(jnp.arange(6.0).reshape(2, 3), 4), (2, 3)).tolist()
    [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    """
    size = 1
    for n in shape:
        size *= n
    return blocks.ravel()[:size].reshape(shape)


def no_gradient(size: int, block: int, damping: Number) -> jax.Array:
    """The inverse before the first gradient, I / λ.

    Args:
      size: Entries of the parameter.
      block: B.
      damping: λ.

    Returns:
      An array (number of blocks, B, B).

    >>> no_gradient(3, 2, 0.5).tolist()
    [[[2.0, 0.0], [0.0, 2.0]], [[2.0, 0.0], [0.0, 2.0]]]
    """
    eye = jnp.eye(block, dtype=jnp.float32) / damping
    return jnp.broadcast_to(eye, (-(-size // block), block, block))


def add_gradient(inverse: jax.Array, gradient: jax.Array, samples: int) -> jax.Array:
    """Takes in one of m gradients: A ← A - A g gᵀ A / (m + gᵀ A g), by Sherman and Morrison.

    Args:
      inverse: A, (number of blocks, B, B).
      gradient: g, in the shape of the parameter.
      samples: m.

    >>> a = add_gradient(no_gradient(2, 2, 1.0), jnp.array([1.0, 0.0]), 1)
    >>> a.tolist()
    [[[0.5, 0.0], [0.0, 1.0]]]
    """
    g = to_blocks(gradient, inverse.shape[-1])
    a_g = jnp.einsum("bij,bj->bi", inverse, g)
    weight = 1 / (samples + jnp.einsum("bi,bi->b", g, a_g))
    return inverse - weight[:, None, None] * a_g[:, :, None] * a_g[:, None, :]


def saliency(weights: jax.Array, inverse: jax.Array) -> jax.Array:
    """Returns what removing each weight costs when the others make up for it: w² / (2 A_qq).

    >>> saliency(jnp.array([2.0, 1.0]), 4 * jnp.eye(2)[None]).tolist()
    [0.5, 0.125]
    """
    diagonal = jnp.diagonal(inverse, axis1=1, axis2=2)
    return weights.astype(jnp.float32) ** 2 / (2 * from_blocks(diagonal, weights.shape))


def compensation(weights: jax.Array, gone: jax.Array, inverse: jax.Array) -> jax.Array:
    """Returns how the weights move when some of them go: δ = - Σ_q w_q / A_qq · A e_q.

    Args:
      weights: The weights before.
      gone: A mask of those that go, q.
      inverse: A, (number of blocks, B, B).

    Returns:
      float32, of the shape of the weights.

    >>> a = jnp.array([[[2.0, 1.0], [1.0, 2.0]]])
    >>> compensation(jnp.array([2.0, 1.0]), jnp.array([True, False]), a).tolist()
    [-2.0, -1.0]
    """
    diagonal = jnp.diagonal(inverse, axis1=1, axis2=2)
    leaving = to_blocks(jnp.where(gone, weights, jnp.zeros_like(weights)), inverse.shape[-1])
    moved = -jnp.einsum("bij,bj->bi", inverse, leaving / diagonal)
    return from_blocks(moved, weights.shape)
