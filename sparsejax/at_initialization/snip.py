"""SNIP before training, from the gradient of several batches."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from sparsejax import distributions
from sparsejax import masks as mask_trees
from sparsejax.at_initialization import rounds
from sparsejax.typing import Distribution, Masks, Number, Params, Prunable, Structure


def snip(
    loss: Callable[[Params, Any], jax.Array],
    params: Params,
    batches: Any,
    sparsity: Number,
    *,
    inverted: bool = False,
    distribution: Distribution = distributions.global_,
    structure: Structure | None = None,
    prunable: Prunable = mask_trees.default_prunable,
) -> Masks:
    """Prunes once, before training, by the sensitivity of the loss on one or more batches.

    Keeps the connections with the largest |w · ∂L/∂w|, over all layers together, with L the mean
    loss of the batches. Lee et al. 2019, arXiv 1810.02340. `sparsejax.snip` is the same for the
    first batch of a training, as a mask rule. The authors' code draws new weights after pruning and
    lets biases compete (`prunable=sparsejax.prunable_with_biases`): biases that are 0 score 0, so
    it prunes them.

    Needs:
      The loss, and one batch or more.

    Args:
      loss: `(params, batch) -> mean loss of the batch`.
      params: The parameters at initialization, any pytree of arrays.
      batches: A pytree of arrays whose first axis counts the batches.
      sparsity: The fraction of weights off the mask, from 0 to 1; may be traced.
      inverted: Whether the least sensitive are kept instead, a test of the scores (Frankle et al.
        2021, arXiv 2009.08576).
      distribution: Shares the budget among the layers.
      structure: What competes with what; None for unstructured.
      prunable: `(path, leaf) -> bool`.

    Returns:
      A mask tree, for `sparsejax.fixed`.

    Raises:
      ValueError: if there are no batches, the sparsity is no fraction, no leaf is prunable, or the
        structure does not fit a leaf or cannot be so sparse.

    >>> import jax.numpy as jnp
    >>> params = {"w": jnp.array([[1.0], [-2.0]])}
    >>> loss = lambda params, x: jnp.sum(x @ params["w"])
    >>> snip(loss, params, jnp.array([[[5.0, 1.0]], [[5.0, 2.0]]]), 0.5)["w"].tolist()
    [[True], [False]]
    """
    return rounds.prune_in_rounds(
        functools.partial(rounds.saliency, loss, params, batches),
        params,
        sparsity,
        1,
        inverted=inverted,
        distribution=distribution,
        structure=structure,
        prunable=prunable,
    )
