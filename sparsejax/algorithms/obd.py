"""Optimal brain damage, with the diagonal of the Fisher information."""

import jax
import jax.numpy as jnp
import optax

from sparsejax import distributions, masks, observers, rounding, schedules
from sparsejax.algorithms.gmp import gmp
from sparsejax.typing import Distribution, Number, Params, Prunable, Ramp, Structure


def obd(
    sparsity: Number,
    *,
    begin: int,
    end: int,
    period: int = 100,
    initial_sparsity: Number = 0.0,
    decay: Number = 0.99,
    schedule: Ramp = schedules.cubic,
    distribution: Distribution = distributions.global_,
    structure: Structure | None = None,
    prunable: Prunable = masks.default_prunable,
) -> optax.GradientTransformationExtraArgs:
    """Prunes little by little the weights whose removal changes the loss least, to second order.

    F ← β F + (1 - β) (∂L/∂w)² at every step, which stands for the diagonal of the Hessian; every
    `period` steps the weights with the smallest saliency ½ F w² go, over all layers together.
    LeCun et al. 1990, Optimal brain damage; with the empirical Fisher information, Theis et al.
    2018, arXiv 1801.05787. The gradients are those of batches, whose squares are smaller than
    those of single examples by about the same factor everywhere.

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
    >>> rule = obd(0.5, begin=0, end=1)
    >>> params, grads = {"w": jnp.array([[1.0, -2.0]])}, {"w": jnp.array([[3.0, 1.0]])}
    >>> state = rule.init(params)
    >>> for _ in range(2):
    ...     _, state = rule.update(grads, state, params)
    >>> sparsejax.get_masks(state)["w"].tolist()
    [[True, False]]
    """
    rounding.check_fraction("decay", decay)

    def squares(grads: Params, params: Params) -> Params:
        # Pruned weights count for nothing, whatever their gradient.
        return jax.tree.map(
            lambda g, p: jnp.where(p == 0, 0, g).astype(jnp.float32) ** 2, grads, params
        )

    def saliency(params: Params, fisher: Params, key: jax.Array) -> Params:
        del key
        return jax.tree.map(lambda p, f: f * p.astype(f.dtype) ** 2 / 2, params, fisher)

    rule = gmp(
        sparsity,
        begin=begin,
        end=end,
        period=period,
        initial_sparsity=initial_sparsity,
        schedule=schedule,
        score=saliency,
        distribution=distribution,
        structure=structure,
        prunable=prunable,
    )
    fisher = optax.ema(decay, debias=False, accumulator_dtype=jnp.float32)
    return observers.look_through(optax.chain(optax.stateless(squares), fisher), rule)
