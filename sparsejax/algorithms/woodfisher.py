"""WoodFisher: the optimal brain surgeon with block-wise inverses of the Fisher information."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sparsejax import distributions, fisher, masks, rounding, schedules
from sparsejax.algorithms.gmp import gmp
from sparsejax.transforms import MaskState
from sparsejax.typing import Distribution, Masks, Number, Params, Prunable, Ramp, Structure


class WoodFisherState(NamedTuple):
    """The state of `woodfisher`.

    Attributes:
      rule_state: The state of the rule that keeps the masks.
      inverse: For each prunable weight F⁻¹ in blocks, (number of blocks, B, B); scalars elsewhere.
      shift: By what the last update moved the weights that stay.
    """

    rule_state: MaskState
    inverse: Params
    shift: Params


def woodfisher(
    sparsity: Number,
    *,
    begin: int,
    end: int,
    period: int = 100,
    initial_sparsity: Number = 0.0,
    samples: int = 1024,
    block: int = 50,
    damping: Number = 1e-7,
    schedule: Ramp = schedules.cubic,
    distribution: Distribution = distributions.global_,
    structure: Structure | None = None,
    prunable: Prunable = masks.default_prunable,
) -> optax.GradientTransformationExtraArgs:
    """Prunes where the other weights can make up for the loss, and lets them do so.

    Over the m steps up to a pruning it gathers A = F⁻¹ with F = λ I + 1/m Σ g gᵀ, in blocks of B
    along each flattened weight and by the formula of Sherman and Morrison. The weights with the
    smallest w_q² / (2 A_qq) go, over all layers together, and the others move by
    δ = - Σ_q w_q / A_qq · A e_q, before the step of the optimizer. Singh & Alistarh 2020,
    arXiv 2004.14340 (WoodFisher); the defaults are those of Kurtic et al. 2022, arXiv 2203.07259
    (oBERT). Both gather the gradients at weights that rest; here they are those of the training
    batches. Structures rank by the mean of single weights' scores.

    With `sparsify(..., replace_step=True)` a pruning takes no gradient step.

    Family:
      Dense to sparse.

    Needs:
      The gradient of the kept weights over m steps before each pruning, B float32 numbers for each
      prunable weight, and one more array of the size of the parameters.

    Args:
      sparsity: The final sparsity, reached exactly at `end`; from 0 to 1; may be traced.
      begin: The step of the first pruning.
      end: The step of the last.
      period: Steps between two prunings.
      initial_sparsity: The sparsity at `begin`.
      samples: m. Where prunings are nearer than that, the gradients since the last one count.
      block: B.
      damping: λ, above 0; may be traced.
      schedule: How the sparsity rises, as in `gmp`.
      distribution: Shares the budget among the layers.
      structure: What competes with what; None for unstructured.
      prunable: `(path, leaf) -> bool`.

    Returns:
      A mask rule, for `sparsify`.

    Raises:
      ValueError: if a sparsity is no fraction, m, B or λ is not positive, or the steps are out of
        order; by `init`, if no leaf is prunable, the structure does not fit a leaf, or cannot be so
        sparse.

    >>> import sparsejax
    >>> rule = woodfisher(0.5, begin=0, end=1, samples=1, block=2, damping=1.0)
    >>> tx = sparsejax.sparsify(optax.sgd(0.0), rule)
    >>> params, grads = {"w": jnp.array([[2.0, 1.0]])}, {"w": jnp.array([[1.0, 1.0]])}
    >>> state = tx.init(params)
    >>> for _ in range(2):
    ...     updates, state = tx.update(grads, state, params)
    ...     params = optax.apply_updates(params, updates)
    >>> params["w"].tolist()
    [[2.5, 0.0]]
    """
    for name, value in {"samples": samples, "block": block, "damping": damping}.items():
        if rounding.is_concrete(value) and not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
    when = schedules.every(period, begin, end)

    def score(params: Params, inverse: Params, key: jax.Array) -> Params:
        del key
        return jax.tree.map(
            lambda p, a: fisher.saliency(p, a) if a.ndim else jnp.zeros_like(p), params, inverse
        )

    rule = gmp(
        sparsity,
        begin=begin,
        end=end,
        period=period,
        initial_sparsity=initial_sparsity,
        schedule=schedule,
        score=score,
        distribution=distribution,
        structure=structure,
        prunable=prunable,
    )

    def fresh(params: Params, masks: Masks) -> Params:
        return jax.tree.map(
            lambda p, m: fisher.no_gradient(p.size, block, damping) if m.ndim else jnp.zeros(()),
            params,
            masks,
        )

    def init(params: Params) -> WoodFisherState:
        state = rule.init(params)
        return WoodFisherState(
            state, fresh(params, state.masks), jax.tree.map(jnp.zeros_like, params)
        )

    def update(
        updates: Params, state: WoodFisherState, params: Params | None = None, **extra: Any
    ) -> tuple[Params, WoodFisherState]:
        if params is None:
            raise ValueError("a mask rule needs the parameters: call update(grads, state, params)")
        before, count = state.rule_state.masks, state.rule_state.count

        def take_in(inverse: Params) -> Params:
            def one(a: jax.Array, g: jax.Array, m: jax.Array) -> jax.Array:
                kept = jnp.where(m, g, jnp.zeros_like(g))
                return fisher.add_gradient(a, kept, samples) if a.ndim else a

            return jax.tree.map(one, inverse, updates, before)

        soon = jnp.any(when(count + jnp.arange(samples)))
        inverse = _if(soon, take_in, state.inverse)
        # The rule ranks by the inverse, which it is shown in place of the gradients.
        _, now = rule.update(inverse, state.rule_state, params, **extra)

        def compensate(carry: tuple[Params, Params]) -> tuple[Params, Params]:
            def shift(p: jax.Array, a: jax.Array, old: jax.Array, new: jax.Array) -> jax.Array:
                if not a.ndim:
                    return jnp.zeros_like(p)
                moved = fisher.compensation(p, old & ~new, a)
                return jnp.where(new, moved, 0).astype(p.dtype)

            shifts = jax.tree.map(shift, params, carry[1], before, now.masks)
            return shifts, fresh(params, now.masks)

        nothing = jax.tree.map(jnp.zeros_like, params)
        shift, inverse = _if(now.moved, compensate, (nothing, inverse))
        return updates, WoodFisherState(now, inverse, shift)

    return optax.GradientTransformationExtraArgs(init, update)


def _if(condition: jax.Array, change: Any, carry: Any) -> Any:
    """A loop of at most one turn, which leaves the carry in place where lax.cond would copy it."""
    _, carry = jax.lax.while_loop(
        lambda x: x[0], lambda x: (jnp.zeros_like(condition), change(x[1])), (condition, carry)
    )
    return carry
