"""SNIP: single-shot network pruning based on connection sensitivity."""

import jax
import optax

from sparsejax import distributions, masks, schedules, scores, transforms
from sparsejax.typing import Distribution, Prunable, Structure


def snip(
    sparsity: float | jax.Array,
    *,
    at: int = 0,
    distribution: Distribution = distributions.global_,
    structure: Structure | None = None,
    prunable: Prunable = masks.default_prunable,
) -> optax.GradientTransformationExtraArgs:
    """Prunes once, before training, by the sensitivity of the loss on one batch.

    Keeps the connections with the largest |w · ∂L/∂w|, over all layers together. Lee et al. 2019,
    arXiv 1810.02340. The gradient is that of the first batch; with `sparsify(...,
    replace_step=True)` it only ranks, as in the paper.

    Family:
      Before training.

    Needs:
      The gradient of one batch before training.

    Args:
      sparsity: The fraction of weights off the mask, from 0 to 1; may be traced.
      at: The step at which to prune.
      distribution: Shares the budget among the layers.
      structure: What competes with what; None for unstructured.
      prunable: `(path, leaf) -> bool`.

    Returns:
      A mask rule, for `sparsify`.

    Raises:
      ValueError: if the sparsity is no fraction or the step negative; by `init`, if no leaf is
        prunable, the structure does not fit a leaf, or cannot be so sparse.

    >>> import jax.numpy as jnp, sparsejax
    >>> rule = snip(0.5)
    >>> params, grads = {"w": jnp.array([[1.0, -2.0]])}, {"w": jnp.array([[5.0, 1.0]])}
    >>> _, state = rule.update(grads, rule.init(params), params)
    >>> sparsejax.get_masks(state)["w"].tolist()
    [[True, False]]
    """
    return transforms.prune(
        sparsity,
        score=scores.saliency,
        when=schedules.once(at),
        distribution=distribution,
        structure=structure,
        prunable=prunable,
    )
