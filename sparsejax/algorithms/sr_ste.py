"""SR-STE: sparse-refined straight-through estimation."""

from typing import Any

import jax
import jax.numpy as jnp

from sparsejax import distributions, masks, rounding
from sparsejax.algorithms import straight_through
from sparsejax.dense_rules import DenseRule
from sparsejax.transforms import MaskState
from sparsejax.typing import Amount, Distribution, Number, Params, Prunable, Structure, When


def sr_ste(
    sparsity: Amount,
    *,
    decay: Number = 2e-4,
    when: When | None = None,
    distribution: Distribution = distributions.uniform,
    structure: Structure | None = None,
    prunable: Prunable = masks.default_prunable,
) -> DenseRule:
    """Straight-through pruning that lets the weights off the mask fade, so that masks settle.

    y = f(m ⊙ w) with m the mask of the largest |w|, and the optimizer gets the gradient
    ∂L/∂(m ⊙ w) + λ (1 - m) ⊙ w. Zhou et al. 2021, arXiv 2102.04010, for N:M sparsity:
    `sr_ste(0.5, structure=nm(2, 4))`; λ is the paper's.

    Family:
      Straight-through.

    Needs:
      The gradient of every weight, also of those off the mask, at every step.

    Args:
      sparsity: The fraction of weights off the mask, from 0 to 1: a number or a schedule; may be
        traced. For N:M it is 1 - N/M.
      decay: λ, the coefficient of the sparse-refined term; may be traced.
      when: At which steps the masks are drawn; None for every step.
      distribution: Shares the budget among the layers.
      structure: What competes with what; None for unstructured.
      prunable: `(path, leaf) -> bool`.

    Returns:
      A rule for `behind(optimizer, rule)`.

    Raises:
      ValueError: if the sparsity is no fraction or λ negative; by `init`, if no leaf is prunable,
        the structure does not fit a leaf, or cannot be so sparse.

    >>> import optax, sparsejax
    >>> tx = sparsejax.behind(optax.sgd(1.0), sr_ste(0.5, decay=0.5))
    >>> params = {"w": jnp.array([[1.0, 2.0]])}
    >>> updates, _ = tx.update({"w": jnp.ones((1, 2))}, tx.init(params), params)
    >>> updates["w"].tolist()
    [[-1.5, -1.0]]
    """
    if rounding.is_concrete(decay) and not decay >= 0:
        raise ValueError(f"decay must not be negative, got {decay}")
    rule = straight_through.ste_magnitude(
        sparsity, when=when, distribution=distribution, structure=structure, prunable=prunable
    )

    def before(grads: Params, state: MaskState, params: Params, **extra: Any) -> Params:
        del extra
        return jax.tree.map(
            lambda g, p, m: jnp.where(m, g, g + (decay * p).astype(g.dtype)),
            grads,
            params,
            state.masks,
        )

    def after(
        updates: Params, grads: Params, state: MaskState, params: Params
    ) -> tuple[Params, MaskState]:
        del grads
        return rule.update(updates, state, params)

    return DenseRule(rule.init, before, after)
