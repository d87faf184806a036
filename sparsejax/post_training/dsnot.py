"""DSnoT: masks of a trained network are refined without training, by its reconstruction error."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from sparsejax import masks, structures
from sparsejax.post_training.calibration import Apply, Inputs
from sparsejax.post_training.sequential import each_alone, period, prune_in_sequence
from sparsejax.typing import Masks, Params, Prunable, Structure


def dsnot(
    apply: Apply,
    params: Params,
    batches: Sequence[Any],
    first: Masks,
    *,
    structure: Structure | None = None,
    cycles: int = 50,
    threshold: float = 5e-5,
    prunable: Prunable = masks.default_prunable,
    stage_of: Callable[[str], str] = each_alone,
) -> Masks:
    """Exchanges weights to lower the outputs' mean error. Zhang et al. 2023, arXiv 2310.08915.

    "Dynamic sparse no training". What an output o loses on average is e = Σ w_io E[x_i] over its
    pruned weights. While |e| is above the threshold, with s the sign of e, a cycle grows the weight
    that has been pruned from the start with the largest positive

        s · w_io E[x_i] / Var[x_i]

    and drops the one with the least |w_io| ‖x_i‖₂ among those kept from the start with
    s · w_io E[x_i] < 0, so that both bring e towards 0. Where there is no such pair, or it would
    not lower |e|, the output is done. (The authors' program goes on beyond 0 and back: in layers of
    few inputs it exchanges nearly all weights.) For N:M the dropped weight is the one of least
    |w_io| ‖x_i‖₂ in the group of the grown one, whatever its sign, and an output is also done when
    an exchange would change the sign of its error. No weight is changed, and no count.

    Needs:
      A few calibration batches, forward passes alone: mean, variance and norms of the inputs.

    Args:
      apply: `(params, batch) -> anything`, of any library; see `calibrate`.
      params: The trained parameters, dense: any pytree of arrays.
      batches: Calibration data.
      first: The masks to begin from, such as those of `wanda` or `magnitude_masks`.
      structure: `nm(n, m)` if they have that structure along the inputs, to keep it.
      cycles: The most exchanges of an output.
      threshold: The error that is left alone. The authors' 0.1 is of a sum over the 2,048 tokens of
        a text; this is as much a token.
      prunable: `(path, leaf) -> bool`: which layers to refine. The others are used as `first` has
        them.
      stage_of: As in `wanda`.

    Returns:
      The masks, with the count of each output as it was.

    Raises:
      ValueError: before anything is compiled, if the inputs of a layer cannot be captured, the
        structure does not fit it or is another one, or a number is impossible.

    >>> params = {"w": jnp.array([[1.0], [2.0], [3.0], [-1.0]])}
    >>> first = {"w": jnp.array([[False], [False], [True], [True]])}
    >>> x = jnp.array([[1.0, 1.0, 1.0, 1.0], [3.0, 2.0, 1.0, 2.0]])
    >>> dsnot(lambda p, x: x @ p["w"], params, [x], first, cycles=1)["w"].ravel().tolist()
    [False, True, True, False]
    """
    structure = structures.unstructured() if structure is None else structure
    if cycles < 0:
        raise ValueError(f"cycles must not be negative, got {cycles}")
    if not threshold >= 0:
        raise ValueError(f"threshold must not be negative, got {threshold}")

    def check(shape: tuple[int, ...]) -> None:
        structure.check(shape)
        period(structure, (shape[0], shape[1]), "dsnot")

    def prune_layer(
        weights: jax.Array, inputs: Inputs, begun: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        m = period(structure, (weights.shape[0], weights.shape[1]), "dsnot")
        return weights, _refined(weights, inputs, begun, m, cycles, threshold)

    sparse = masks.apply_masks(params, first)
    whole = jax.tree_util.tree_map_with_path(
        lambda path, dense, p: dense if prunable(masks.path_name(path), dense) else p,
        params,
        sparse,
    )
    _, refined = prune_in_sequence(
        apply,
        whole,
        batches,
        prune_layer,
        sparsity=0.0,
        structure=structure._replace(check=check),
        prunable=prunable,
        stage_of=stage_of,
        first=first,
    )
    return jax.tree_util.tree_map_with_path(
        lambda path, p, new, old: new if prunable(masks.path_name(path), p) else old,
        params,
        refined,
        masks.spread(first, params),
    )


def _refined(
    weights: jax.Array,
    inputs: Inputs,
    begun: jax.Array,
    m: int | None,
    cycles: int,
    threshold: float,
) -> jax.Array:
    """Refines the mask of one matrix `[inputs, outputs]`, all outputs at the same time."""
    shares = weights * inputs.mean[:, None]
    variance = jnp.maximum(inputs.variance, jnp.finfo(jnp.float32).tiny)[:, None]
    importance = jnp.abs(weights) * inputs.norms[:, None]
    error = jnp.sum(jnp.where(begun, 0, shares), axis=0)
    first_sign = jnp.sign(error)
    outputs = jnp.arange(weights.shape[1])
    place = jnp.arange(weights.shape[0])[:, None]

    def cycle(_: Any, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        mask, error, active = carry
        toward = jnp.sign(error) * shares
        growing = ~begun & ~mask & (toward > 0)
        grown = jnp.argmax(jnp.where(growing, toward / variance, -jnp.inf), axis=0)
        # What was grown is never dropped again, nor what was dropped grown.
        droppable = begun & mask & (toward < 0 if m is None else place // m == grown // m)
        dropped = jnp.argmin(jnp.where(droppable, importance, jnp.inf), axis=0)
        after = error + shares[dropped, outputs] - shares[grown, outputs]
        active &= (jnp.abs(error) > threshold) & growing.any(axis=0) & droppable.any(axis=0)
        active &= jnp.abs(after) < jnp.abs(error)
        if m is not None:
            active &= jnp.sign(after) == first_sign
        mask = mask.at[grown, outputs].set(jnp.where(active, True, mask[grown, outputs]))
        mask = mask.at[dropped, outputs].set(jnp.where(active, False, mask[dropped, outputs]))
        return mask, jnp.where(active, after, error), active

    carry = (begun, error, jnp.ones(weights.shape[1], bool))
    mask: jax.Array = jax.lax.fori_loop(0, cycles, cycle, carry)[0]
    return mask
