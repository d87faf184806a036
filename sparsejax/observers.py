"""Rules around rules: what a rule is shown in place of the gradients, and what is kept of its past.

Both are rules in their turn: they pass updates through unchanged.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sparsejax import masks as mask_trees
from sparsejax.typing import Masks, Params


class ExploredState(NamedTuple):
    """The state of `record_explored`.

    Attributes:
      rule_state: The state of the rule.
      explored: The entries that have been on the masks at any time so far.
    """

    rule_state: Any
    explored: Masks


def look_through(
    transformation: optax.GradientTransformation, rule: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
    """A rule that is shown what a transformation makes of the gradients, a momentum for instance.

    The optimizer gets the gradients themselves.

    Args:
      transformation: Any optax transformation of the dense gradients.
      rule: The mask rule.

    >>> import sparsejax
    >>> grow_by = look_through(optax.ema(0.9), sparsejax.rigl(0.5, period=10))
    >>> params = {"w": jnp.ones((2, 2))}
    >>> updates, state = grow_by.update(params, grow_by.init(params), params)
    >>> updates is params
    True
    """
    chain = optax.chain(transformation, rule)

    def update(
        updates: Params, state: Any, params: Params | None = None, **extra: Any
    ) -> tuple[Params, Any]:
        _, state = chain.update(updates, state, params, **extra)
        return updates, state

    return optax.GradientTransformationExtraArgs(chain.init, update)


def record_explored(rule: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """A rule that remembers which connections it has ever had: in-time over-parameterization.

    `metrics.explored` gives their share, R_s. Liu et al. 2021, arXiv 2102.02887.

    Args:
      rule: The mask rule.

    >>> import sparsejax
    >>> rule = record_explored(sparsejax.set_(0.5, period=1, drop_fraction=1.0))
    >>> params = {"w": jnp.ones((4, 4))}
    >>> state = rule.init(params)
    >>> for _ in range(3):
    ...     _, state = rule.update(params, state, params)
    >>> int(state.explored["w"].sum()) > 8
    True
    """
    rule = optax.with_extra_args_support(rule)

    def init(params: Params) -> ExploredState:
        state = rule.init(params)
        return ExploredState(state, jax.tree.map(jnp.copy, mask_trees.get_masks(state)))

    def update(
        updates: Params, state: ExploredState, params: Params | None = None, **extra: Any
    ) -> tuple[Params, ExploredState]:
        updates, rule_state = rule.update(updates, state.rule_state, params, **extra)
        masks = mask_trees.get_masks(rule_state)
        return updates, ExploredState(
            rule_state, jax.tree.map(jnp.logical_or, state.explored, masks)
        )

    return optax.GradientTransformationExtraArgs(init, update)
