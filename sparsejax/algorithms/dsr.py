"""DSR: dynamic sparse reparameterization."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from sparsejax import (
    distributions,
    masks,
    redistributions,
    rounding,
    schedules,
    scores,
    selection,
    topology,
    transforms,
)
from sparsejax.typing import Amount, Distribution, Masks, Number, Params, Prunable


def dsr(
    sparsity: float | jax.Array,
    *,
    period: int = 100,
    end: int | None = None,
    drop_fraction: Amount = 0.1,
    threshold: Number = 1e-3,
    tolerance: Number = 0.1,
    distribution: Distribution = distributions.uniform,
    prunable: Prunable = masks.default_prunable,
    seed: int | jax.Array = 0,
) -> optax.GradientTransformationExtraArgs:
    """Drops the weights below one threshold for all layers and grows at random, where most stayed.

    Every `period` steps the connections with |w| < H go, K of them. If K < (1 - δ) N, H doubles; if
    K > (1 + δ) N, it is halved, where N is the number that should go. Of the L that are left, l_i
    in layer i, K l_i / L new ones come to layer i at random, at weight 0: the total is constant,
    that of a layer is not. Mostafa & Wang 2019, arXiv 1902.05967. N is given there as a number,
    from 2 % (LeNet-300-100) to 14 % (WRN-28-2) of the connections at a sparsity of 90 %.

    Family:
      Sparse to sparse.

    Needs:
      Nothing beyond the weights.

    Args:
      sparsity: The fraction of weights off the mask, from 0 to 1; may be traced.
      period: Steps between two updates of the masks; the first comes at step `period`.
      end: The step of the last update; None for no end.
      drop_fraction: N as a fraction of all connections: a number or a schedule; may be traced.
      threshold: The first H, above 0; may be traced.
      tolerance: δ; may be traced.
      distribution: Shares the budget among the layers at first.
      prunable: `(path, leaf) -> bool`.
      seed: Seed of the first masks and of the growth; may be traced.

    Returns:
      A mask rule, for `sparsify`.

    Raises:
      ValueError: if a fraction, a step or the threshold is out of range; by `init`, if no leaf is
        prunable.

    >>> import optax, sparsejax
    >>> tx = sparsejax.sparsify(optax.sgd(0.1), dsr(0.5, period=1))
    >>> params = {"w": jnp.arange(16.0).reshape(4, 4) / 2000}
    >>> state = tx.init(params)
    >>> for _ in range(2):
    ...     updates, state = tx.update({"w": jnp.zeros((4, 4))}, state, params)
    >>> int(sparsejax.get_masks(state)["w"].sum()), float(state.mask_state.memory) != 1e-3
    (8, True)
    """
    rounding.check_fraction("sparsity", sparsity)
    rounding.check_fraction("drop_fraction", drop_fraction)
    rounding.check_fraction("tolerance", tolerance)
    if rounding.is_concrete(threshold) and not threshold > 0:
        raise ValueError(f"threshold must be above 0, got {threshold}")

    def init_masks(params: Params, key: jax.Array) -> Masks:
        return topology.random_masks(
            params, key, sparsity, distribution=distribution, prunable=prunable
        )

    def move_masks(
        old: Masks,
        params: Params,
        updates: Params,
        key: jax.Array,
        step: jax.Array,
        limit: jax.Array,
    ) -> tuple[Masks, jax.Array]:
        stays = jax.tree.map(
            lambda mask, p: mask & (jnp.abs(p).astype(limit.dtype) >= limit) if mask.ndim else mask,
            old,
            params,
        )
        grown = topology.grow_connections(
            stays,
            scores.random(params, updates, key),
            old,
            redistribution=redistributions.by_survivors,
        )
        kept = _total(old)
        dropped = (kept - _total(stays)).astype(limit.dtype)
        share = schedules.value_at(drop_fraction, step)
        target = jnp.asarray(rounding.portion(kept, share), limit.dtype)
        doubled = jnp.where(dropped < (1 - tolerance) * target, 2 * limit, limit)
        return grown, jnp.where(dropped > (1 + tolerance) * target, limit / 2, doubled)

    return transforms.mask_rule(
        init_masks,
        move_masks,
        schedules.every(period, period, end),
        seed,
        init_memory=lambda *_: jnp.asarray(threshold, jnp.float32),
    )


def _total(tree: Any) -> jax.Array:
    counted = [
        selection.count(mask, tuple(range(mask.ndim))).reshape(())
        for mask in jax.tree.leaves(tree)
        if mask.ndim
    ]
    return jnp.sum(jnp.stack(counted), dtype=jnp.uint32)
