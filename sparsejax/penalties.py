"""Penalties that make weights small or zero: the terms that they add to a gradient.

They come before the optimizer in a chain. Their proximal form, which makes zeros exact, is the rule
`soft_threshold`.
"""

import jax
import jax.numpy as jnp
import optax

from sparsejax import masks as mask_trees
from sparsejax import rounding, structures, topology
from sparsejax.typing import Number, Params, Prunable, Structure


def l1(
    coefficient: Number, *, prunable: Prunable = mask_trees.default_prunable
) -> optax.GradientTransformation:
    """Adds the gradient of λ Σ |w|, which is λ sign(w): the lasso. Tibshirani 1996.

    Args:
      coefficient: λ, not negative; may be traced.
      prunable: `(path, leaf) -> bool`, which parameters are penalised.

    Returns:
      A transformation for `optax.chain(l1(...), optimizer)`.

    Raises:
      ValueError: if the coefficient is negative; by `init`, if no leaf is prunable.

    >>> tx = l1(0.5)
    >>> params = {"w": jnp.array([[2.0, -3.0, 0.0]])}
    >>> tx.update({"w": jnp.ones((1, 3))}, tx.init(params), params)[0]["w"].tolist()
    [[1.5, 0.5, 1.0]]
    """
    return group_lasso(coefficient, structure=structures.unstructured(), prunable=prunable)


def group_lasso(
    coefficient: Number,
    *,
    structure: Structure,
    prunable: Prunable = mask_trees.default_prunable,
) -> optax.GradientTransformation:
    """Adds the gradient of λ Σ_G √|G| ‖w_G‖, which is λ w / rms(w_G): groups fade as a whole.

    A group is what the structure keeps or removes together: a channel, a block. Yuan & Lin 2006;
    for networks, Wen et al. 2016, arXiv 1608.03665.

    Args:
      coefficient: λ, not negative; may be traced.
      structure: Makes the groups: `channel`, `block`.
      prunable: `(path, leaf) -> bool`, which parameters are penalised.

    Returns:
      A transformation for `optax.chain(group_lasso(...), optimizer)`.

    Raises:
      ValueError: if the coefficient is negative; by `init`, if no leaf is prunable or the structure
        does not fit one or makes no groups, as N:M.

    >>> tx = group_lasso(1.0, structure=structures.channel())
    >>> params = {"w": jnp.array([[2.0, 0.0], [2.0, 0.0]])}
    >>> tx.update({"w": jnp.zeros((2, 2))}, tx.init(params), params)[0]["w"].tolist()
    [[1.0, 0.0], [1.0, 0.0]]
    """
    check_coefficient(coefficient)

    def init(params: Params) -> optax.EmptyState:
        check_groups(params, structure, prunable)
        return optax.EmptyState()

    def update(
        updates: Params, state: optax.EmptyState, params: Params | None = None
    ) -> tuple[Params, optax.EmptyState]:
        if params is None:
            raise ValueError("a penalty needs the parameters: call update(grads, state, params)")

        def add(path: tuple[object, ...], g: jax.Array, p: jax.Array) -> jax.Array:
            name = mask_trees.path_name(path)
            if not prunable(name, p):
                return g
            size = group_rms(p, structure.at(name))
            slope = jnp.where(size > 0, p.astype(size.dtype) / jnp.where(size > 0, size, 1), 0)
            return g + (coefficient * slope).astype(g.dtype)

        return jax.tree_util.tree_map_with_path(add, updates, params), state

    return optax.GradientTransformation(init, update)


def group_rms(weights: jax.Array, structure: Structure) -> jax.Array:
    """Returns for each weight the root mean square of its group, ‖w_G‖ / √|G|, at least float32.

    Args:
      weights: One parameter.
      structure: Makes the groups of this parameter.

    Returns:
      An array that broadcasts to the weights.

    >>> group_rms(jnp.array([[3.0, 0.0], [4.0, 0.0]]), structures.channel()) ** 2
    Array([[12.5, 0. ]], dtype=float32)
    """
    weights = weights.astype(jnp.promote_types(weights.dtype, jnp.float32))
    if structure.group(weights).size == weights.size:  # groups of one
        return jnp.abs(weights)
    # The largest weight is taken out, since squares may leave the range of floats.
    largest = jnp.maximum(jnp.max(jnp.abs(weights), initial=0), jnp.finfo(weights.dtype).tiny)
    squares = structure.group((weights / largest) ** 2)
    return largest * jnp.sqrt(structure.expand(squares, weights.shape))


def check_groups(params: Params, structure: Structure, prunable: Prunable) -> None:
    """Refuses a structure that does not fit, or that says which weights compete and nothing more.

    Raises:
      ValueError: if no leaf is prunable, or the structure does not fit one or makes no groups.
    """
    paths = topology.prunable_paths(params, structure, prunable)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = mask_trees.path_name(path)
        if name in paths:
            own = structure.at(name)
            ndim = jax.eval_shape(own.group, leaf).ndim
            if len(own.axes(ndim)) < ndim:
                raise ValueError(
                    f"{own.name} says which weights compete and makes no groups of them; "
                    "a group lasso needs a structure such as channel or block"
                )


def check_coefficient(coefficient: Number) -> None:
    """Refuses a negative coefficient.

    Raises:
      ValueError: if it is a negative number of the host.
    """
    if rounding.is_concrete(coefficient) and not coefficient >= 0:
        raise ValueError(f"coefficient must not be negative, got {coefficient}")
