"""Top-KAST: top-k always sparse training."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sparsejax import distributions, masks, rounding, schedules, scores, selection, topology
from sparsejax.algorithms import straight_through
from sparsejax.dense_rules import DenseRule, restrict
from sparsejax.transforms import MaskState
from sparsejax.typing import Amount, Distribution, Masks, Number, Params, Prunable, Structure, When


class TopKastState(NamedTuple):
    """The state of `top_kast`.

    Attributes:
      rule_state: The state of the rule of the forward set A, with its masks.
      backward: The mask tree of the backward set B, which contains A.
    """

    rule_state: MaskState
    backward: Masks


def top_kast(
    sparsity: Amount,
    *,
    backward_sparsity: Amount,
    decay: Number = 1e-4,
    when: When | None = None,
    distribution: Distribution = distributions.uniform,
    structure: Structure | None = None,
    prunable: Prunable = masks.default_prunable,
) -> DenseRule:
    """Lets the largest weights take part in the forward pass, and somewhat more of them learn.

    A is the set of the largest |w|, B ⊇ A a larger one. y = f(1_A ⊙ w); the optimizer gets
    1_B ⊙ (∂L/∂(1_A ⊙ w) + ∂R/∂w) with the exploration penalty R = λ/2 (Σ_A w² + Σ_{B∖A} w² / D),
    D the density of A in the layer, and its updates are restricted to B: all other weights stay as
    they are. Jayakumar et al. 2020, arXiv 2106.03517, with masks drawn at every step; every 100
    steps do as well there.

    Family:
      Straight-through.

    Needs:
      The gradient of the weights in B.

    Args:
      sparsity: The fraction of weights outside of A, from 0 to 1: a number or a schedule; may be
        traced.
      backward_sparsity: The fraction outside of B, likewise, and not larger.
      decay: λ, the coefficient of the exploration penalty; may be traced.
      when: At which steps the sets are drawn; None for every step.
      distribution: Shares the budgets among the layers.
      structure: What competes with what; None for unstructured.
      prunable: `(path, leaf) -> bool`.

    Returns:
      A rule for `behind(optimizer, rule)`.

    Raises:
      ValueError: if a sparsity is no fraction, B smaller than A, or λ negative; by `init`, if no
        leaf is prunable, the structure does not fit a leaf, or cannot be so sparse.

    >>> import sparsejax
    >>> rule = top_kast(0.75, backward_sparsity=0.5, decay=0.0)
    >>> tx = sparsejax.behind(optax.sgd(1.0), rule)
    >>> params = {"w": jnp.array([[1.0, 4.0], [3.0, 2.0]])}
    >>> updates, _ = tx.update({"w": jnp.ones((2, 2))}, tx.init(params), params)
    >>> updates["w"].tolist()
    [[0.0, -1.0], [-1.0, 0.0]]
    """
    rounding.check_fraction("sparsity", sparsity)
    rounding.check_fraction("backward_sparsity", backward_sparsity)
    known = rounding.is_concrete(sparsity) and rounding.is_concrete(backward_sparsity)
    if known and backward_sparsity > sparsity:  # type: ignore[operator]
        raise ValueError(
            "the backward set contains the forward set, so that backward_sparsity is at most "
            f"{sparsity}, got {backward_sparsity}"
        )
    if rounding.is_concrete(decay) and not decay >= 0:
        raise ValueError(f"decay must not be negative, got {decay}")
    forward = straight_through.ste_magnitude(
        sparsity, when=when, distribution=distribution, structure=structure, prunable=prunable
    )

    def backward_set(params: Params, state: MaskState, near: Masks | None) -> Masks:
        return topology.masks_from_scores(
            params,
            scores.magnitude(params, params, state.key),
            schedules.value_at(backward_sparsity, state.count),
            distribution=distribution,
            structure=structure,
            prunable=prunable,
            first=state.masks,
            near=near,
        )

    def init(params: Params) -> TopKastState:
        state = forward.init(params)
        return TopKastState(state, backward_set(params, state, None))

    def before(grads: Params, state: TopKastState, params: Params, **extra: Any) -> Params:
        del extra

        def penalised(g: jax.Array, p: jax.Array, m: jax.Array) -> jax.Array:
            if not m.ndim:
                return g
            kept = selection.count(m, tuple(range(m.ndim)))
            density = jnp.maximum(kept, 1) / max(m.size, 1)
            return g + (decay * p * jnp.where(m, 1, 1 / density)).astype(g.dtype)

        grads = jax.tree.map(penalised, grads, params, state.rule_state.masks)
        return restrict(grads, state.backward)

    def after(
        updates: Params, grads: Params, state: TopKastState, params: Params
    ) -> tuple[Params, TopKastState]:
        del grads
        updates = restrict(updates, state.backward)
        _, now = forward.update(updates, state.rule_state, params)
        backward = jax.lax.cond(
            now.moved,
            lambda: backward_set(optax.apply_updates(params, updates), now, state.backward),
            lambda: state.backward,
        )
        return updates, TopKastState(now, backward)

    return DenseRule(init, before, after)
