"""Wanda: pruning after training by weights and activations."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from sparsejax import masks, structures
from sparsejax.post_training.calibration import Apply, Inputs
from sparsejax.post_training.sequential import each_alone, keep_best, prune_in_sequence
from sparsejax.typing import Masks, Number, Params, Prunable, Structure


def wanda(
    apply: Apply,
    params: Params,
    batches: Sequence[Any],
    sparsity: Number,
    *,
    structure: Structure | None = None,
    prunable: Prunable = masks.default_prunable,
    stage_of: Callable[[str], str] = each_alone,
) -> Masks:
    """Keeps the weights that matter for the activations at hand. Sun et al. 2023, arXiv 2306.11695.

    The weight from input i to output o has the score

        |w_io| · ‖x_i‖₂

    with the norm over all inputs of the layer, and competes with the other weights of its output.
    The layers are pruned in the order in which they run, each for the inputs that the pruned ones
    before leave it. No weight is changed.

    Needs:
      A few calibration batches, forward passes alone: the norms of the layers' inputs.

    Args:
      apply: `(params, batch) -> anything`, of any library; see `calibrate`.
      params: The trained parameters, any pytree of arrays.
      batches: Calibration data; the paper takes 128 texts of 2,048 tokens.
      sparsity: The fraction of each layer off the mask, from 0 to 1; may be traced.
      structure: What competes with what in a kernel `[inputs, outputs]`, as which every layer is
        seen; None for the weights of one output. `nm(2, 4)` is the paper's 2:4.
      prunable: `(path, leaf) -> bool`. The paper leaves embeddings and the last layer dense.
      stage_of: `path -> stage`; layers of one stage are pruned for the inputs that the stages
        before leave, which takes one pass for all of them. The paper's stages are the blocks of a
        transformer; by default each layer is one.

    Returns:
      The masks.

    Raises:
      ValueError: before anything is compiled, if the inputs of a layer cannot be captured, the
        structure does not fit it, or the sparsity is impossible.

    >>> params = {"w": jnp.array([[1.0, 3.0], [2.0, 2.0]])}
    >>> apply = lambda p, x: x @ p["w"]
    >>> wanda(apply, params, [jnp.array([[5.0, 2.0]])], 0.5)["w"].tolist()
    [[True, True], [False, False]]
    """
    structure = structures.constant_fan_in() if structure is None else structure

    def prune_layer(weights: jax.Array, inputs: Inputs) -> tuple[jax.Array, jax.Array]:
        scores = jnp.abs(weights) * inputs.norms[:, None]
        return weights, keep_best(scores, sparsity, structure)

    _, chosen = prune_in_sequence(
        apply,
        params,
        batches,
        prune_layer,
        sparsity=sparsity,
        structure=structure,
        prunable=prunable,
        stage_of=stage_of,
    )
    return chosen
