"""Static sparse training: random masks, drawn once and never moved."""

import functools

import jax
import optax

from sparsejax import distributions, masks, rounding, topology, transforms
from sparsejax.typing import Distribution, Prunable, Structure


def static(
    sparsity: float | jax.Array,
    *,
    distribution: Distribution = distributions.uniform,
    structure: Structure | None = None,
    prunable: Prunable = masks.default_prunable,
    seed: int | jax.Array = 0,
) -> optax.GradientTransformationExtraArgs:
    """Keeps a random choice of connections, the same from the first step to the last.

    m ~ uniform among all masks with the asked count of each layer; ∂m = 0. Mocanu et al. 2018,
    arXiv 1707.04780, and Liu et al. 2022, arXiv 2202.02643, who show how far it goes with ERK.

    Family:
      Sparse to sparse.

    Needs:
      Nothing beyond the weights.

    Args:
      sparsity: The fraction of weights off the mask, from 0 to 1; may be traced.
      distribution: Shares the budget among the layers.
      structure: What competes with what; None for unstructured.
      prunable: `(path, leaf) -> bool`.
      seed: Seed of the choice; may be traced.

    Returns:
      A mask rule, for `sparsify`.

    Raises:
      ValueError: if the sparsity is no fraction; by `init`, if no leaf is prunable, the structure
        does not fit a leaf, or cannot be so sparse.

    >>> import jax.numpy as jnp, optax, sparsejax
    >>> tx = sparsejax.sparsify(optax.adam(1e-3), static(0.9, distribution=sparsejax.erk))
    >>> state = tx.init({"w": jnp.ones((20, 10))})
    >>> int(sparsejax.get_masks(state)["w"].sum())
    20
    """
    rounding.check_fraction("sparsity", sparsity)

    draw = functools.partial(
        topology.random_masks,
        sparsity=sparsity,
        distribution=distribution,
        structure=structure,
        prunable=prunable,
    )
    return transforms.fixed(draw, seed=seed)
