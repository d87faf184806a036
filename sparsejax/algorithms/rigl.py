"""RigL: rigging the lottery, making all tickets winners."""

import jax
import optax

from sparsejax import distributions, masks, rounding, schedules, scores, transforms
from sparsejax.typing import Amount, Distribution, Prunable, Structure


def rigl(
    sparsity: float | jax.Array,
    *,
    period: int = 100,
    end: int | None = None,
    drop_fraction: Amount = 0.3,
    distribution: Distribution = distributions.erk,
    structure: Structure | None = None,
    prunable: Prunable = masks.default_prunable,
    seed: int | jax.Array = 0,
) -> optax.GradientTransformationExtraArgs:
    """Drops the smallest weights and grows where the gradient is largest, at a constant count.

    Every `period` steps up to `end` each layer loses the fraction f(t) = α/2 (1 + cos(π t / T_end))
    of its connections with the smallest |w| and gains as many with the largest |g| among those that
    are off the mask, at weight 0. Evci et al. 2020, arXiv 1911.11134; the defaults are the paper's,
    but for `end`, which is 75 % of training there.

    Algorithm 1 updates the masks in place of a gradient step: `sparsify(..., replace_step=True)`.

    Family:
      Sparse to sparse.

    Needs:
      The dense gradient at the steps where the masks move.

    Args:
      sparsity: The fraction of weights off the mask, from 0 to 1; may be traced.
      period: ΔT, steps between two updates of the masks; the first comes at step `period`.
      end: T_end, the step of the last update; None for no end and no decay.
      drop_fraction: α, a number to be decayed by the cosine until `end`, or a schedule to be used
        as it is; may be traced.
      distribution: Shares the budget among the layers.
      structure: What competes with what; None for unstructured.
      prunable: `(path, leaf) -> bool`.
      seed: Seed of the first masks; may be traced.

    Returns:
      A mask rule, for `sparsify`.

    Raises:
      ValueError: if a fraction or a step is out of range; by `init`, if no leaf is prunable, the
        structure does not fit a leaf, or cannot be so sparse.

    >>> import jax.numpy as jnp, optax, sparsejax
    >>> tx = sparsejax.sparsify(optax.sgd(0.1), rigl(0.8, period=1, end=100))
    >>> params = {"w": jnp.ones((10, 10))}
    >>> _, state = tx.update(params, tx.init(params), params)
    >>> int(sparsejax.get_masks(state)["w"].sum())
    20
    """
    rounding.check_fraction("drop_fraction", drop_fraction)
    return transforms.drop_and_grow(
        sparsity,
        drop_fraction=schedules.annealed(drop_fraction, end),
        when=schedules.every(period, period, end),
        drop_score=scores.magnitude,
        grow_score=scores.gradient,
        distribution=distribution,
        structure=structure,
        prunable=prunable,
        seed=seed,
    )
