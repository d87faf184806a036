"""Straight-through pruning: dense weights behind a mask that is drawn anew at every step."""

import jax
import jax.numpy as jnp
import optax

from sparsejax import distributions, masks, rounding, schedules, scores, topology, transforms
from sparsejax.typing import Amount, Distribution, Masks, Params, Prunable, Score, Structure, When


def ste_magnitude(
    sparsity: Amount,
    *,
    when: When | None = None,
    distribution: Distribution = distributions.uniform,
    structure: Structure | None = None,
    prunable: Prunable = masks.default_prunable,
) -> optax.GradientTransformationExtraArgs:
    """Lets only the largest weights take part in the forward pass, while all of them learn.

    y = f(m ⊙ w) with m the mask of the largest |w|, and ∂L/∂w := ∂L/∂(m ⊙ w). Bengio et al. 2013,
    arXiv 1308.3432; as pruning, Lin et al. 2020, arXiv 2006.07253. It comes last in a chain, after
    the optimizer, so that its masks rank the weights that the next forward pass uses; the loss
    reads `forward_params(params, opt_state)`.

    Family:
      Straight-through.

    Needs:
      The dense gradient at every step.

    Args:
      sparsity: The fraction of weights off the mask, from 0 to 1: a number or a schedule; may be
        traced.
      when: At which steps the masks are drawn; None for every step.
      distribution: Shares the budget among the layers.
      structure: What competes with what; None for unstructured.
      prunable: `(path, leaf) -> bool`.

    Returns:
      A mask rule, for `optax.chain(optimizer, rule)`.

    Raises:
      ValueError: if the sparsity is no fraction; by `init`, if no leaf is prunable, the structure
        does not fit a leaf, or cannot be so sparse.

    >>> import jax.numpy as jnp, optax, sparsejax
    >>> tx = optax.chain(optax.sgd(1.0), ste_magnitude(0.5))
    >>> params = {"w": jnp.array([[1.0, 2.0]])}
    >>> state = tx.init(params)
    >>> updates, state = tx.update({"w": jnp.array([[-4.0, 0.0]])}, state, params)
    >>> params = optax.apply_updates(params, updates)
    >>> params["w"].tolist(), sparsejax.forward_params(params, state)["w"].tolist()
    ([[5.0, 2.0]], [[5.0, 0.0]])
    """
    return _ste(scores.magnitude, True, sparsity, when, distribution, structure, prunable, 0)


def ste_random(
    sparsity: Amount,
    *,
    when: When | None = None,
    distribution: Distribution = distributions.uniform,
    structure: Structure | None = None,
    prunable: Prunable = masks.default_prunable,
    seed: int | jax.Array = 0,
) -> optax.GradientTransformationExtraArgs:
    """Lets a random choice of weights take part in each forward pass, while all of them learn.

    As `ste_magnitude`, with m drawn anew at every step: the control experiment, and a form of
    DropConnect (Wan et al. 2013) with exact counts.

    Family:
      Straight-through.

    Needs:
      The dense gradient at every step.

    Args:
      sparsity: The fraction of weights off the mask, from 0 to 1: a number or a schedule; may be
        traced.
      when: At which steps the masks are drawn; None for every step.
      distribution: Shares the budget among the layers.
      structure: What competes with what; None for unstructured.
      prunable: `(path, leaf) -> bool`.
      seed: Seed of the choice; may be traced.

    Returns:
      A mask rule, for `optax.chain(optimizer, rule)`.

    Raises:
      ValueError: if the sparsity is no fraction; by `init`, if no leaf is prunable, the structure
        does not fit a leaf, or cannot be so sparse.

    >>> import jax.numpy as jnp, optax, sparsejax
    >>> tx = optax.chain(optax.sgd(1.0), ste_random(0.75))
    >>> params = {"w": jnp.ones((4, 4))}
    >>> int(sparsejax.forward_params(params, tx.init(params))["w"].sum())
    4
    """
    return _ste(scores.random, False, sparsity, when, distribution, structure, prunable, seed)


def _ste(
    score: Score,
    drifts: bool,
    sparsity: Amount,
    when: When | None,
    distribution: Distribution,
    structure: Structure | None,
    prunable: Prunable,
    seed: int | jax.Array,
) -> optax.GradientTransformationExtraArgs:
    rounding.check_fraction("sparsity", sparsity)

    def select(
        params: Params, key: jax.Array, step: int | jax.Array, near: Masks | None = None
    ) -> Masks:
        return topology.masks_from_scores(
            params,
            score(params, params, key),
            schedules.value_at(sparsity, jnp.asarray(step)),
            distribution=distribution,
            structure=structure,
            prunable=prunable,
            near=near,
        )

    def move_masks(
        old: Masks, params: Params, updates: Params, key: jax.Array, step: jax.Array
    ) -> Masks:
        # Scores that change little by little leave the masks almost as they were.
        near = old if drifts else None
        return select(optax.apply_updates(params, updates), key, step + 1, near)

    return transforms.mask_rule(
        lambda params, key: select(params, key, 0), move_masks, when or schedules.every(1), seed
    )
