"""Magnitude pruning: one shot or in rounds, to a sparsity or by a threshold."""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from sparsejax import distributions, masks, schedules, scores, transforms
from sparsejax.typing import Amount, Distribution, Number, Params, Prunable, Structure, When


def magnitude_pruning(
    sparsity: Amount | Mapping[str, Amount] | None = None,
    *,
    threshold: Number | None = None,
    quality: Number | None = None,
    when: When | None = None,
    distribution: Distribution = distributions.uniform,
    structure: Structure | None = None,
    prunable: Prunable = masks.default_prunable,
) -> optax.GradientTransformationExtraArgs:
    """Removes the smallest weights, at one step or again and again; they never come back.

    Keeps w where |w| is among the largest, or |w| > threshold, or |w| > quality × σ with σ the
    standard deviation of the layer's weights that are left. Han et al. 2015, arXiv 1506.02626.

    Family:
      Dense to sparse.

    Needs:
      Nothing beyond the weights.

    Args:
      sparsity: The fraction of weights off the mask, from 0 to 1: a number, or a schedule for
        pruning in rounds; may be traced. Or, by path pattern as in `custom`, the one of each layer;
        the layers that no pattern names stay dense.
      threshold: In place of a sparsity: the magnitude up to which weights go.
      quality: In place of a sparsity: the same in standard deviations of each layer.
      when: At which steps to prune; None for step 0 only.
      distribution: Shares the budget among the layers; thresholds and sparsities of each layer
        have none.
      structure: What competes with what; None for unstructured. Units go by their mean magnitude.
      prunable: `(path, leaf) -> bool`.

    Returns:
      A mask rule, for `sparsify`.

    Raises:
      ValueError: unless exactly one of sparsity, threshold and quality is given; if the sparsity is
        no fraction; by `init`, if no leaf is prunable, a pattern matches none, or the structure
        does not fit a leaf.

    >>> import optax, sparsejax
    >>> params = {"w": jnp.array([[0.1, -2.0], [1.0, -0.2]])}
    >>> for rule in magnitude_pruning(0.75), magnitude_pruning(threshold=0.15):
    ...     _, state = rule.update(params, rule.init(params), params)
    ...     print(sparsejax.get_masks(state)["w"].tolist())
    [[False, True], [False, False]]
    [[False, True], [True, True]]
    """
    given = {"sparsity": sparsity, "threshold": threshold, "quality": quality}
    named = [name for name, value in given.items() if value is not None]
    if len(named) != 1:
        raise ValueError(
            "magnitude pruning needs one of sparsity, threshold and quality, got "
            + (" and ".join(named) or "none")
        )
    score = scores.magnitude
    if quality is not None:
        score = _in_standard_deviations
    limit = threshold if quality is None else quality
    if limit is not None:
        distribution = functools.partial(distributions.threshold, value=limit)
    return transforms.prune(
        0.0 if sparsity is None else sparsity,
        score=score,
        when=schedules.once(0) if when is None else when,
        distribution=distribution,
        structure=structure,
        prunable=prunable,
    )


def _in_standard_deviations(params: Params, grads: Params, key: jax.Array) -> Params:
    """|w| / σ of its leaf, over the weights that are not pruned, which are those that are not 0."""
    del grads, key

    def score(p: jax.Array) -> jax.Array:
        deviation = jnp.std(p.astype(jnp.float32), where=p != 0)
        return jnp.abs(p) / deviation.astype(p.dtype)

    return jax.tree.map(score, params)
