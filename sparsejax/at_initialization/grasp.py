"""GraSP: gradient signal preservation."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sparsejax import distributions
from sparsejax import masks as mask_trees
from sparsejax.at_initialization import rounds
from sparsejax.typing import Distribution, Masks, Number, Params, Prunable, Structure


def grasp(
    loss: Callable[[Params, Any, Number], jax.Array],
    params: Params,
    batches: Any,
    sparsity: Number,
    *,
    temperature: Number = 200.0,
    inverted: bool = False,
    distribution: Distribution = distributions.global_,
    structure: Structure | None = None,
    prunable: Prunable = mask_trees.default_prunable,
) -> Masks:
    """Prunes once, before training, so that the flow of gradients through the network stays large.

    Keeps the connections with the largest w · (H g), with g the gradient of the loss and H its
    Hessian among the prunable weights: without a weight whose w · (H g) is positive, gᵀg would be
    smaller, to first order. Wang et al. 2020, arXiv 2002.07376. The product with the Hessian is the
    derivative of the gradient along g.

    Needs:
      The loss at a temperature, twice differentiable, and one batch or more; the paper takes ten
      examples of each class.

    Args:
      loss: `(params, batch, temperature) -> mean loss of the batch`, of logits that are divided by
        the temperature.
      params: The parameters at initialization, any pytree of arrays.
      batches: A pytree of arrays whose first axis counts the batches.
      sparsity: The fraction of weights off the mask, from 0 to 1; may be traced.
      temperature: What the logits are divided by; the paper's 200 makes all classes about equally
        likely.
      inverted: Whether the smallest scores are kept instead, a test of the scores (Frankle et al.
        2021, arXiv 2009.08576).
      distribution: Shares the budget among the layers.
      structure: What competes with what; None for unstructured.
      prunable: `(path, leaf) -> bool`.

    Returns:
      A mask tree, for `sparsejax.fixed`.

    Raises:
      ValueError: if there are no batches, the sparsity is no fraction, no leaf is prunable, or the
        structure does not fit a leaf or cannot be so sparse.

    >>> params = {"w": jnp.array([[1.0], [-2.0]])}
    >>> loss = lambda params, x, temperature: jnp.sum((x @ params["w"] / temperature) ** 2)
    >>> grasp(loss, params, jnp.array([[[2.0, 1.0], [0.0, 3.0]]]), 0.5)["w"].tolist()
    [[False], [True]]
    """

    def slope(params: Params, batch: Any) -> Params:
        return jax.grad(loss)(params, batch, temperature)

    def score(masks: Masks) -> Params:
        del masks  # in the only round all weights are there
        gradient = rounds.mean_over(batches, lambda batch: slope(params, batch))
        # Only what can be pruned counts as flow.
        direction = jax.tree_util.tree_map_with_path(
            lambda path, p, g: (g if prunable(mask_trees.path_name(path), p) else 0 * g).astype(
                p.dtype
            ),
            params,
            gradient,
        )

        def curvature(batch: Any) -> Params:
            return jax.jvp(lambda p: slope(p, batch), (params,), (direction,))[1]

        return jax.tree.map(jnp.multiply, params, rounds.mean_over(batches, curvature))

    return rounds.prune_in_rounds(
        score,
        params,
        sparsity,
        1,
        inverted=inverted,
        distribution=distribution,
        structure=structure,
        prunable=prunable,
    )
