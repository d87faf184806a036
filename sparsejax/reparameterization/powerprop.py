"""Powerpropagation: weights that are powers of what is trained."""

from typing import Any

import jax
import jax.numpy as jnp

from sparsejax import distributions, rounding, structures, topology
from sparsejax import masks as mask_trees
from sparsejax.reparameterization import core
from sparsejax.typing import Distribution, Masks, Number, Params, Prunable, Structure


def powerprop(
    sparsity: Number,
    *,
    alpha: float | jax.Array = 2.0,
    distribution: Distribution = distributions.uniform,
    structure: Structure | None = None,
    prunable: Prunable = mask_trees.default_prunable,
) -> core.Reparameterization:
    """Lets large weights learn faster than small ones, so that many stay near 0 to be pruned.

    w = v |v|^(α - 1), so that ∂L/∂v = α |v|^(α - 1) ∂L/∂w: the rich get richer. In the end the
    smallest |w| are pruned. Schwarz et al. 2021, arXiv 2110.00296. w is 0 where v is, so any mask
    rule can train v under `sparsify` just as well.

    Needs:
      Nothing beyond the weights.

    Args:
      sparsity: The fraction of weights that `finish` prunes, from 0 to 1; may be traced.
      alpha: The power α, at least 1, where it changes nothing; may be traced. The paper tries 2 to
        5.
      distribution: Shares the budget among the layers.
      structure: What competes with what; None for unstructured.
      prunable: `(path, leaf) -> bool`.

    Returns:
      The reparameterization.

    Raises:
      ValueError: if the sparsity is no fraction or `alpha` is below 1; by `init`, if no leaf is
        prunable, the structure does not fit a leaf, or cannot be so sparse.

    >>> method = powerprop(0.5, alpha=2.0)
    >>> theta = method.init({"w": jnp.array([[9.0, -4.0]])}, jax.random.key(0))
    >>> theta["w"].tolist(), method.finish(theta)[0]["w"].tolist()
    ([[3.0, -2.0]], [[9.0, 0.0]])
    """
    rounding.check_fraction("sparsity", sparsity)
    if rounding.is_concrete(alpha) and alpha < 1:
        raise ValueError(f"alpha must be at least 1, got {alpha}")
    structure = structures.unstructured() if structure is None else structure

    def power(tree: Params, exponent: Number) -> Params:
        def of_leaf(path: tuple[Any, ...], x: jax.Array) -> jax.Array:
            if not prunable(mask_trees.path_name(path), x):
                return x
            return (jnp.sign(x) * jnp.abs(x) ** exponent).astype(x.dtype)

        return jax.tree_util.tree_map_with_path(of_leaf, tree)

    def init(params: Params, key: jax.Array) -> Params:
        del key
        topology.check_sparsity(params, sparsity, distribution, structure, prunable)
        return power(params, 1 / alpha)

    def finish(theta: Params) -> tuple[Params, Masks]:
        params = power(theta, alpha)
        masks = topology.masks_from_scores(
            params,
            # The same order as that of |w|, and one in which small weights do not become equal.
            jax.tree.map(jnp.abs, theta),
            sparsity,
            distribution=distribution,
            structure=structure,
            prunable=prunable,
        )
        return mask_trees.apply_masks(params, masks), masks

    return core.Reparameterization(
        init, lambda theta, step, key: power(theta, alpha), finish, core.no_penalty
    )
