"""DeepR: deep rewiring, a random walk of weights that may not change their sign."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from sparsejax import distributions, masks, rounding, schedules, scores, structures, topology
from sparsejax.transforms import MaskState, mask_rule
from sparsejax.typing import Distribution, Masks, Number, Params, Prunable, Structure


def deep_r(
    sparsity: float | jax.Array,
    *,
    learning_rate: Number,
    l1: Number = 1e-4,
    temperature: Number = 0.0,
    period: int = 1,
    end: int | None = None,
    distribution: Distribution = distributions.uniform,
    structure: Structure | None = None,
    prunable: Prunable = masks.default_prunable,
    seed: int | jax.Array = 0,
) -> optax.GradientTransformationExtraArgs:
    """Lets weights walk at random, and replaces those that cross 0 by random others.

    w = s θ with a sign s for every entry, on the mask or not, that never changes. On the mask θ ←
    θ - η ∂L/∂θ - η α + √(2 η T) ν with ν ~ N(0, 1); a connection with θ < 0 becomes dormant, and as
    many dormant ones, chosen uniformly at random, come at θ = 0, so that each layer keeps its
    count. Bellec et al. 2018, arXiv 1711.05136.

    The drift and the noise are part of what the rule passes on to the optimizer, g + α s -
    √(2 T / η) s ν, which makes the paper's step of `optax.sgd(η)`. The signs are those that the
    parameters have at `init`. A crossing is seen at the next update, before its step: a weight of
    the wrong sign, at most one step beyond 0, takes part in one forward pass. The connections that
    just crossed are the last to be chosen.

    Family:
      Sparse to sparse.

    Needs:
      Nothing beyond the weights, and the rate η of the gradient descent that it is part of.

    Args:
      sparsity: The fraction of weights off the mask, from 0 to 1; may be traced.
      learning_rate: η, above 0; may be traced.
      l1: α, the drift towards 0; may be traced.
      temperature: T; 0 for no noise; may be traced.
      period: Steps between two looks at what has crossed; 1 in the paper.
      end: The step of the last; None for no end.
      distribution: Shares the budget among the layers.
      structure: What stands or falls together, then by its mean θ, and what competes; None for
        unstructured.
      prunable: `(path, leaf) -> bool`.
      seed: Seed of the first masks, the noise and the growth; may be traced.

    Returns:
      A mask rule, for `sparsify`.

    Raises:
      ValueError: if a number or a step is out of range; by `init`, if no leaf is prunable, the
        structure does not fit a leaf, or cannot be so sparse.

    >>> import optax, sparsejax
    >>> tx = sparsejax.sparsify(optax.sgd(1.0), deep_r(0.5, learning_rate=1.0, l1=3.0))
    >>> params = {"w": jnp.array([[1.0, -1.0], [5.0, -5.0]])}
    >>> state = tx.init(params)
    >>> params = sparsejax.apply_masks(params, sparsejax.get_masks(state))
    >>> for _ in range(2):
    ...     updates, state = tx.update({"w": jnp.zeros((2, 2))}, state, params)
    ...     params = optax.apply_updates(params, updates)
    >>> int(sparsejax.get_masks(state)["w"].sum())
    2
    """
    rounding.check_fraction("sparsity", sparsity)
    if rounding.is_concrete(learning_rate) and not learning_rate > 0:
        raise ValueError(f"learning_rate must be above 0, got {learning_rate}")
    for name, value in (("l1", l1), ("temperature", temperature)):
        if rounding.is_concrete(value) and not value >= 0:
            raise ValueError(f"{name} must not be negative, got {value}")
    groups = structures.unstructured() if structure is None else structure

    def init_masks(params: Params, key: jax.Array) -> Masks:
        return topology.random_masks(
            params, key, sparsity, distribution=distribution, structure=structure, prunable=prunable
        )

    def signs(params: Params, first: Masks, key: jax.Array) -> Params:
        """Whether each entry is positive; where it is 0, by the toss of a coin."""
        coins = scores.random(params, params, key)
        return jax.tree.map(
            lambda p, mask, coin: (p > 0) | ((p == 0) & (coin % 2 == 1)) if mask.ndim else mask,
            params,
            first,
            coins,
        )

    def move_masks(
        old: Masks,
        params: Params,
        updates: Params,
        key: jax.Array,
        step: jax.Array,
        positive: Params,
    ) -> tuple[Masks, Params]:
        del step

        def crossed(path: Any, mask: jax.Array, p: jax.Array, sign: jax.Array) -> jax.Array:
            if not mask.ndim:
                return jnp.zeros((), bool)
            own = groups.at(masks.path_name(path))
            theta = own.group(jnp.where(sign, p, -p))
            return own.expand(own.group(mask).astype(bool) & (theta < 0), p.shape)

        gone = jax.tree_util.tree_map_with_path(crossed, old, params, positive)
        stays = jax.tree.map(lambda mask, x: mask & ~x, old, gone)
        grow = jax.tree.map(
            lambda x, number: jnp.where(x, 0, jnp.maximum(number, 1)),
            gone,
            scores.random(params, updates, jax.random.split(key)[0]),
        )
        return topology.grow_connections(stays, grow, old, structure=structure), positive

    rule = mask_rule(
        init_masks, move_masks, schedules.every(period, period, end), seed, init_memory=signs
    )

    def update(
        updates: Params, state: MaskState, params: Params | None = None, **extra: Any
    ) -> tuple[Params, MaskState]:
        _, new_state = rule.update(updates, state, params, **extra)
        key = jax.random.split(jax.random.fold_in(state.key, state.count + 1))[1]
        deviation = jnp.sqrt(2 * jnp.asarray(temperature, jnp.float32) / learning_rate)
        leaves, tree = jax.tree.flatten(updates)
        keys = jax.tree.unflatten(tree, [jax.random.fold_in(key, i) for i in range(len(leaves))])

        def walk(g: jax.Array, mask: jax.Array, sign: jax.Array, key: jax.Array) -> jax.Array:
            if not mask.ndim:
                return g
            noise: Number = 0.0
            if not rounding.is_concrete(temperature) or temperature:
                noise = deviation * jax.random.normal(key, g.shape)
            push = jnp.where(sign, 1.0, -1.0) * (l1 - noise)
            return g + push.astype(g.dtype)

        passed = jax.tree.map(walk, updates, new_state.masks, new_state.memory, keys)
        return passed, new_state

    return optax.GradientTransformationExtraArgs(rule.init, update)
