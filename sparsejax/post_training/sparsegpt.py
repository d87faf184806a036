"""SparseGPT: pruning after training, the weights that are left making up for those that go."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sparsejax import masks, rounding, selection, structures
from sparsejax.post_training.calibration import Apply, Inputs
from sparsejax.post_training.sequential import each_alone, keep_best, period, prune_in_sequence
from sparsejax.typing import Masks, Number, Params, Prunable, Structure

_HIGHEST = jax.lax.Precision.HIGHEST


class Pruned(NamedTuple):
    """A network that was pruned.

    Attributes:
      params: The parameters, exactly 0 off the masks.
      masks: The masks.
    """

    params: Params
    masks: Masks


def sparsegpt(
    apply: Apply,
    params: Params,
    batches: Sequence[Any],
    sparsity: Number,
    *,
    structure: Structure | None = None,
    block_size: int = 128,
    dampening: float = 0.01,
    prunable: Prunable = masks.default_prunable,
    stage_of: Callable[[str], str] = each_alone,
) -> Pruned:
    """Prunes input by input and corrects the rest. Frantar & Alistarh 2023, arXiv 2301.00774.

    Each layer's squared error on its calibration inputs has the Hessian H = Σ x xᵀ + λ I, λ being
    the dampening's share of the mean of its diagonal. With the Cholesky factor H⁻¹ = Uᵀ U, U upper
    triangular, the weight from input i to output o has the score

        w_io² / U_ii²

    The inputs are taken in their order. For each weight that goes, those of the same output and of
    later inputs j > i move by -U_ij w_io / U_ii, the optimal brain surgeon's step given that the
    inputs before i are settled. The masks are chosen from the weights as they then are: block after
    block of the inputs, where all weights of the block compete, or at each group of M. The updates
    of later blocks are made at once, at a block's end.

    Weights of inputs that are always 0 become 0 too, as in the authors' program. The layers are
    pruned in the order in which they run, each for the inputs that the pruned ones before leave it.
    All arithmetic is in float32.

    Needs:
      A few calibration batches, forward passes alone: the products of the layers' inputs.

    Args:
      apply: `(params, batch) -> anything`, of any library; see `calibrate`.
      params: The trained parameters, any pytree of arrays.
      batches: Calibration data; the paper takes 128 texts of 2,048 tokens.
      sparsity: The fraction of each layer off the mask, from 0 to 1; may be traced.
      structure: None for unstructured, or `nm(n, m)` along the inputs of a kernel
        `[inputs, outputs]`, as which every layer is seen.
      block_size: Inputs in a block.
      dampening: λ as a share of the mean of the diagonal of Σ x xᵀ.
      prunable: `(path, leaf) -> bool`. The paper leaves embeddings and the last layer dense.
      stage_of: As in `wanda`.

    Returns:
      The parameters and the masks.

    Raises:
      ValueError: before anything is compiled, if the inputs of a layer cannot be captured, the
        structure does not fit it or is another one, or a number is impossible.

    >>> params = {"w": jnp.array([[1.0], [2.0]])}
    >>> same = jnp.array([[1.0, 1.0], [2.0, 2.0]])  # the second input can speak for the first
    >>> pruned = sparsegpt(lambda p, x: x @ p["w"], params, [same], 0.5, dampening=1e-4)
    >>> pruned.masks["w"].tolist(), pruned.params["w"].round(2).tolist()
    ([[False], [True]], [[0.0], [3.0]])
    """
    structure = structures.unstructured() if structure is None else structure
    if block_size < 1:
        raise ValueError(f"block_size must be at least 1, got {block_size}")
    if not dampening > 0:
        raise ValueError(f"dampening must be positive, got {dampening}")

    def check(shape: tuple[int, ...]) -> None:
        structure.check(shape)
        m = period(structure, (shape[0], shape[1]), "sparsegpt")
        if m is not None and min(block_size, shape[0]) % m:
            raise ValueError(f"{m} must divide the block size, {block_size}")

    def prune_layer(weights: jax.Array, inputs: Inputs) -> tuple[jax.Array, jax.Array]:
        upper, dead = _inverse_factor(inputs, dampening)
        weights = jnp.where(dead[:, None], 0, weights)
        m = period(structure, (weights.shape[0], weights.shape[1]), "sparsegpt")

        def choose(scores: jax.Array, k: jax.Array) -> jax.Array:
            if m is None:
                return selection.top_k_mask(scores, k)
            return keep_best(scores, sparsity, structure)

        return _prune(weights, upper, sparsity, block_size, m, choose)

    return Pruned(
        *prune_in_sequence(
            apply,
            params,
            batches,
            prune_layer,
            sparsity=sparsity,
            structure=structure._replace(check=check),
            prunable=prunable,
            stage_of=stage_of,
            gram=True,
        )
    )


def _inverse_factor(inputs: Inputs, dampening: float) -> tuple[jax.Array, jax.Array]:
    """The factor U of the inverse Hessian, and which inputs are always 0."""
    assert inputs.gram is not None
    hessian = inputs.gram / inputs.count
    dead = jnp.diagonal(hessian) == 0
    hessian = hessian + jnp.diag(dead.astype(hessian.dtype))
    one = jnp.eye(len(hessian), dtype=hessian.dtype)
    hessian = hessian + dampening * jnp.mean(jnp.diagonal(hessian)) * one
    inverse = jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(hessian), one)
    return jnp.linalg.cholesky(inverse, upper=True), dead


def _prune(
    weights: jax.Array,
    upper: jax.Array,
    sparsity: Number,
    block_size: int,
    m: int | None,
    choose: Callable[[jax.Array, jax.Array], jax.Array],
) -> tuple[jax.Array, jax.Array]:
    """Prunes a matrix `[inputs, outputs]` block after block."""
    inputs, outputs = weights.shape
    size = min(block_size, inputs)
    # How many are kept up to each block's end is rounded, so that the total is exact.
    ends = [0, *range(size, inputs + 1, size)] + ([inputs] if inputs % size else [])
    kept = [jnp.asarray(rounding.portion(n * outputs, 1 - sparsity), jnp.uint32) for n in ends]
    counts = jnp.diff(jnp.stack(kept))

    def block(
        number: jax.Array | int, carry: tuple[jax.Array, jax.Array], size: int
    ) -> tuple[jax.Array, jax.Array]:
        weights, mask = carry
        first = number * ends[1]
        rows = jax.lax.dynamic_slice_in_dim(upper, first, size)
        corner = jax.lax.dynamic_slice_in_dim(rows, first, size, axis=1)
        own = jax.lax.dynamic_slice_in_dim(weights, first, size)
        own, chosen, errors = _block(own, corner, m or size, lambda s: choose(s, counts[number]))
        later = jnp.where(jnp.arange(inputs) >= first + size, rows, 0)
        weights = weights - jnp.matmul(later.T, errors, precision=_HIGHEST)
        weights = jax.lax.dynamic_update_slice_in_dim(weights, own, first, axis=0)
        return weights, jax.lax.dynamic_update_slice_in_dim(mask, chosen, first, axis=0)

    whole = inputs // size
    carry = (weights, jnp.ones(weights.shape, bool))
    carry = jax.lax.fori_loop(0, whole, lambda i, carry: block(i, carry, size), carry)
    if inputs % size:
        carry = block(whole, carry, inputs % size)
    return carry


def _block(
    weights: jax.Array, upper: jax.Array, m: int, choose: Callable[[jax.Array], jax.Array]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Prunes a block, m inputs for m; returns weights, mask and what the inputs' steps hang on."""
    scale = jnp.diagonal(upper)[:, None]

    def one_input(i: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        weights, mask, errors = carry
        error = jnp.where(mask[i], 0, weights[i]) / scale[i]
        return weights - upper[i][:, None] * error, mask, errors.at[i].set(error)

    def group(number: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        weights, mask, errors = carry
        first = number * m
        scores = jax.lax.dynamic_slice_in_dim((weights / scale) ** 2, first, m)
        mask = jax.lax.dynamic_update_slice_in_dim(mask, choose(scores), first, axis=0)
        return jax.lax.fori_loop(first, first + m, one_input, (weights, mask, errors))

    carry = (weights, jnp.ones(weights.shape, bool), jnp.zeros_like(weights))
    weights, mask, errors = jax.lax.fori_loop(0, len(weights) // m, group, carry)
    return weights, mask, errors
