"""How a trained network bears pruning without retraining: each layer alone, and all together."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sparsejax import distributions, masks, structures, topology
from sparsejax.typing import Distribution, Params, Prunable, Structure


class Sensitivity(NamedTuple):
    """What became of a network of which something was pruned.

    Attributes:
      layer: The path of the parameter that was pruned; None where all were pruned together.
      sparsity: The fraction of its entries, or of all, that was set to 0.
      value: What was measured of the network.
    """

    layer: str | None
    sparsity: float
    value: Any


def sensitivity(
    evaluate: Callable[[Params], Any],
    params: Params,
    sparsities: Sequence[float],
    *,
    scores: Params | None = None,
    distribution: Distribution = distributions.uniform,
    structure: Structure | None = None,
    prunable: Prunable = masks.default_prunable,
) -> Iterator[Sensitivity]:
    """Measures a network of which one layer is pruned, each in turn, and then of which all are.

    Figures 5 and 6 of Han et al. 2015, arXiv 1506.02626. Nothing is trained and `params` stays as
    it is. Each measurement is made when the iterator comes to it, so that they can be shown, or
    stopped, one by one; `list(sensitivity(...))` is the table.

    Args:
      evaluate: `params -> value`, such as a jitted function that gives the accuracy. It is called
        once for each layer and sparsity with parameters of the same shapes, so it compiles once.
      params: The parameters of the trained network, any pytree of arrays.
      sparsities: The fractions of entries to prune, each from 0 to 1.
      scores: Real arrays of the shapes of `params`; the smallest go first. None for the magnitudes.
      distribution: Shares the budget among the layers where all are pruned.
      structure: What competes with what; None for unstructured.
      prunable: `(path, leaf) -> bool`.

    Yields:
      For each prunable parameter in the order of the tree, then for all of them, the results in the
      order of `sparsities`.

    Raises:
      ValueError: before the first measurement, if a sparsity is no fraction, no leaf is prunable,
        or the structure does not fit a leaf.

    >>> params = {"a": jnp.array([[1.0, -4.0]]), "b": jnp.array([[2.0], [3.0]])}
    >>> total = lambda p: float(abs(p["a"]).sum() + abs(p["b"]).sum())
    >>> for layer, sparsity, value in sensitivity(total, params, [0.5]):
    ...     print(layer, sparsity, value)
    a 0.5 9.0
    b 0.5 8.0
    None 0.5 7.0
    """
    structure = structures.unstructured() if structure is None else structure
    scores = jax.tree.map(jnp.abs, params) if scores is None else scores
    layers = topology.prunable_paths(params, structure, prunable)
    for sparsity in sparsities:
        topology.check_sparsity(params, sparsity, distribution, structure, prunable)

    def pruned(layer: str | None, sparsity: float) -> Params:
        kept = topology.masks_from_scores(
            params,
            scores,
            sparsity,
            distribution=distribution if layer is None else distributions.uniform,
            structure=structure,
            prunable=lambda path, leaf: path in layers if layer is None else path == layer,
        )
        return masks.apply_masks(params, kept)

    return (
        Sensitivity(layer, sparsity, evaluate(pruned(layer, sparsity)))
        for layer in (*layers, None)
        for sparsity in sparsities
    )
