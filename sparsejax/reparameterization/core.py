"""What reparameterizations are made of: gated weights, and four functions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sparsejax import masks as mask_trees
from sparsejax import structures, topology
from sparsejax.typing import Masks, Params, Prunable


class Reparameterization(NamedTuple):
    """What is trained in place of the parameters, and what becomes of it.

    Attributes:
      init: `(params, key) -> theta`, a pytree of arrays that any optimizer trains.
      apply: `(theta, step, key) -> params` of the forward pass at a step of training.
      finish: `theta -> (params, masks)`: ordinary parameters, which are exactly 0 off the masks,
        for evaluation and for when training has ended.
      penalty: `(theta, step) -> scalar`, to be added to the loss.
    """

    init: Callable[[Params, jax.Array], Any]
    apply: Callable[[Any, int | jax.Array, jax.Array], Params]
    finish: Callable[[Any], tuple[Params, Masks]]
    penalty: Callable[[Any, int | jax.Array], jax.Array]


class Gated(NamedTuple):
    """What stands in the place of a parameter that has a gate.

    Attributes:
      weight: An array of the parameter's shape.
      gate: What decides how much of the weight passes.
    """

    weight: jax.Array
    gate: jax.Array


def is_gated(x: Any) -> bool:
    """Whether a node of a tree is a gated parameter."""
    return isinstance(x, Gated)


def with_gates(
    params: Params,
    gate: Callable[[jax.Array, jax.Array], jax.Array],
    key: jax.Array,
    prunable: Prunable,
) -> Any:
    """Returns the parameters with a gate at each that is prunable.

    Args:
      params: Any pytree of arrays.
      gate: `(parameter, key) -> gate`; each parameter has a key of its own.
      key: A key of `jax.random`.
      prunable: `(path, leaf) -> bool`.

    Raises:
      ValueError: if no leaf is prunable.

    >>> theta = with_gates({"w": jnp.ones((1, 2)), "b": jnp.ones(2)}, lambda p, key: jnp.zeros(()),
    ...                    jax.random.key(0), mask_trees.default_prunable)
    >>> is_gated(theta["w"]), is_gated(theta["b"])
    (True, False)
    """
    names = topology.prunable_paths(params, structures.unstructured(), prunable)

    def wrap(path: tuple[Any, ...], p: jax.Array) -> Any:
        name = mask_trees.path_name(path)
        if name not in names:
            return p
        return Gated(p, gate(p, jax.random.fold_in(key, names.index(name))))

    return jax.tree_util.tree_map_with_path(wrap, params)


def map_gated(function: Callable[[Gated], Any], theta: Any, otherwise: Any = None) -> Any:
    """Returns the tree with a value in the place of each gated parameter.

    Args:
      function: `gated parameter -> value`.
      theta: A pytree with gated parameters.
      otherwise: What stands in the place of the other leaves; None for themselves.

    >>> theta = {"w": Gated(jnp.array(2.0), jnp.array(3.0)), "b": jnp.array(1.0)}
    >>> jax.tree.map(float, map_gated(lambda x: x.weight * x.gate, theta))
    {'b': 1.0, 'w': 6.0}
    """
    return jax.tree.map(
        lambda x: function(x) if is_gated(x) else x if otherwise is None else otherwise,
        theta,
        is_leaf=is_gated,
    )


def cut(theta: Any, value: Callable[[Gated], Any], mask: Callable[[Gated], Any]) -> Any:
    """Returns ordinary parameters and masks: `finish` of methods with gates.

    Args:
      theta: A pytree with gated parameters.
      value: `gated parameter -> parameter`.
      mask: `gated parameter -> mask` of those values that are kept.

    >>> theta = {"w": Gated(jnp.array([2.0, 5.0]), jnp.array([-1.0, 1.0]))}
    >>> params, masks = cut(theta, lambda x: x.weight, lambda x: x.gate > 0)
    >>> params["w"].tolist(), masks["w"].tolist()
    ([0.0, 5.0], [False, True])
    """
    masks = map_gated(mask, theta, otherwise=jnp.array(True))
    return mask_trees.apply_masks(map_gated(value, theta), masks), masks


def total(theta: Any, function: Callable[[Gated], jax.Array]) -> jax.Array:
    """Returns the sum of a function over all entries of the gated parameters, in float32.

    >>> float(total({"w": Gated(jnp.ones(2), jnp.array([2.0, 3.0]))}, lambda x: x.gate))
    5.0
    """
    gated = [x for x in jax.tree.leaves(theta, is_leaf=is_gated) if is_gated(x)]
    return sum(
        (jnp.sum(jnp.broadcast_to(function(x), x.weight.shape), dtype=jnp.float32) for x in gated),
        jnp.zeros((), jnp.float32),
    )


def no_penalty(theta: Any, step: int | jax.Array) -> jax.Array:
    """The penalty of methods that have none."""
    del theta, step
    return jnp.zeros((), jnp.float32)
