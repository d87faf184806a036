"""AC/DC: alternating compressed and decompressed training."""

import jax
import jax.numpy as jnp
import optax

from sparsejax import distributions, masks, rounding, schedules, topology, transforms
from sparsejax.typing import Distribution, Number, Params, Prunable, Structure


def acdc(
    sparsity: Number,
    *,
    begin: int,
    end: int,
    period: int,
    distribution: Distribution = distributions.global_,
    structure: Structure | None = None,
    prunable: Prunable = masks.default_prunable,
) -> optax.GradientTransformationExtraArgs:
    """Trains sparse and dense in turn, and sparse at the end.

    After a dense warm-up up to `begin`, phases of `period` steps alternate. A compressed one starts
    with θ ← T_k(θ), the k largest weights, and trains these alone; a dense one trains all, those
    that were pruned from 0 on. From `end` on the network is compressed for good. A compressed phase
    that would reach `end` stays dense, so that the last masks are chosen among trained weights. The
    number of kept weights is a function of the step. Peste et al. 2021, arXiv 2106.12379, whose
    ResNet-50 warms up for 10 of 100 epochs, alternates every 5 and is compressed from the 85th on.

    Family:
      Dense to sparse.

    Needs:
      Nothing beyond the weights; the gradient is dense in the dense phases.

    Args:
      sparsity: The fraction of weights off the mask in the compressed phases, from 0 to 1; may be
        traced.
      begin: The step at which the first compressed phase begins.
      end: The step at which the last one begins.
      period: Steps of each phase between.
      distribution: Shares the budget among the layers.
      structure: What competes with what; None for unstructured.
      prunable: `(path, leaf) -> bool`.

    Returns:
      A mask rule, for `sparsify`.

    Raises:
      ValueError: if the sparsity is no fraction, or the steps are out of order; by `init`, if no
        leaf is prunable, the structure does not fit a leaf, or cannot be so sparse.

    >>> import sparsejax
    >>> tx = sparsejax.sparsify(optax.sgd(0.1), acdc(0.75, begin=1, end=6, period=2))
    >>> params = {"w": jnp.arange(1.0, 17.0).reshape(4, 4)}
    >>> state, kept = tx.init(params), []
    >>> for _ in range(7):
    ...     updates, state = tx.update({"w": jnp.ones((4, 4))}, state, params)
    ...     params = optax.apply_updates(params, updates)
    ...     kept.append(int((params["w"] != 0).sum()))
    >>> kept
    [16, 4, 4, 16, 16, 16, 4]
    """
    rounding.check_fraction("sparsity", sparsity)
    schedules.every(period, begin, end)  # refuses impossible steps

    def compressed(step: jax.Array) -> jax.Array:
        phase = (step - begin) // period
        in_turn = (step >= begin) & (phase % 2 == 0) & (begin + (phase + 1) * period < end)
        return in_turn | (step >= end)

    rule = transforms.prune(
        lambda step: jnp.where(compressed(step), sparsity, 0.0),
        when=lambda step: compressed(step) != compressed(step - 1),
        distribution=distribution,
        structure=structure,
        prunable=prunable,
    )

    def init(params: Params) -> transforms.MaskState:
        # The phases hide the sparsity from `prune`, which could not refuse it in time.
        topology.check_sparsity(params, sparsity, distribution, structure, prunable)
        return rule.init(params)

    return optax.GradientTransformationExtraArgs(init, rule.update)
