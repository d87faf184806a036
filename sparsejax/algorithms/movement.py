"""Movement pruning: by where the weights go, and not by where they are."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sparsejax import distributions, masks, rounding, schedules, topology, transforms
from sparsejax.dense_rules import DenseRule, restrict
from sparsejax.typing import Amount, Distribution, Masks, Number, Params, Prunable, Structure, When


class MovementState(NamedTuple):
    """The state of `movement` and `soft_movement`.

    Attributes:
      rule_state: The state of the rule that keeps the masks.
      scores: float32 scores of the shapes of the prunable weights; scalars elsewhere.
      score_state: The state of the scores' optimizer.
    """

    rule_state: transforms.MaskState
    scores: Params
    score_state: Any


def movement(
    sparsity: Amount,
    *,
    score_optimizer: optax.GradientTransformation | None = None,
    when: When | None = None,
    distribution: Distribution = distributions.uniform,
    structure: Structure | None = None,
    prunable: Prunable = masks.default_prunable,
) -> DenseRule:
    """Keeps the weights that training moves away from zero.

    y = f(m ⊙ w), m the mask of the highest scores S. These descend along
    ∂L/∂S = w ⊙ ∂L/∂(m ⊙ w), so that S = -Σ_t w ⊙ ∂L/∂(m ⊙ w); the weights learn on the mask alone,
    and those off it keep their values for the case that their score brings them back. Sanh et al.
    2020, arXiv 2005.07683, who let the sparsity follow `cubic` and train the scores with Adam at a
    rate of 0.01.

    Family:
      Dense to sparse.

    Needs:
      The gradient of every weight, also of those off the mask, at every step.

    Args:
      sparsity: The fraction of weights off the mask, from 0 to 1: a number or a schedule; may be
        traced.
      score_optimizer: Trains the scores; None for gradient descent at a rate of 1, the sum above.
      when: At which steps the masks are drawn; None for every step.
      distribution: Shares the budget among the layers.
      structure: What competes with what; None for unstructured.
      prunable: `(path, leaf) -> bool`.

    Returns:
      A rule for `behind(optimizer, rule)`.

    Raises:
      ValueError: if the sparsity is no fraction; by `init`, if no leaf is prunable, the structure
        does not fit a leaf, or cannot be so sparse.

    >>> import sparsejax
    >>> tx = sparsejax.behind(optax.sgd(0.1), movement(0.5))
    >>> params = {"w": jnp.array([[3.0, 2.0]])}
    >>> _, state = tx.update({"w": jnp.array([[1.0, -1.0]])}, tx.init(params), params)
    >>> sparsejax.get_masks(state)["w"].tolist()
    [[False, True]]
    """
    rounding.check_fraction("sparsity", sparsity)

    def choose(
        params: Params, scores: Params, step: int | jax.Array, near: Masks | None = None
    ) -> Masks:
        return topology.masks_from_scores(
            params,
            scores,
            schedules.value_at(sparsity, jnp.asarray(step)),
            distribution=distribution,
            structure=structure,
            prunable=prunable,
            near=near,
        )

    return _by_scores(choose, score_optimizer or optax.sgd(1.0), 0.0, when)


def soft_movement(
    threshold: Number = 0.1,
    *,
    penalty: Number,
    score_optimizer: optax.GradientTransformation | None = None,
    when: When | None = None,
    structure: Structure | None = None,
    prunable: Prunable = masks.default_prunable,
) -> DenseRule:
    """Movement pruning in which a penalty on the scores, and not a count, decides the sparsity.

    As `movement`, with m = 1(σ(S) > τ) and λ Σ σ(S) added to the loss of the scores, which begin at
    0 and so on the mask: ∂L/∂S = w ⊙ ∂L/∂(m ⊙ w) + λ σ(S)(1 - σ(S)). Sanh et al. 2020,
    arXiv 2005.07683, section 4.

    Family:
      Dense to sparse.

    Needs:
      The gradient of every weight, also of those off the mask, at every step.

    Args:
      threshold: τ, from 0 to 1; may be traced.
      penalty: λ; the larger, the fewer weights are left; may be traced.
      score_optimizer: Trains the scores; None for Adam at a rate of 0.01.
      when: At which steps the masks are drawn; None for every step.
      structure: What stands and falls together, by the mean of its scores; None for unstructured.
      prunable: `(path, leaf) -> bool`.

    Returns:
      A rule for `behind(optimizer, rule)`.

    Raises:
      ValueError: if the threshold is no fraction or the penalty negative; by `init`, if no leaf is
        prunable or the structure does not fit a leaf.

    >>> import sparsejax
    >>> rule = soft_movement(0.4, penalty=0.0, score_optimizer=optax.sgd(1.0))
    >>> tx = sparsejax.behind(optax.sgd(0.1), rule)
    >>> params = {"w": jnp.array([[3.0, 2.0]])}
    >>> _, state = tx.update({"w": jnp.array([[1.0, -1.0]])}, tx.init(params), params)
    >>> sparsejax.get_masks(state)["w"].tolist()
    [[False, True]]
    """
    rounding.check_fraction("threshold", threshold)
    if rounding.is_concrete(penalty) and not penalty >= 0:
        raise ValueError(f"penalty must not be negative, got {penalty}")

    def choose(
        params: Params, scores: Params, step: int | jax.Array, near: Masks | None = None
    ) -> Masks:
        del step, near
        # σ(S) > τ where S > log(τ / (1 - τ)).
        value = jax.scipy.special.logit(jnp.asarray(threshold, jnp.float32))
        above = functools.partial(distributions.threshold, value=value)
        return topology.masks_from_scores(
            params, scores, 0.0, distribution=above, structure=structure, prunable=prunable
        )

    return _by_scores(choose, score_optimizer or optax.adam(1e-2), penalty, when)


def _by_scores(
    choose: Callable[..., Masks],
    optimizer: optax.GradientTransformation,
    penalty: Number,
    when: When | None,
) -> DenseRule:
    """A rule of scores that are trained beside the weights."""
    rule = transforms.mask_rule(
        lambda params, key: choose(params, jax.tree.map(jnp.zeros_like, params), 0),
        lambda old, params, scores, key, step: choose(params, scores, step + 1, old),
        when or schedules.every(1),
    )

    def init(params: Params) -> MovementState:
        state = rule.init(params)
        scores = jax.tree.map(
            lambda p, m: jnp.zeros(p.shape if m.ndim else (), jnp.float32), params, state.masks
        )
        return MovementState(state, scores, optimizer.init(scores))

    def before(grads: Params, state: MovementState, params: Params, **extra: Any) -> Params:
        del params, extra
        return restrict(grads, state.rule_state.masks)

    def after(
        updates: Params, grads: Params, state: MovementState, params: Params
    ) -> tuple[Params, MovementState]:
        def slope(s: jax.Array, p: jax.Array, g: jax.Array) -> jax.Array:
            if not s.ndim:
                return jnp.zeros_like(s)
            of_loss = p.astype(s.dtype) * g.astype(s.dtype)
            return of_loss + penalty * jax.nn.sigmoid(s) * jax.nn.sigmoid(-s)

        slopes = jax.tree.map(slope, state.scores, params, grads)
        steps, score_state = optimizer.update(slopes, state.score_state, state.scores)
        scores = optax.apply_updates(state.scores, steps)
        updates = restrict(updates, state.rule_state.masks)
        _, now = rule.update(scores, state.rule_state, params)
        return updates, MovementState(now, scores, score_state)

    return DenseRule(init, before, after)
