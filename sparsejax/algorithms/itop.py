"""ITOP: in-time over-parameterization, dynamic sparse training that explores before it exploits."""

import jax
import optax

from sparsejax import distributions, masks, observers, schedules
from sparsejax.algorithms.rigl import rigl
from sparsejax.algorithms.set import set_
from sparsejax.typing import Amount, Distribution, Prunable, Structure


def rigl_itop(
    sparsity: float | jax.Array,
    *,
    period: int = 4000,
    end: int | None = None,
    drop_fraction: Amount = 0.5,
    distribution: Distribution = distributions.erk,
    structure: Structure | None = None,
    prunable: Prunable = masks.default_prunable,
    seed: int | jax.Array = 0,
) -> optax.GradientTransformationExtraArgs:
    """RigL with many connections moved at long intervals, so that new ones have time to grow.

    As `rigl`, and the state has the connections that were ever on the masks; their share of all is
    R_s = |∪_t m(t)| / |w|, `metrics.explored`. Liu et al. 2021, arXiv 2102.02887: sparse training
    reaches the dense accuracy where R_s comes near 1. The defaults are theirs for CIFAR (batches of
    128, 250 epochs), where the masks move until the end of training.

    Family:
      Sparse to sparse.

    Needs:
      The dense gradient at the steps where the masks move.

    Args:
      sparsity: The fraction of weights off the mask, from 0 to 1; may be traced.
      period: ΔT, steps between two updates of the masks; the first comes at step `period`.
      end: T_end, the step of the last update; None for no end and no decay.
      drop_fraction: α, a number to be decayed by the cosine until `end`, or a schedule to be used
        as it is; may be traced.
      distribution: Shares the budget among the layers.
      structure: What competes with what; None for unstructured.
      prunable: `(path, leaf) -> bool`.
      seed: Seed of the first masks; may be traced.

    Returns:
      A mask rule, for `sparsify`.

    Raises:
      ValueError: as `rigl` does.

    >>> import jax.numpy as jnp, optax, sparsejax
    >>> from sparsejax.metrics import explored
    >>> tx = sparsejax.sparsify(optax.sgd(0.1), rigl_itop(0.8, period=1))
    >>> params = {"w": jnp.ones((10, 10))}
    >>> state = tx.init(params)
    >>> grads = {"w": jnp.where(sparsejax.get_masks(state)["w"], 0.0, 1.0)}
    >>> for _ in range(2):
    ...     _, state = tx.update(grads, state, params)
    >>> explored(params, state)
    0.3
    """
    rule = rigl(
        sparsity,
        period=period,
        end=end,
        drop_fraction=drop_fraction,
        distribution=distribution,
        structure=structure,
        prunable=prunable,
        seed=seed,
    )
    return observers.record_explored(rule)


def set_itop(
    sparsity: float | jax.Array,
    *,
    period: int = 1500,
    end: int | None = None,
    drop_fraction: Amount = 0.5,
    distribution: Distribution = distributions.erk,
    structure: Structure | None = None,
    prunable: Prunable = masks.default_prunable,
    seed: int | jax.Array = 0,
) -> optax.GradientTransformationExtraArgs:
    """SET with many connections moved at long intervals, so that new ones have time to grow.

    As `set_` with a drop fraction that falls along the cosine of `rigl`, and the state has the
    connections that were ever on the masks, whose share of all is `metrics.explored`. Liu et al.
    2021, arXiv 2102.02887; the defaults are theirs for CIFAR.

    Family:
      Sparse to sparse.

    Needs:
      Nothing beyond the weights.

    Args:
      sparsity: The fraction of weights off the mask, from 0 to 1; may be traced.
      period: ΔT, steps between two updates of the masks; the first comes at step `period`.
      end: The step of the last update; None for no end and no decay.
      drop_fraction: A number to be decayed by the cosine until `end`, or a schedule to be used as
        it is; may be traced.
      distribution: Shares the budget among the layers.
      structure: What competes with what; None for unstructured.
      prunable: `(path, leaf) -> bool`.
      seed: Seed of the first masks and of the growth; may be traced.

    Returns:
      A mask rule, for `sparsify`.

    Raises:
      ValueError: as `set_` does.

    >>> import jax.numpy as jnp, optax, sparsejax
    >>> from sparsejax.metrics import explored
    >>> tx = sparsejax.sparsify(optax.sgd(0.1), set_itop(0.8, period=1))
    >>> params = {"w": jnp.ones((10, 10))}
    >>> state = tx.init(params)
    >>> for _ in range(30):
    ...     _, state = tx.update(params, state, params)
    >>> int(sparsejax.get_masks(state)["w"].sum())
    20
    >>> 0.8 < explored(params, state) <= 1
    True
    """
    rule = set_(
        sparsity,
        period=period,
        end=end,
        drop_fraction=schedules.annealed(drop_fraction, end),
        distribution=distribution,
        structure=structure,
        prunable=prunable,
        seed=seed,
    )
    return observers.record_explored(rule)
