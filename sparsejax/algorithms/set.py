"""Sparse evolutionary training."""

import jax
import optax

from sparsejax import distributions, masks, schedules, scores, transforms
from sparsejax.typing import Amount, Distribution, Prunable, Structure


def set_(
    sparsity: float | jax.Array,
    *,
    period: int = 100,
    end: int | None = None,
    drop_fraction: Amount = 0.3,
    distribution: Distribution = distributions.er,
    structure: Structure | None = None,
    prunable: Prunable = masks.default_prunable,
    seed: int | jax.Array = 0,
) -> optax.GradientTransformationExtraArgs:
    """Drops the smallest weights and grows random connections, at a constant count.

    Every `period` steps each layer loses the drop fraction of its connections with the smallest |w|
    and gains as many, uniformly at random, at weight 0. Mocanu et al. 2018, arXiv 1707.04780.

    Family:
      Sparse to sparse.

    Needs:
      Nothing beyond the weights.

    Args:
      sparsity: The fraction of weights off the mask, from 0 to 1; may be traced.
      period: Steps between two updates of the masks; the first comes at step `period`.
      end: The step of the last update; None for no end.
      drop_fraction: The fraction of connections to move, a number or a schedule; may be traced.
      distribution: Shares the budget among the layers.
      structure: What competes with what; None for unstructured.
      prunable: `(path, leaf) -> bool`.
      seed: Seed of the first masks and of the growth; may be traced.

    Returns:
      A mask rule, for `sparsify`.

    Raises:
      ValueError: if a fraction or a step is out of range; by `init`, if no leaf is prunable, the
        structure does not fit a leaf, or cannot be so sparse.

    >>> import jax.numpy as jnp, optax, sparsejax
    >>> tx = sparsejax.sparsify(optax.sgd(0.1), set_(0.8, period=1))
    >>> params = {"w": jnp.ones((10, 10))}
    >>> _, state = tx.update(params, tx.init(params), params)
    >>> int(sparsejax.get_masks(state)["w"].sum())
    20
    """
    return transforms.drop_and_grow(
        sparsity,
        drop_fraction=drop_fraction,
        when=schedules.every(period, period, end),
        drop_score=scores.magnitude,
        grow_score=scores.random,
        distribution=distribution,
        structure=structure,
        prunable=prunable,
        seed=seed,
    )
