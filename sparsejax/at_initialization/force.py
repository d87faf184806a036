"""FORCE: foresight connection sensitivity, by progressive sparsification."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from sparsejax import distributions
from sparsejax import masks as mask_trees
from sparsejax.at_initialization import rounds as in_rounds
from sparsejax.typing import Distribution, Masks, Number, Params, Prunable, Structure


def force(
    loss: Callable[[Params, Any], jax.Array],
    params: Params,
    batches: Any,
    sparsity: Number,
    *,
    rounds: int = 60,
    inverted: bool = False,
    distribution: Distribution = distributions.global_,
    structure: Structure | None = None,
    prunable: Prunable = mask_trees.default_prunable,
) -> Masks:
    """Prunes before training in rounds, in which connections may come back.

    Round i of n keeps the (1 - sparsity)^(i/n) of all connections with the largest |w₀ · ∂L/∂w|,
    with w₀ the initial weights and ∂L/∂w that of the network that round i - 1 left, also where it
    has no connection: the sensitivity after pruning is what counts, not that before. de Jorge et
    al. 2020, arXiv 2006.09081. All rounds see the same batches, where the authors' code takes new
    ones in each.

    Needs:
      The loss, and one batch or more.

    Args:
      loss: `(params, batch) -> mean loss of the batch`.
      params: The parameters at initialization, any pytree of arrays.
      batches: A pytree of arrays whose first axis counts the batches.
      sparsity: The fraction of weights off the mask, from 0 to 1; may be traced.
      rounds: How many rounds there are.
      inverted: Whether the least sensitive are kept instead, a test of the scores (Frankle et al.
        2021, arXiv 2009.08576).
      distribution: Shares the budget among the layers, in each round.
      structure: What competes with what; None for unstructured.
      prunable: `(path, leaf) -> bool`.

    Returns:
      A mask tree, for `sparsejax.fixed`.

    Raises:
      ValueError: if there are no batches or rounds, the sparsity is no fraction, no leaf is
        prunable, or the structure does not fit a leaf or cannot be so sparse.

    >>> import jax.numpy as jnp
    >>> params = {"w": jnp.array([[1.0], [-2.0], [3.0], [0.1]])}
    >>> loss = lambda params, x: jnp.mean((x @ params["w"] - 2) ** 2)
    >>> force(loss, params, jnp.ones((1, 1, 4)), 0.75, rounds=2)["w"].ravel().tolist()
    [False, False, True, False]
    """
    return in_rounds.prune_in_rounds(
        functools.partial(in_rounds.saliency, loss, params, batches),
        params,
        sparsity,
        rounds,
        recover=True,
        inverted=inverted,
        distribution=distribution,
        structure=structure,
        prunable=prunable,
    )
