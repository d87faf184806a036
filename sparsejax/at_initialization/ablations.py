"""Tests of what a mask knows: Frankle et al. 2021, arXiv 2009.08576."""

from typing import Any

import jax

from sparsejax import masks as mask_trees
from sparsejax import scores as score_functions
from sparsejax import selection, structures
from sparsejax.typing import Masks, Params, Structure


def shuffled(
    masks: Masks, params: Params, key: jax.Array, *, structure: Structure | None = None
) -> Masks:
    """Returns masks that keep as much of each layer, in random places.

    A method whose networks train no worse with these has found how much each layer should keep,
    and not which weights. Frankle et al. 2021, arXiv 2009.08576. That paper's two other ablations
    need no function: new weights after pruning are weights drawn with another key, and inverted
    scores are the argument `inverted` of the methods.

    Needs:
      Masks.

    Args:
      masks: The mask tree; leaves that are scalars stay.
      params: The parameters; only the shapes matter.
      key: A key of `jax.random`.
      structure: The structure that the masks were made with; None for unstructured. Each of its
        rows keeps its count.

    Returns:
      A mask tree with the shapes of `masks`.

    >>> import jax.numpy as jnp
    >>> params, masks = {"w": jnp.ones((4, 4))}, {"w": jnp.eye(4, dtype=bool)}
    >>> int(shuffled(masks, params, jax.random.key(0))["w"].sum())
    4
    """
    structure = structures.unstructured() if structure is None else structure

    def shuffle(path: Any, mask: jax.Array, bits: jax.Array) -> jax.Array:
        if not mask.ndim or not bits.size:
            return mask
        own = structure.at(mask_trees.path_name(path))
        grouped = own.group(mask).astype(bool)
        axes = own.axes(grouped.ndim)
        kept = selection.count(grouped, axes)
        best = selection.top_k_mask(own.group(bits), kept, axes=axes)
        return own.expand(best, bits.shape)

    return jax.tree_util.tree_map_with_path(
        shuffle, masks, score_functions.random(params, params, key)
    )
