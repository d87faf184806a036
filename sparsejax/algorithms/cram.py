"""CrAM: the compression-aware minimizer."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from sparsejax import distributions, masks, rounding, schedules, scores, topology
from sparsejax.algorithms import straight_through
from sparsejax.dense_rules import DenseRule
from sparsejax.transforms import MaskState
from sparsejax.typing import Amount, Distribution, Number, Params, Prunable, Structure


def cram(
    sparsity: Amount,
    *,
    radius: Number = 0.05,
    plus: bool = True,
    distribution: Distribution = distributions.global_,
    structure: Structure | None = None,
    prunable: Prunable = masks.default_prunable,
) -> DenseRule:
    """Trains a dense network that loses little when it is pruned, at any time and in one go.

    The optimizer gets ∇L(θ) + M ⊙ ∇L(T_k(θ + ρ ∇L(θ))), with T_k keeping the k largest weights and
    M its mask: CrAM+ with sparse gradients. Without `plus`, the first term is missing: CrAM. Peste
    et al. 2022, arXiv 2207.14200. The masks are those of T_k(θ), the pruned network that results;
    `params` themselves are the dense one.

    Family:
      Dense to sparse.

    Needs:
      The loss's gradient as a function: `update(grads, state, params, grad_fn=...)`, where
      `grad_fn(params)` is the gradient on this batch at any dense parameters. It is called twice
      a step; `grads` is not used.

    Args:
      sparsity: The fraction of weights off the mask, from 0 to 1: a number or a schedule, one that
        draws at random for instance (CrAM-Multi); may be traced.
      radius: ρ; may be traced.
      plus: Whether the gradient of the dense network takes part.
      distribution: Shares the budget among the layers.
      structure: What competes with what; None for unstructured.
      prunable: `(path, leaf) -> bool`.

    Returns:
      A rule for `behind(optimizer, rule)`.

    Raises:
      ValueError: if the sparsity is no fraction or ρ negative; by `init`, if no leaf is prunable,
        the structure does not fit a leaf, or cannot be so sparse; by `update`, without `grad_fn`.

    >>> import jax.numpy as jnp, sparsejax
    >>> tx = sparsejax.behind(optax.sgd(1.0), cram(0.5, radius=0.5))
    >>> params = {"w": jnp.array([[1.0, 2.0]])}
    >>> grad_fn = jax.grad(lambda p: jnp.sum(p["w"] ** 2) / 2)
    >>> updates, _ = tx.update(params, tx.init(params), params, grad_fn=grad_fn)
    >>> updates["w"].tolist()
    [[-1.0, -5.0]]
    """
    rounding.check_fraction("sparsity", sparsity)
    if rounding.is_concrete(radius) and not radius >= 0:
        raise ValueError(f"radius must not be negative, got {radius}")
    rule = straight_through.ste_magnitude(
        sparsity, distribution=distribution, structure=structure, prunable=prunable
    )

    def before(
        grads: Params,
        state: MaskState,
        params: Params,
        grad_fn: Callable[[Params], Params] | None = None,
        **extra: Any,
    ) -> Params:
        del grads, extra
        if grad_fn is None:
            raise ValueError(
                "cram needs the gradient as a function: call update(grads, state, params, "
                "grad_fn=...)"
            )
        dense = grad_fn(params)
        risen = jax.tree.map(lambda p, g: (p + radius * g).astype(p.dtype), params, dense)
        kept = topology.masks_from_scores(
            params,
            scores.magnitude(risen, risen, state.key),
            schedules.value_at(sparsity, state.count),
            distribution=distribution,
            structure=structure,
            prunable=prunable,
            near=state.masks,
        )
        sparse = masks.apply_masks(grad_fn(masks.apply_masks(risen, kept)), kept)
        return optax.tree.add(dense, sparse) if plus else sparse

    def after(
        updates: Params, grads: Params, state: MaskState, params: Params
    ) -> tuple[Params, MaskState]:
        del grads
        return rule.update(updates, state, params)

    return DenseRule(rule.init, before, after)
