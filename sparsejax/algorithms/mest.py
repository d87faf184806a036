"""MEST: accurate and fast memory-economic sparse training."""

import jax
import jax.numpy as jnp
import optax

from sparsejax import distributions, masks, rounding, schedules, scores, topology, transforms
from sparsejax.typing import Amount, Distribution, Masks, Number, Params, Prunable, Structure


def mest(
    sparsity: float | jax.Array,
    *,
    period: int = 100,
    end: int | None = None,
    drop_fraction: Amount = 0.5,
    gradient_weight: Number = 0.5,
    soft: bool = False,
    distribution: Distribution = distributions.uniform,
    structure: Structure | None = None,
    prunable: Prunable = masks.default_prunable,
    seed: int | jax.Array = 0,
) -> optax.GradientTransformationExtraArgs:
    """Drops by |w| + λ |g|, grows at random, and moves less and less.

    Every `period` steps each layer loses the fraction p(t) of its connections with the smallest |w|
    + λ |∂L/∂w| and gains as many, uniformly at random, at weight 0 (elastic mutation). With a soft
    memory bound the order is the other one: each layer first gains the fraction p(t) on top of its
    connections, and loses as many, the new ones among them, only at the next update; from the first
    update to the last it has 1 + p(t) times its connections. Yuan et al. 2021, arXiv 2110.14032,
    where p(t) falls in two steps, after 56 % and 75 % of training.

    Family:
      Sparse to sparse.

    Needs:
      The gradient of the kept weights at the steps where the masks move.

    Args:
      sparsity: The fraction of weights off the mask, from 0 to 1; may be traced.
      period: Steps between two updates of the masks; the first comes at step `period`.
      end: The step of the last update; None for no end.
      drop_fraction: p, a number to be halved at three quarters of `end` and to end there with 0, or
        a schedule to be used as it is; may be traced.
      gradient_weight: λ, the one of the authors' code; may be traced.
      soft: Whether the memory bound is soft.
      distribution: Shares the budget among the layers.
      structure: What competes with what; None for unstructured.
      prunable: `(path, leaf) -> bool`.
      seed: Seed of the first masks and of the growth; may be traced.

    Returns:
      A mask rule, for `sparsify`.

    Raises:
      ValueError: if a fraction or a step is out of range; by `init`, if no leaf is prunable, the
        structure does not fit a leaf, or cannot be so sparse.

    >>> import optax, sparsejax
    >>> for soft in False, True:
    ...     tx = sparsejax.sparsify(optax.sgd(0.1), mest(0.8, period=1, end=3, soft=soft))
    ...     params = {"w": jnp.ones((10, 10))}
    ...     state, kept = tx.init(params), []
    ...     for _ in range(4):
    ...         _, state = tx.update(params, state, params)
    ...         kept.append(int(sparsejax.get_masks(state)["w"].sum()))
    ...     print(kept)
    [20, 20, 20, 20]
    [20, 30, 30, 20]
    """
    rounding.check_fraction("sparsity", sparsity)
    rounding.check_fraction("drop_fraction", drop_fraction)
    fraction = _in_two_steps(drop_fraction, end)
    when = schedules.every(period, period, end)

    def importance(params: Params, grads: Params, key: jax.Array) -> Params:
        del key
        return jax.tree.map(
            lambda p, g: jnp.abs(p) + (gradient_weight * jnp.abs(g)).astype(p.dtype), params, grads
        )

    if not soft:
        return transforms.drop_and_grow(
            sparsity,
            drop_fraction=fraction,
            when=when,
            drop_score=importance,
            grow_score=scores.random,
            distribution=distribution,
            structure=structure,
            prunable=prunable,
            seed=seed,
        )

    def init_masks(params: Params, key: jax.Array) -> Masks:
        return topology.random_masks(
            params,
            key,
            sparsity,
            distribution=distribution,
            structure=structure,
            prunable=prunable,
        )

    def move_masks(
        old: Masks, params: Params, updates: Params, key: jax.Array, step: jax.Array
    ) -> Masks:
        bounded = topology.masks_from_scores(
            params,
            importance(params, updates, key),
            sparsity,
            distribution=distribution,
            structure=structure,
            prunable=prunable,
            first=old,
        )
        return topology.add_connections(
            bounded,
            scores.random(params, updates, key),
            schedules.value_at(fraction, step),
            structure=structure,
        )

    return transforms.mask_rule(init_masks, move_masks, when, seed)


def _in_two_steps(amount: Amount, end: int | None) -> Amount:
    """The amount up to three quarters of `end`, half of it from there on, and 0 at `end`."""
    if callable(amount) or end is None:
        return amount
    return lambda step: amount * jnp.where(step < 0.75 * end, 1.0, jnp.where(step < end, 0.5, 0.0))
