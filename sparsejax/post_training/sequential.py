"""Layer after layer: each is pruned for the inputs that the layers pruned before it leave it."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from sparsejax import distributions, masks, rounding, topology
from sparsejax.post_training.calibration import Apply, Inputs, Layer, calibrate, find_layers
from sparsejax.typing import Masks, Number, Params, Prunable, Structure

PruneLayer = Callable[..., tuple[jax.Array, jax.Array]]
"""`(weights, inputs) -> (weights, mask)` of one matrix `[inputs, outputs]` in float32; a third
argument is the mask that it begins from, where the method refines one."""


def each_alone(path: str) -> str:
    """The stages of the strictest sequence: a layer is pruned when all before it are."""
    return path


def prune_in_sequence(
    apply: Apply,
    params: Params,
    batches: Sequence[Any],
    prune_layer: PruneLayer,
    *,
    sparsity: Number,
    structure: Structure,
    prunable: Prunable = masks.default_prunable,
    stage_of: Callable[[str], str] = each_alone,
    gram: bool = False,
    first: Masks | None = None,
) -> tuple[Params, Masks]:
    """Prunes the layers in the order in which they run.

    The network runs once over the calibration data for each stage, up to its layers.

    Args:
      apply: `(params, batch) -> anything`; see `calibrate`.
      params: The parameters, any pytree of arrays.
      batches: Calibration data, at least one batch.
      prune_layer: What is done with one matrix; it is compiled, once for layers of one shape.
      sparsity: What it will be asked for: to be refused before anything is compiled.
      structure: Likewise; it sees a layer as a kernel `[inputs, outputs]`.
      prunable: `(path, leaf) -> bool`.
      stage_of: `path -> stage`; the layers of one stage are pruned for inputs that come from the
        stages before alone.
      gram: Whether `prune_layer` needs the inputs' products.
      first: Masks to hand on to `prune_layer`.

    Returns:
      The parameters, exactly 0 off the masks, in their own dtypes, and the masks.

    Raises:
      ValueError: if a layer cannot be captured, the structure does not fit it or cannot be so
        sparse, or its inputs are not finite.

    >>> from sparsejax.structures import unstructured
    >>> def keep_positive(weights, inputs):
    ...     return weights, weights > 0
    >>> params = {"w": jnp.array([[1.0, -2.0]])}
    >>> pruned, _ = prune_in_sequence(lambda p, x: x @ p["w"], params, [jnp.ones((1, 1))],
    ...                               keep_positive, sparsity=0.5, structure=unstructured())
    >>> pruned["w"].tolist()
    [[1.0, 0.0]]
    """
    batches = list(batches)
    if not batches:
        raise ValueError("calibration needs at least one batch")
    rounding.check_fraction("sparsity", sparsity)
    layers = find_layers(apply, params, batches[0], prunable=prunable)
    flat, tree = jax.tree_util.tree_flatten_with_path(params)
    leaves = {masks.path_name(path): leaf for path, leaf in flat}
    begun = None if first is None else dict(zip(leaves, _leaves(first, params), strict=True))
    _check(layers, leaves, sparsity, structure)
    run = jax.jit(jax.vmap(prune_layer))
    chosen = {path: jnp.array(True) for path in leaves}
    stages: dict[str, list[str]] = {}
    for path in layers:
        stages.setdefault(stage_of(path), []).append(path)
    for paths in stages.values():
        now = jax.tree.unflatten(tree, leaves.values())
        own = functools.partial(_is_one_of, paths)
        inputs = calibrate(apply, now, batches, prunable=own, gram=gram)
        for path in paths:
            layer, leaf = layers[path], leaves[path]
            _check_finite(path, inputs[path])
            matrices = [layer.to_matrices(leaf).astype(jnp.float32)]
            start = [] if begun is None else [layer.to_matrices(begun[path])]
            weights, kept = run(*matrices, inputs[path], *start)
            chosen[path] = layer.to_leaf(kept) > 0.5
            new = layer.to_leaf(weights).astype(leaf.dtype)
            leaves[path] = jnp.where(chosen[path], new, jnp.zeros_like(leaf))
    return jax.tree.unflatten(tree, leaves.values()), jax.tree.unflatten(tree, chosen.values())


def keep_best(scores: jax.Array, sparsity: Number, structure: Structure) -> jax.Array:
    """Returns the mask of one matrix that keeps the best scores.

    >>> from sparsejax.structures import constant_fan_in
    >>> keep_best(jnp.array([[1.0, 4.0], [2.0, 3.0]]), 0.5, constant_fan_in()).tolist()
    [[False, True], [True, False]]
    """
    chosen: jax.Array = topology.masks_from_scores(
        scores, scores, sparsity, structure=structure, prunable=lambda path, leaf: True
    )
    return chosen


def period(structure: Structure, shape: tuple[int, int], method: str) -> int | None:
    """Returns the M of an N:M structure along the inputs, None for one that lets all compete.

    Args:
      structure: The structure.
      shape: Of a matrix, inputs and outputs.
      method: The method's name, for the message.

    Raises:
      ValueError: for any other structure.

    >>> from sparsejax.structures import nm
    >>> period(nm(2, 4), (8, 3), "sparsegpt")
    4
    """
    grouped = jax.eval_shape(structure.group, jax.ShapeDtypeStruct(shape, jnp.float32)).shape
    axes = structure.axes(len(grouped))
    if grouped == shape and axes == (0, 1):
        return None
    if len(grouped) == 3 and axes == (1,) and grouped[2] == shape[1]:
        return grouped[1]
    raise ValueError(
        f"{method} prunes single weights or N:M along the inputs, not {structure.name}"
    )


def _is_one_of(paths: list[str], path: str, leaf: jax.Array) -> bool:
    del leaf
    return path in paths


def _leaves(first: Masks, params: Params) -> list[jax.Array]:
    spread = jax.tree.leaves(masks.spread(first, params))
    pairs = zip(spread, jax.tree.leaves(params), strict=True)
    return [jnp.broadcast_to(mask, leaf.shape) for mask, leaf in pairs]


def _check(
    layers: dict[str, Layer], leaves: dict[str, jax.Array], sparsity: Number, structure: Structure
) -> None:
    """Refuses what cannot be, before anything is compiled."""
    kernels = {
        path: jax.ShapeDtypeStruct(
            jax.eval_shape(layer.to_matrices, leaves[path]).shape[1:], jnp.float32
        )
        for path, layer in layers.items()
    }
    topology.check_sparsity(
        kernels, sparsity, distributions.uniform, structure, lambda path, leaf: True
    )


def _check_finite(path: str, inputs: Inputs) -> None:
    if isinstance(inputs.squares, jax.core.Tracer):
        return
    if not bool(jnp.isfinite(inputs.squares).all()):
        raise ValueError(f"the calibration inputs of {path!r} are not finite")
