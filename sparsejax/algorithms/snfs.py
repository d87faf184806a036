"""Sparse networks from scratch: sparse momentum."""

import jax
import optax

from sparsejax import (
    distributions,
    masks,
    observers,
    redistributions,
    rounding,
    schedules,
    scores,
    transforms,
)
from sparsejax.typing import Amount, Distribution, Prunable


def snfs(
    sparsity: float | jax.Array,
    *,
    period: int = 100,
    end: int | None = None,
    drop_fraction: Amount = 0.5,
    momentum: float | jax.Array = 0.9,
    distribution: Distribution = distributions.uniform,
    prunable: Prunable = masks.default_prunable,
    seed: int | jax.Array = 0,
) -> optax.GradientTransformationExtraArgs:
    """Drops the smallest weights and grows where the momentum is largest, in whichever layer.

    M ← β M + (1 - β) ∂L/∂w is kept for all weights, present or not. Every `period` steps each layer
    loses the fraction f(t) = α/2 (1 + cos(π t / T_end)) of its connections with the smallest |w|.
    What all have lost is shared among them in proportion to the mean |M| of their connections, and
    grows where |M| is largest among those off the mask, at weight 0. Dettmers & Zettlemoyer 2019,
    arXiv 1907.04840; there, `period` is an epoch and `end` the end of training.

    Family:
      Sparse to sparse.

    Needs:
      The dense gradient at every step, and one more array of the size of the parameters.

    Args:
      sparsity: The fraction of weights off the mask, from 0 to 1; may be traced.
      period: Steps between two updates of the masks; the first comes at step `period`.
      end: T_end, the step of the last update; None for no end and no decay.
      drop_fraction: α, a number to be decayed by the cosine until `end`, or a schedule to be used
        as it is; may be traced.
      momentum: β; may be traced.
      distribution: Shares the budget among the layers at first.
      prunable: `(path, leaf) -> bool`.
      seed: Seed of the first masks; may be traced.

    Returns:
      A mask rule, for `sparsify`.

    Raises:
      ValueError: if a fraction or a step is out of range; by `init`, if no leaf is prunable.

    >>> import jax.numpy as jnp, optax, sparsejax
    >>> tx = sparsejax.sparsify(optax.sgd(0.1), snfs(0.5, period=1))
    >>> params = {"a": jnp.ones((4, 4)), "b": jnp.ones((4, 4))}
    >>> grads, state = {"a": jnp.ones((4, 4)), "b": 9 * jnp.ones((4, 4))}, tx.init(params)
    >>> for _ in range(2):
    ...     _, state = tx.update(grads, state, params)
    >>> [int(mask.sum()) for mask in sparsejax.get_masks(state).values()]
    [5, 11]
    """
    rounding.check_fraction("drop_fraction", drop_fraction)
    rounding.check_fraction("momentum", momentum)
    rule = transforms.drop_and_grow(
        sparsity,
        drop_fraction=schedules.annealed(drop_fraction, end),
        when=schedules.every(period, period, end),
        drop_score=scores.magnitude,
        grow_score=scores.gradient,
        distribution=distribution,
        redistribution=redistributions.by_mean_score,
        prunable=prunable,
        seed=seed,
    )
    return observers.look_through(optax.ema(momentum, debias=False), rule)
