"""SRigL: RigL with a constant fan-in and neurons that can be ablated."""

import jax
import jax.numpy as jnp
import optax

from sparsejax import (
    distributions,
    masks,
    rounding,
    schedules,
    selection,
    structures,
    topology,
    transforms,
)
from sparsejax.typing import Amount, Distribution, Masks, Number, Params, Prunable


def srigl(
    sparsity: float | jax.Array,
    *,
    period: int = 100,
    end: int | None = None,
    drop_fraction: Amount = 0.3,
    salient_fraction: Number = 0.3,
    output_axis: int = -1,
    distribution: Distribution = distributions.erk,
    prunable: Prunable = masks.default_prunable,
    seed: int | jax.Array = 0,
) -> optax.GradientTransformationExtraArgs:
    """RigL at a constant fan-in, where neurons with too few connections that matter go altogether.

    Every `period` steps, in each layer of n connections with fan-in k, K = f(t) n with f as in
    `rigl`. Salient are the n - K connections with the largest |w| and the K entries off the mask
    with the largest |g|. A neuron with fewer than γ k of them is ablated: it has no connections
    until it has enough salient entries again. The fan-in of the others is k' = ⌊B / number of them⌋
    with B the first number of connections of the layer, or all entries of a neuron if these are
    fewer. Of all connections the K with the smallest |w| go; each neuron keeps the k' largest of
    what it has left, and gains those with the largest |g| up to k'. Lasby et al. 2024, arXiv
    2305.02299. A layer's count is B less the rest of that division.

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
      salient_fraction: γ; 0 for no ablation; 0.95 in the paper's vision transformers; may be
        traced.
      output_axis: The axis of the output neurons.
      distribution: Shares the budget among the layers.
      prunable: `(path, leaf) -> bool`.
      seed: Seed of the first masks; may be traced.

    Returns:
      A mask rule, for `sparsify`.

    Raises:
      ValueError: if a fraction or a step is out of range; by `init`, if no leaf is prunable.

    >>> import optax, sparsejax
    >>> tx = sparsejax.sparsify(optax.sgd(0.1), srigl(0.5, period=1, salient_fraction=1.0))
    >>> params = {"w": jnp.array([[1.0, 9.0], [2.0, 8.0], [3.0, 7.0], [1.0, 6.0]])}
    >>> state = tx.init(params)
    >>> sparsejax.get_masks(state)["w"].sum(0).tolist()
    [2, 2]
    >>> for _ in range(2):
    ...     _, state = tx.update(params, state, params)
    >>> sparsejax.get_masks(state)["w"].sum(0).tolist()
    [0, 4]
    """
    rounding.check_fraction("sparsity", sparsity)
    rounding.check_fraction("drop_fraction", drop_fraction)
    rounding.check_fraction("salient_fraction", salient_fraction)
    fraction = schedules.annealed(drop_fraction, end)
    structure = structures.constant_fan_in(output_axis)

    def init_masks(params: Params, key: jax.Array) -> Masks:
        return topology.random_masks(
            params, key, sparsity, distribution=distribution, structure=structure, prunable=prunable
        )

    def move_masks(
        old: Masks,
        params: Params,
        updates: Params,
        key: jax.Array,
        step: jax.Array,
        budgets: Params,
    ) -> tuple[Masks, Params]:
        del key

        def move(mask: jax.Array, p: jax.Array, g: jax.Array, budget: jax.Array) -> jax.Array:
            if not mask.ndim or not mask.size:
                return mask
            inputs = structure.axes(mask.ndim)
            return _move(
                mask,
                jnp.abs(p),
                jnp.abs(g),
                budget,
                inputs,
                schedules.value_at(fraction, step),
                salient_fraction,
            )

        return jax.tree.map(move, old, params, updates, budgets), budgets

    return transforms.mask_rule(
        init_masks,
        move_masks,
        schedules.every(period, period, end),
        seed,
        init_memory=lambda params, first, key: jax.tree.map(
            lambda mask: selection.count(mask, tuple(range(mask.ndim))).reshape(()), first
        ),
    )


def _move(
    mask: jax.Array,
    magnitude: jax.Array,
    gradient: jax.Array,
    budget: jax.Array,
    inputs: tuple[int, ...],
    fraction: Number,
    salient_fraction: Number,
) -> jax.Array:
    """One update of one layer."""
    everything = tuple(range(mask.ndim))

    def count(hits: jax.Array) -> jax.Array:
        return selection.count(hits, everything)

    fan_in = selection.count(mask, inputs)
    moved = rounding.portion(count(mask), fraction)
    kept = count(mask) - moved
    salient = selection.top_k_mask(magnitude, kept, first=mask)
    salient |= selection.top_k_mask(gradient, moved, first=~mask)
    enough = selection.count(salient, inputs) >= salient_fraction * jnp.max(fan_in)
    active = enough | ~jnp.any(enough)  # a layer without any neuron would cut the network
    size = mask.size // active.size
    new_fan_in = jnp.where(active, jnp.minimum(budget // jnp.maximum(count(active), 1), size), 0)
    left = mask & active
    stays = selection.top_k_mask(magnitude, jnp.minimum(kept, count(left)), first=left)
    most = jnp.minimum(new_fan_in, selection.count(stays, inputs))
    stays = selection.top_k_mask(magnitude, most, axes=inputs, first=stays)
    missing = new_fan_in - most
    return stays | selection.top_k_mask(gradient, missing, axes=inputs, first=~stays)
