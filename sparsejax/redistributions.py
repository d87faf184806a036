"""Redistributions: how the connections that all layers have lost are shared among them to grow.

A redistribution is a function `layers -> a weight for each`. Whatever the weights, what grows is
exactly as many connections as were dropped, and no layer grows more than it has room for.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from sparsejax import selection
from sparsejax.distributions import by_largest_remainder
from sparsejax.typing import Layer, Redistribution


def by_survivors(layers: Sequence[Layer]) -> list[jax.Array]:
    """Gives the layers that lost the smallest part of their connections the most.

    The weight of layer l is the number of its connections that were not dropped. Mostafa & Wang
    2019, arXiv 1902.05967.

    Args:
      layers: The layers whose connections move.

    Returns:
      A float32 array of shape () for each layer.

    >>> mask = jnp.array([True, True, False])
    >>> [float(w) for w in by_survivors([Layer(mask, mask, mask), Layer(mask, ~mask, mask)])]
    [2.0, 1.0]
    """
    return [_count(layer.stays).astype(jnp.float32) for layer in layers]


def by_mean_score(layers: Sequence[Layer]) -> list[jax.Array]:
    """Gives the layers whose connections have the highest grow scores the most.

    The weight of layer l is the mean score of its connections before any is dropped, NaN counting
    as 0. With the magnitude of the momentum as score it is sparse momentum's: Dettmers &
    Zettlemoyer 2019, arXiv 1907.04840.

    Args:
      layers: The layers whose connections move, their scores not negative.

    Returns:
      A float32 array of shape () for each layer.

    >>> mask = jnp.array([True, True, False])
    >>> [float(w) for w in by_mean_score([Layer(mask, mask, jnp.array([1.0, 4.0, 9.0]))])]
    [2.5]
    """
    return [_mean(layer.scores, layer.before) for layer in layers]


def shares(
    lost: Sequence[jax.Array], layers: Sequence[Layer], redistribution: Redistribution
) -> list[jax.Array]:
    """Returns how many connections each layer grows.

    Args:
      lost: How many each has lost, uint32 arrays of shape (); fewer than 2**31 in total.
      layers: The layers.
      redistribution: Weighs them.

    Returns:
      A uint32 array of shape () for each layer. They sum to what was lost.

    >>> old, new = jnp.array([True, True, False]), jnp.array([False, False, False])
    >>> layers = [Layer(old, new, old), Layer(old, old, old)]
    >>> [int(n) for n in shares([jnp.uint32(2), jnp.uint32(0)], layers, by_survivors)]
    [1, 1]
    """
    room = [layer.stays.size - _count(layer.stays) for layer in layers]
    return list(
        share_out(jnp.sum(jnp.stack(lost)), jnp.stack(room), jnp.stack(redistribution(layers)))
    )


def share_out(total: jax.Array, room: jax.Array, weights: jax.Array) -> jax.Array:
    """Shares a whole number in proportion to weights, none getting more than it has room for.

    What a full one cannot take is shared among the others, again in proportion; once only weights
    of 0 are left, in proportion to their room. Fractions are rounded by largest remainder.

    Args:
      total: What is shared, uint32, at most the sum of `room`.
      room: The most that each may get, uint32 of shape (n,).
      weights: Real numbers of shape (n,); what is not a positive number counts as 0.

    Returns:
      Whole numbers, uint32 of shape (n,), that sum to `total` exactly.

    >>> room = jnp.array([2, 50, 50], jnp.uint32)
    >>> share_out(jnp.uint32(12), room, jnp.array([3.0, 1.0, 1.0])).tolist()
    [2, 5, 5]
    """
    bits = min(24, 31 - math.ceil(math.log2(max(len(room), 2))))

    def whole(x: jax.Array) -> jax.Array:
        x = jnp.where(x > 0, x, 0).astype(jnp.float32)
        largest = jnp.max(x)
        scaled = jnp.where(largest > 0, x / jnp.where(largest > 0, largest, 1), 0)
        # A positive weight must not vanish: its layer would come after the others.
        return jnp.where(x > 0, jnp.maximum(jnp.round(scaled * 2**bits), 1), 0).astype(jnp.uint32)

    def given(full: jax.Array) -> jax.Array:
        wanted = jnp.where(full, 0, whole(jnp.where(full, 0, weights)))
        left = jnp.where(full, 0, whole(jnp.where(full, 0, room)))
        some = jnp.any(wanted > 0)
        return by_largest_remainder(total, room, jnp.where(some, wanted, left), full)

    # Each round finds layers that are full, or ends.
    def fill(
        carry: tuple[jax.Array, jax.Array, jax.Array],
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        full, numbers, _ = carry
        fuller = full | (numbers >= room)
        return fuller, given(fuller), jnp.any(fuller != full)

    nobody = jnp.zeros(room.shape, bool)
    start = nobody, given(nobody), jnp.ones((), bool)
    return jax.lax.while_loop(lambda carry: carry[2], fill, start)[1]


def _count(mask: jax.Array) -> jax.Array:
    return selection.count(mask, tuple(range(mask.ndim))).reshape(())


def _mean(scores: jax.Array, where: jax.Array) -> jax.Array:
    """The mean of the scores at some entries, to 24 bits of the largest of them.

    A sum of floats hangs on how an array is laid out over devices. Counts do not, so the binary
    digits of the scores are counted, one place after the other.
    """
    x = jnp.where(where & (scores > 0), scores, 0).astype(jnp.float32)
    largest = jnp.max(x, initial=0.0)
    scaled = jnp.round(x / jnp.where(largest > 0, largest, 1) * 2**24).astype(jnp.uint32)
    place = jnp.arange(25, dtype=jnp.uint32)
    ones = jax.lax.map(lambda i: _count((scaled >> i) & 1 == 1), place)
    total = jnp.sum(ones.astype(jnp.float32) * 2.0 ** place.astype(jnp.float32))
    return largest * (total / 2**24 / jnp.maximum(_count(where), 1))
