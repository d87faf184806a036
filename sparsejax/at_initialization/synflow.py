"""SynFlow: iterative synaptic flow pruning, which needs no data."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sparsejax import distributions
from sparsejax import masks as mask_trees
from sparsejax.at_initialization import rounds as in_rounds
from sparsejax.typing import Distribution, Masks, Number, Params, Prunable, Structure


def synflow(
    apply: Callable[[Params, Any], jax.Array],
    params: Params,
    inputs: Any,
    sparsity: Number,
    *,
    rounds: int = 100,
    inverted: bool = False,
    distribution: Distribution = distributions.global_,
    structure: Structure | None = None,
    prunable: Prunable = mask_trees.default_prunable,
) -> Masks:
    """Prunes before training by the flow from inputs to outputs, without data and without losing a
    layer.

    Round i of n keeps the (1 - sparsity)^(i/n) of all connections with the largest |w| · ∂R/∂|w|,
    with R the sum of the outputs of the network that round i - 1 left, of the absolute values of
    all its parameters and of inputs that are 1. What comes into a hidden unit goes out of it, so no
    layer is lost as long as there is a connection for each. Tanaka et al. 2020, arXiv 2006.05467.

    The flow grows with each layer by a factor. In float32 that of a very deep network without
    working norms may overflow; give it parameters of float64 (`jax_enable_x64`) then.

    Needs:
      The network as it is evaluated; no data.

    Args:
      apply: `(params, inputs) -> outputs`, in evaluation mode: norms use their running statistics.
      params: The parameters at initialization, any pytree of floating-point arrays.
      inputs: Inputs of one example, or their shapes and dtypes (`jax.ShapeDtypeStruct`); the values
        do not matter.
      sparsity: The fraction of weights off the mask, from 0 to 1; may be traced.
      rounds: How many rounds there are.
      inverted: Whether the connections with the smallest flow are kept instead, a test of the
        scores (Frankle et al. 2021, arXiv 2009.08576).
      distribution: Shares the budget among the layers, in each round.
      structure: What competes with what; None for unstructured.
      prunable: `(path, leaf) -> bool`.

    Returns:
      A mask tree, for `sparsejax.fixed`.

    Raises:
      ValueError: if there are no rounds, the sparsity is no fraction, no leaf is prunable, or the
        structure does not fit a leaf or cannot be so sparse.

    >>> params = {"a": jnp.array([[3.0, -1.0]]), "b": jnp.array([[-1.0], [2.0]])}
    >>> masks = synflow(lambda p, x: x @ p["a"] @ p["b"], params, jnp.ones((1, 1)), 0.5)
    >>> masks["a"].tolist(), masks["b"].tolist()
    ([[True, False]], [[True], [False]])
    """
    return in_rounds.prune_in_rounds(
        functools.partial(flow, apply, params, inputs),
        params,
        sparsity,
        rounds,
        inverted=inverted,
        distribution=distribution,
        structure=structure,
        prunable=prunable,
    )


def flow(
    apply: Callable[[Params, Any], jax.Array], params: Params, inputs: Any, masks: Masks
) -> Params:
    """Returns |w| · ∂R/∂|w| of all weights, with R the flow through the masked network.

    Args:
      apply: `(params, inputs) -> outputs`.
      params: The parameters.
      inputs: Inputs of one example, or their shapes and dtypes.
      masks: The mask tree.

    >>> params, masks = {"w": jnp.array([[3.0], [-1.0]])}, {"w": jnp.array([[True], [False]])}
    >>> flow(lambda p, x: x @ p["w"], params, jnp.zeros((1, 2)), masks)["w"].ravel().tolist()
    [3.0, 0.0]
    """
    ones = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), inputs)
    masked = mask_trees.apply_masks(jax.tree.map(jnp.abs, params), masks)
    slopes = jax.grad(lambda p: jnp.sum(apply(p, ones)))(masked)
    return jax.tree.map(jnp.multiply, masked, slopes)
