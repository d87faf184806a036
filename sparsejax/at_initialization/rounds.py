"""What methods before training have in common: means over batches, and pruning in rounds."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sparsejax import masks as mask_trees
from sparsejax import topology
from sparsejax.typing import Distribution, Masks, Number, Params, Prunable, Structure


def mean_over(batches: Any, function: Callable[[Any], Params]) -> Params:
    """Returns the mean of a function over batches, at least in float32.

    Args:
      batches: A pytree of arrays whose first axis counts the batches.
      function: `batch -> pytree of arrays`.

    Raises:
      ValueError: if the leaves disagree on how many batches there are, or there are none.

    >>> float(mean_over(jnp.array([[1.0, 2.0], [3.0, 4.0]]), lambda batch: batch.sum()))
    5.0
    """
    numbers = {leaf.shape[0] if leaf.ndim else 0 for leaf in jax.tree.leaves(batches)}
    if len(numbers) != 1 or 0 in numbers:
        raise ValueError(
            "batches must be arrays with one first axis in common, which counts the batches; got "
            f"the lengths {sorted(numbers)}"
        )
    (number,) = numbers

    def add(total: Params, batch: Any) -> tuple[Params, None]:
        return jax.tree.map(lambda t, x: t + x.astype(t.dtype), total, function(batch)), None

    first = jax.tree.map(lambda x: x[0], batches)
    total = jax.tree.map(
        lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32)),
        jax.eval_shape(function, first),
    )
    if number == 1:  # a scan of one would still be a loop to the compiler
        total, _ = add(total, first)
    else:
        total, _ = jax.lax.scan(add, total, batches)
    return jax.tree.map(lambda x: x / number, total)


def prune_in_rounds(
    score: Callable[[Masks], Params],
    params: Params,
    sparsity: Number,
    rounds: int,
    *,
    recover: bool = False,
    inverted: bool = False,
    distribution: Distribution,
    structure: Structure | None,
    prunable: Prunable,
) -> Masks:
    """Prunes little by little: what is left is scored anew in each round.

    Round i of n keeps a share of (1 - sparsity)^(i/n). Tanaka et al. 2020, arXiv 2006.05467; de
    Jorge et al. 2020, arXiv 2006.09081.

    Args:
      score: `masks -> scores` of all entries of the parameters, on the masks or not; the largest
        are kept.
      params: Any pytree of arrays.
      sparsity: The fraction of entries off the mask in the end; may be traced.
      rounds: How many rounds there are.
      recover: Whether pruned entries may come back in later rounds.
      inverted: Whether the smallest scores are kept instead.
      distribution: Shares the budget among the layers, in each round.
      structure: What competes with what; None for unstructured.
      prunable: `(path, leaf) -> bool`.

    Returns:
      A mask tree.

    Raises:
      ValueError: if there are no rounds, or as `masks_from_scores` does.

    >>> from sparsejax import distributions
    >>> params = {"w": jnp.array([[1.0, -2.0, 3.0, 0.5]])}
    >>> score = lambda masks: jax.tree.map(jnp.abs, mask_trees.apply_masks(params, masks))
    >>> masks = prune_in_rounds(score, params, 0.75, rounds=2, distribution=distributions.uniform,
    ...                         structure=None, prunable=mask_trees.default_prunable)
    >>> masks["w"].tolist()
    [[False, False, True, False]]
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")

    def select(scores: Params, sparsity: Number, masks: Masks | None) -> Masks:
        return topology.masks_from_scores(
            params,
            jax.tree.map(jnp.negative, scores) if inverted else scores,
            sparsity,
            distribution=distribution,
            structure=structure,
            prunable=prunable,
            first=None if recover else masks,
        )

    def one_round(i: jax.Array, masks: Masks) -> Masks:
        density = jnp.asarray(1 - sparsity, jnp.float32) ** ((i + 1) / rounds)
        return select(score(masks), 1 - density, masks)

    # What cannot be is refused here, before anything is computed.
    shapes = jax.eval_shape(lambda p: select(p, sparsity, None), params)
    masks = jax.tree.map(lambda m: jnp.ones(m.shape, bool), shapes)
    if rounds > 1:
        masks = jax.lax.fori_loop(0, rounds - 1, one_round, masks)
    # The last round stands for itself, so that a sparsity that is a Python number is met exactly.
    return select(score(masks), sparsity, masks)


def saliency(
    loss: Callable[[Params, Any], jax.Array], params: Params, batches: Any, masks: Masks
) -> Params:
    """Returns |w · ∂L/∂w| of all weights, with the loss that of the masked network.

    Args:
      loss: `(params, batch) -> mean loss of the batch`.
      params: The parameters.
      batches: Batches stacked along a first axis; the gradient is the mean over them.
      masks: The mask tree.

    >>> params, masks = {"w": jnp.array([2.0, 5.0])}, {"w": jnp.array([True, False])}
    >>> loss = lambda params, x: (params["w"] @ x) ** 2
    >>> saliency(loss, params, jnp.ones((1, 2)), masks)["w"].tolist()
    [8.0, 20.0]
    """
    masked = mask_trees.apply_masks(params, masks)
    grads = mean_over(batches, lambda batch: jax.grad(loss)(masked, batch))
    return jax.tree.map(lambda p, g: jnp.abs(p * g), params, grads)
