"""What every method before training has to beat: random masks, and the largest weights.

Frankle et al. 2021, arXiv 2009.08576.
"""

import jax
import jax.numpy as jnp

from sparsejax import distributions, topology
from sparsejax import masks as mask_trees
from sparsejax.typing import Distribution, Masks, Number, Params, Prunable, Structure


def random(
    params: Params,
    key: jax.Array,
    sparsity: Number,
    *,
    distribution: Distribution = distributions.global_,
    structure: Structure | None = None,
    prunable: Prunable = mask_trees.default_prunable,
) -> Masks:
    """Prunes at random before training, each connection as likely as every other.

    As `sparsejax.random_masks`, and `sparsejax.static` as a rule, but that all layers compete.
    Frankle et al. 2021, arXiv 2009.08576.

    Needs:
      Nothing but a key.

    Args:
      params: Any pytree of arrays; only the shapes matter.
      key: A key of `jax.random`.
      sparsity: The fraction of weights off the mask, from 0 to 1; may be traced.
      distribution: Shares the budget among the layers.
      structure: What competes with what; None for unstructured.
      prunable: `(path, leaf) -> bool`.

    Returns:
      A mask tree, for `sparsejax.fixed`.

    Raises:
      ValueError: if the sparsity is no fraction, no leaf is prunable, or the structure does not fit
        a leaf or cannot be so sparse.

    >>> int(random({"w": jnp.ones((4, 4))}, jax.random.key(0), 0.75)["w"].sum())
    4
    """
    return topology.random_masks(
        params,
        key,
        sparsity,
        distribution=distribution,
        structure=structure,
        prunable=prunable,
    )


def magnitude(
    params: Params,
    sparsity: Number,
    *,
    inverted: bool = False,
    distribution: Distribution = distributions.global_,
    structure: Structure | None = None,
    prunable: Prunable = mask_trees.default_prunable,
) -> Masks:
    """Prunes the smallest weights before training, over all layers together.

    Frankle et al. 2021, arXiv 2009.08576. `sparsejax.magnitude_pruning` does so at a step of
    training.

    Needs:
      Nothing beyond the weights.

    Args:
      params: The parameters at initialization, any pytree of arrays.
      sparsity: The fraction of weights off the mask, from 0 to 1; may be traced.
      inverted: Whether the smallest weights are kept instead, a test of the scores.
      distribution: Shares the budget among the layers.
      structure: What competes with what; None for unstructured.
      prunable: `(path, leaf) -> bool`.

    Returns:
      A mask tree, for `sparsejax.fixed`.

    Raises:
      ValueError: if the sparsity is no fraction, no leaf is prunable, or the structure does not fit
        a leaf or cannot be so sparse.

    >>> magnitude({"a": jnp.array([[1.0, -3.0]]), "b": jnp.array([[2.0, 4.0]])}, 0.5)["b"].tolist()
    [[False, True]]
    """
    sign = -1 if inverted else 1
    return topology.masks_from_scores(
        params,
        jax.tree.map(lambda p: sign * jnp.abs(p), params),
        sparsity,
        distribution=distribution,
        structure=structure,
        prunable=prunable,
    )
