"""Pruning after training by the magnitude of the weights: what every other method has to beat."""

import jax
import jax.numpy as jnp

from sparsejax import distributions, masks, structures, topology
from sparsejax.typing import Distribution, Masks, Number, Params, Prunable, Structure


def magnitude_masks(
    params: Params,
    sparsity: Number,
    *,
    distribution: Distribution = distributions.uniform,
    structure: Structure | None = None,
    prunable: Prunable = masks.default_prunable,
) -> Masks:
    """Keeps the largest weights of a trained network, once. Han et al. 2015, arXiv 1506.02626.

    A weight w has the score |w|; no data are looked at, and no weight is changed. As the baseline
    of the papers on language models has it, all the weights of a layer compete, and every layer
    becomes equally sparse. While training, the same is `magnitude_pruning`.

    Needs:
      Nothing beyond the weights.

    Args:
      params: The trained parameters, any pytree of arrays.
      sparsity: The fraction of entries off the mask, from 0 to 1; may be traced.
      distribution: Shares the budget among the layers.
      structure: What competes with what; None for unstructured.
      prunable: `(path, leaf) -> bool`.

    Returns:
      The masks.

    Raises:
      ValueError: as `masks_from_scores` does.

    >>> magnitude_masks({"w": jnp.array([[3.0, -1.0], [2.0, -4.0]])}, 0.5)["w"].tolist()
    [[True, False], [False, True]]
    """
    structure = structures.unstructured() if structure is None else structure
    topology.check_sparsity(params, sparsity, distribution, structure, prunable)
    return topology.masks_from_scores(
        params,
        jax.tree.map(jnp.abs, params),
        sparsity,
        distribution=distribution,
        structure=structure,
        prunable=prunable,
    )
