"""Taylor pruning: by the first-order change of the loss."""

import jax
import jax.numpy as jnp
import optax

from sparsejax import distributions, masks, observers, rounding, schedules
from sparsejax.algorithms.gmp import gmp
from sparsejax.typing import Distribution, Number, Params, Prunable, Ramp, Structure


def taylor(
    sparsity: Number,
    *,
    begin: int,
    end: int,
    period: int = 100,
    initial_sparsity: Number = 0.0,
    decay: Number = 0.9,
    schedule: Ramp = schedules.linear,
    distribution: Distribution = distributions.global_,
    structure: Structure | None = None,
    prunable: Prunable = masks.default_prunable,
) -> optax.GradientTransformationExtraArgs:
    """Prunes little by little the weights whose removal changes the loss least, to first order.

    Θ ← β Θ + (1 - β) |w · ∂L/∂w| at every step; every `period` steps the weights, or the channels
    by their mean Θ, with the smallest go, over all layers together and as many every time.
    Molchanov et al. 2017, arXiv 1611.06440; as a running mean over weights, Molchanov et al. 2019,
    arXiv 1906.10771.

    Family:
      Dense to sparse.

    Needs:
      The gradient of the kept weights at every step, and one more float32 array of the size of the
      parameters.

    Args:
      sparsity: The final sparsity, reached exactly at `end`; from 0 to 1; may be traced.
      begin: The step of the first pruning.
      end: The step of the last.
      period: Steps between two prunings.
      initial_sparsity: The sparsity at `begin`.
      decay: β, how much of the mean a step leaves; may be traced.
      schedule: How the sparsity rises, as in `gmp`.
      distribution: Shares the budget among the layers.
      structure: What competes with what; None for unstructured.
      prunable: `(path, leaf) -> bool`.

    Returns:
      A mask rule, for `sparsify`.

    Raises:
      ValueError: if a fraction is none, or the steps are out of order; by `init`, if no leaf is
        prunable, the structure does not fit a leaf, or cannot be so sparse.

    >>> import sparsejax
    >>> rule = taylor(0.5, begin=0, end=1)
    >>> params, grads = {"w": jnp.array([[1.0, -2.0]])}, {"w": jnp.array([[5.0, 1.0]])}
    >>> state = rule.init(params)
    >>> for _ in range(2):
    ...     _, state = rule.update(grads, state, params)
    >>> sparsejax.get_masks(state)["w"].tolist()
    [[True, False]]
    """
    rounding.check_fraction("decay", decay)

    def change(grads: Params, params: Params) -> Params:
        # What is pruned changes nothing, whatever its gradient.
        return jax.tree.map(
            lambda g, p: jnp.where(p == 0, 0, jnp.abs(p * g)).astype(jnp.float32), grads, params
        )

    rule = gmp(
        sparsity,
        begin=begin,
        end=end,
        period=period,
        initial_sparsity=initial_sparsity,
        schedule=schedule,
        score=lambda params, means, key: means,
        distribution=distribution,
        structure=structure,
        prunable=prunable,
    )
    means = optax.ema(decay, debias=False, accumulator_dtype=jnp.float32)
    return observers.look_through(optax.chain(optax.stateless(change), means), rule)
