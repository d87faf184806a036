"""Rules that act on both sides of the optimizer, and `behind`, which puts one around it.

Where the stored weights stay dense behind a mask, a method may have to change the gradients that
the optimizer gets as well as the updates that it gives. A `DenseRule` says both, and `behind` is
for it what `sparsify` is for a mask rule.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sparsejax.typing import Masks, Params


class DenseRule(NamedTuple):
    """A rule for weights that stay dense behind its masks.

    Attributes:
      init: `params -> state`, which has `masks` somewhere in it, those of the next forward pass.
      before: `(grads, state, params, **extra) -> grads`, what the optimizer gets.
      after: `(updates, grads, state, params) -> (updates, state)`: of the optimizer's updates and
        the gradients as they came, the updates to apply and the state with the masks of the
        weights `params + updates`.
    """

    init: Callable[[Params], Any]
    before: Callable[..., Params]
    after: Callable[[Params, Params, Any, Params], tuple[Params, Any]]


class BehindState(NamedTuple):
    """The state of `behind`.

    Attributes:
      rule_state: The state of the rule.
      inner_state: The state of the optimizer.
    """

    rule_state: Any
    inner_state: Any


def behind(
    inner: optax.GradientTransformation, rule: DenseRule
) -> optax.GradientTransformationExtraArgs:
    """Trains dense weights behind a rule's masks with any optax optimizer.

    The loss reads `forward_params(params, opt_state)`, whose gradient reaches all weights.

    Args:
      inner: Any optax transformation.
      rule: A rule of those that say they are for `behind`.

    Returns:
      A transformation that hands extra arguments on to the rule and to `inner`.

    >>> import optax, sparsejax
    >>> tx = behind(optax.sgd(1.0), sparsejax.sr_ste(0.5, decay=0.1))
    >>> params = {"w": jnp.array([[1.0, 2.0]])}
    >>> state = tx.init(params)
    >>> sparsejax.forward_params(params, state)["w"].tolist()
    [[0.0, 2.0]]
    >>> updates, state = tx.update({"w": jnp.zeros((1, 2))}, state, params)
    >>> optax.apply_updates(params, updates)["w"].tolist()
    [[0.8999999761581421, 2.0]]
    """
    inner = optax.with_extra_args_support(inner)

    def init(params: Params) -> BehindState:
        return BehindState(rule.init(params), inner.init(params))

    def update(
        updates: Params, state: BehindState, params: Params | None = None, **extra: Any
    ) -> tuple[Params, BehindState]:
        if params is None:
            raise ValueError("behind needs the parameters: call update(grads, state, params)")
        grads = rule.before(updates, state.rule_state, params, **extra)
        steps, inner_state = inner.update(grads, state.inner_state, params, **extra)
        steps, rule_state = rule.after(steps, updates, state.rule_state, params)
        return steps, BehindState(rule_state, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def restrict(updates: Params, masks: Masks) -> Params:
    """Returns updates, or gradients, that are 0 off the mask.

    In contrast to `apply_masks` the trees have one structure, holes of wrappers included.

    >>> restrict({"w": jnp.array([1.0, jnp.nan])}, {"w": jnp.array([True, False])})["w"].tolist()
    [1.0, 0.0]
    """
    return jax.tree.map(lambda u, m: jnp.where(m, u, jnp.zeros_like(u)), updates, masks)
