"""Soft thresholding: the proximal step of the lasso and of the group lasso."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from sparsejax import masks, penalties, schedules, structures, transforms
from sparsejax.typing import Amount, Masks, Number, Params, Prunable, Structure


def soft_threshold(
    coefficient: Number,
    *,
    learning_rate: Amount,
    structure: Structure | None = None,
    prunable: Prunable = masks.default_prunable,
) -> optax.GradientTransformationExtraArgs:
    """Shrinks all weights a little after every step, and to exactly 0 those that are small.

    w ← argmin_v ½ ‖v - w‖² + η λ Σ_G √|G| ‖v_G‖ = w (1 - η λ / rms(w_G))₊ after the optimizer's
    step, with G the groups that a structure keeps or removes together. Single weights by default:
    w ← sign(w) (|w| - η λ)₊. The masks keep what is left; weights come back if their gradient
    is larger than λ. Daubechies et al. 2004, arXiv math/0307152; for groups, Yuan & Lin 2006. With
    gradient descent it minimises L + λ Σ |w| exactly; behind Adam all weights shrink alike.

    Family:
      Dense to sparse.

    Needs:
      The gradient of every weight, also of those off the mask, at every step.

    Args:
      coefficient: λ, not negative; may be traced.
      learning_rate: η, the optimizer's: a number or its schedule; may be traced.
      structure: Makes the groups, as `channel` and `block` do; None for single weights.
      prunable: `(path, leaf) -> bool`.

    Returns:
      A mask rule, for `optax.chain(optimizer, rule)`.

    Raises:
      ValueError: if the coefficient is negative; by `init`, if no leaf is prunable or the structure
        does not fit one or makes no groups, as N:M.

    >>> tx = optax.chain(optax.sgd(0.5), soft_threshold(1.0, learning_rate=0.5))
    >>> params = {"w": jnp.array([[2.0, -0.25]])}
    >>> updates, _ = tx.update({"w": jnp.zeros((1, 2))}, tx.init(params), params)
    >>> optax.apply_updates(params, updates)["w"].tolist()
    [[1.5, 0.0]]
    """
    penalties.check_coefficient(coefficient)
    structure = structures.unstructured() if structure is None else structure

    def living(params: Params, threshold: Number) -> Masks:
        def larger(path: tuple[Any, ...], p: jax.Array) -> jax.Array:
            name = masks.path_name(path)
            if not prunable(name, p):
                return jnp.array(True)
            return penalties.group_rms(p, structure.at(name)) > threshold

        return jax.tree_util.tree_map_with_path(larger, params)

    def init_masks(params: Params, key: jax.Array) -> Masks:
        del key
        penalties.check_groups(params, structure, prunable)
        return living(params, 0.0)

    # It is shown the masks in place of updates.
    rule = transforms.mask_rule(
        init_masks, lambda old, params, new, key, step: new, schedules.every(1)
    )

    def update(
        updates: Params,
        state: transforms.MaskState,
        params: Params | None = None,
        **extra: Any,
    ) -> tuple[Params, transforms.MaskState]:
        if params is None:
            raise ValueError("a mask rule needs the parameters: call update(grads, state, params)")
        threshold = coefficient * schedules.value_at(learning_rate, state.count)
        stepped = optax.apply_updates(params, updates)
        new = living(stepped, threshold)

        def shrink(
            path: tuple[Any, ...], u: jax.Array, p: jax.Array, w: jax.Array, m: jax.Array
        ) -> jax.Array:
            if not m.ndim:
                return u
            size = penalties.group_rms(w, structure.at(masks.path_name(path)))
            less = threshold / jnp.where(m, size, 1) * w.astype(size.dtype)
            return jnp.where(m, u - less.astype(u.dtype), -p.astype(u.dtype))

        updates = jax.tree_util.tree_map_with_path(shrink, updates, params, stepped, new)
        _, state = rule.update(new, state, params, **extra)
        return updates, state

    return optax.GradientTransformationExtraArgs(rule.init, update)
