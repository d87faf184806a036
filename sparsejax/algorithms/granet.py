"""GraNet: gradual pruning with zero-cost neuroregeneration."""

import jax
import optax

from sparsejax import distributions, masks, rounding, schedules, scores, topology, transforms
from sparsejax.typing import Amount, Distribution, Masks, Number, Params, Prunable, Structure


def granet(
    sparsity: Number,
    *,
    begin: int,
    end: int,
    period: int = 1000,
    initial_sparsity: Number = 0.0,
    drop_fraction: Amount = 0.5,
    regrow_end: int | None = None,
    distribution: Distribution = distributions.global_,
    initial_distribution: Distribution = distributions.erk,
    structure: Structure | None = None,
    prunable: Prunable = masks.default_prunable,
    seed: int | jax.Array = 0,
) -> optax.GradientTransformationExtraArgs:
    """Prunes little by little, and at each pruning lets connections come back by their gradient.

    Every `period` steps the smallest |w| of all layers go, until the sparsity is s(t) = s_f + (s_i
    - s_f)(1 - (t - t_0)/(t_1 - t_0))³. Then each layer loses the further fraction f(t) = α/2 (1 +
    cos(π t / T)) of what is left and gains as many with the largest |g| among those off the mask,
    at weight 0. Liu et al. 2021, arXiv 2106.10404, from dense (s_i = 0) or from sparse networks
    (s_i = 0.5).

    Family:
      Sparse to sparse.

    Needs:
      The dense gradient at the steps where the masks move.

    Args:
      sparsity: s_f, reached exactly at `end`; from 0 to 1; may be traced.
      begin: t_0, the step of the first pruning.
      end: t_1, the step of the last.
      period: Steps between two updates of the masks.
      initial_sparsity: s_i, that of the first masks, which are random.
      drop_fraction: α, a number to be decayed by the cosine until T, or a schedule to be used as it
        is; may be traced.
      regrow_end: T, the step of the last regeneration, the end of training in the authors' code;
        None for `end`.
      distribution: Shares the budget among the layers at each pruning.
      initial_distribution: Shares it among the first masks.
      structure: What competes with what; None for unstructured.
      prunable: `(path, leaf) -> bool`.
      seed: Seed of the first masks; may be traced.

    Returns:
      A mask rule, for `sparsify`.

    Raises:
      ValueError: if a fraction is none, or the steps are out of order; by `init`, if no leaf is
        prunable, the structure does not fit a leaf, or cannot be so sparse.

    >>> import jax.numpy as jnp, optax, sparsejax
    >>> tx = sparsejax.sparsify(optax.sgd(0.1), granet(0.75, begin=0, end=4, period=3))
    >>> params = {"w": jnp.arange(1.0, 17.0).reshape(4, 4)}
    >>> state, kept = tx.init(params), []
    >>> for _ in range(6):
    ...     updates, state = tx.update({"w": jnp.ones((4, 4))}, state, params)
    ...     params = optax.apply_updates(params, updates)
    ...     kept.append(int(sparsejax.get_masks(state)["w"].sum()))
    >>> kept
    [16, 16, 16, 4, 4, 4]
    """
    rounding.check_fraction("sparsity", sparsity)
    rounding.check_fraction("initial_sparsity", initial_sparsity)
    rounding.check_fraction("drop_fraction", drop_fraction)
    last = end if regrow_end is None else regrow_end
    if rounding.is_concrete(last) and rounding.is_concrete(end) and last < end:
        raise ValueError(f"regrow_end must not lie before end = {end}, got {last}")
    to_prune = schedules.cubic(begin, end, sparsity, initial_sparsity)
    to_move = schedules.annealed(drop_fraction, last)
    pruning, moving = (schedules.every(period, begin, stop) for stop in (end, last))

    def init_masks(params: Params, key: jax.Array) -> Masks:
        # The schedule hides the final sparsity, which must be refused in time.
        topology.check_sparsity(params, sparsity, distribution, structure, prunable)
        return topology.random_masks(
            params,
            key,
            initial_sparsity,
            distribution=initial_distribution,
            structure=structure,
            prunable=prunable,
        )

    def move_masks(
        old: Masks, params: Params, updates: Params, key: jax.Array, step: jax.Array
    ) -> Masks:
        magnitudes = scores.magnitude(params, updates, key)
        pruned = topology.masks_from_scores(
            params,
            magnitudes,
            to_prune(step),
            distribution=distribution,
            structure=structure,
            prunable=prunable,
            first=old,
        )
        return topology.move_connections(
            pruned,
            magnitudes,
            scores.gradient(params, updates, key),
            schedules.value_at(to_move, step),
            structure=structure,
        )

    return transforms.mask_rule(
        init_masks, move_masks, lambda step: pruning(step) | moving(step), seed
    )
