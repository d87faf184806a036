"""Gradual magnitude pruning."""

import jax
import optax

from sparsejax import distributions, masks, rounding, schedules, scores, topology, transforms
from sparsejax.typing import Distribution, Number, Params, Prunable, Ramp, Score, Structure


def gmp(
    sparsity: Number,
    *,
    begin: int,
    end: int,
    period: int = 100,
    initial_sparsity: Number = 0.0,
    schedule: Ramp = schedules.cubic,
    score: Score = scores.magnitude,
    distribution: Distribution = distributions.uniform,
    structure: Structure | None = None,
    prunable: Prunable = masks.default_prunable,
    seed: int | jax.Array = 0,
) -> optax.GradientTransformationExtraArgs:
    """Prunes the smallest weights little by little while the network trains.

    Every `period` steps the sparsity rises along s(t) = s_f + (s_i - s_f)(1 - (t - t_0)/(t_1 -
    t_0))³ and the weights of the lowest score go; they never come back. Zhu & Gupta 2017, arXiv
    1710.01878; Gale et al. 2019, arXiv 1902.09574. Where another schedule lets the sparsity fall,
    as `cyclic` does (Srinivas et al. 2022, arXiv 2202.01290), weights come back at 0.

    Family:
      Dense to sparse.

    Needs:
      Nothing beyond the weights, unless the score does.

    Args:
      sparsity: The final sparsity, reached exactly at `end`; from 0 to 1; may be traced.
      begin: The step of the first pruning.
      end: The step of the last.
      period: Steps between two prunings.
      initial_sparsity: The sparsity at `begin`.
      schedule: How the sparsity rises: `cubic`, `linear`, `exponential`, `cyclic` with its number
        of cycles bound, or any function `(begin, end, final, initial) -> (step -> sparsity)`.
      score: `(params, grads, key) -> scores`.
      distribution: Shares the budget among the layers.
      structure: What competes with what; None for unstructured.
      prunable: `(path, leaf) -> bool`.
      seed: Seed of random scores; may be traced.

    Returns:
      A mask rule, for `sparsify`.

    Raises:
      ValueError: if a sparsity is no fraction, or the steps are out of order; by `init`, if no leaf
        is prunable, the structure does not fit a leaf, or cannot be so sparse.

    >>> import jax.numpy as jnp, optax, sparsejax
    >>> tx = sparsejax.sparsify(optax.sgd(0.1), gmp(0.75, begin=0, end=4, period=3))
    >>> params = {"w": jnp.arange(1.0, 17.0).reshape(4, 4)}
    >>> state, kept = tx.init(params), []
    >>> for _ in range(6):
    ...     updates, state = tx.update({"w": jnp.zeros((4, 4))}, state, params)
    ...     params = optax.apply_updates(params, updates)
    ...     kept.append(int((params["w"] != 0).sum()))
    >>> kept
    [16, 16, 16, 4, 4, 4]
    """
    rounding.check_fraction("sparsity", sparsity)
    rounding.check_fraction("initial_sparsity", initial_sparsity)
    rule = transforms.prune(
        schedule(begin, end, sparsity, initial_sparsity),
        score=score,
        when=schedules.every(period, begin, end),
        distribution=distribution,
        structure=structure,
        prunable=prunable,
        seed=seed,
    )

    def init(params: Params) -> transforms.MaskState:
        # The schedule hides the final sparsity from `prune`, which could not refuse it in time.
        topology.check_sparsity(params, sparsity, distribution, structure, prunable)
        return rule.init(params)

    return optax.GradientTransformationExtraArgs(init, rule.update)
