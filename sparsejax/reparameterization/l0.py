"""L0 regularization: stochastic gates whose expected number is penalized."""

import math

import jax
import jax.numpy as jnp

from sparsejax import masks as mask_trees
from sparsejax import structures, topology
from sparsejax.reparameterization import core
from sparsejax.typing import Masks, Params, Prunable, Structure

# The interval to which the concrete distribution on (0, 1) is stretched, and its temperature.
LOW, HIGH, TEMPERATURE = -0.1, 1.1, 2 / 3


def l0(
    strength: float | jax.Array,
    *,
    drop_rate: float = 0.5,
    structure: Structure | None = None,
    prunable: Prunable = mask_trees.default_prunable,
) -> core.Reparameterization:
    """Trains the odds of a gate for each weight, or group of weights, to be open.

    A hard concrete gate is z = min(1, max(0, ζ̄)) with ζ̄ = γ + (ζ - γ) σ((log u - log(1 - u) +
    log a) / β), u ~ U(0, 1) drawn anew at every step, γ = -0.1, ζ = 1.1, β = 2/3. The forward pass
    uses w · z, and w and log a are trained. The penalty is λ times the expected number of weights
    that are not 0, Σ σ(log a - β log(-γ/ζ)). In the end z = min(1, max(0, γ + (ζ - γ) σ(log a))).
    Louizos et al. 2018, arXiv 1712.01312. How sparse it becomes hangs on `strength`.

    Needs:
      A random number at every step and a second number trained for each gate.

    Args:
      strength: λ, for each weight; may be traced. The paper has 0.1 / 60,000 on MNIST, and gates
        for whole inputs of a layer (`structure=sparsejax.channel(-2)`).
      drop_rate: The odds of a gate at first, log a ~ N(log(1 / drop_rate - 1), 0.01²).
      structure: What shares a gate: the units of `channel` and `block`; None for each weight.
      prunable: `(path, leaf) -> bool`.

    Returns:
      The reparameterization.

    Raises:
      ValueError: if `drop_rate` is not between 0 and 1; by `init`, if no leaf is prunable, or the
        structure does not fit a leaf.

    >>> method = l0(1e-3, drop_rate=0.5)
    >>> theta = method.init({"w": jnp.ones((1, 3))}, jax.random.key(0))
    >>> theta["w"] = core.Gated(theta["w"].weight, jnp.array([[-9.0, 0.0, 9.0]]))
    >>> params, masks = method.finish(theta)
    >>> params["w"].tolist(), masks["w"].tolist()
    ([[0.0, 0.5, 1.0]], [[False, True, True]])
    """
    if not 0 < drop_rate < 1:
        raise ValueError(f"drop_rate must lie between 0 and 1, got {drop_rate}")
    structure = structures.unstructured() if structure is None else structure

    def init(params: Params, key: jax.Array) -> Params:
        topology.prunable_paths(params, structure, prunable)

        def log_odds(p: jax.Array, key: jax.Array) -> jax.Array:
            units = jax.eval_shape(structure.group, p).shape
            noise = jax.random.normal(key, units, p.dtype)
            return math.log(1 / drop_rate - 1) + 0.01 * noise

        return core.with_gates(params, log_odds, key, prunable)

    def spread(x: core.Gated, value: jax.Array) -> jax.Array:
        return structure.expand(value, x.weight.shape)

    def stretched(share: jax.Array) -> jax.Array:
        return jnp.clip(share * (HIGH - LOW) + LOW, 0, 1)

    def final(x: core.Gated) -> jax.Array:
        return stretched(jax.nn.sigmoid(x.gate))

    def at(theta: Params, step: int | jax.Array, key: jax.Array) -> Params:
        del step
        leaves, tree = jax.tree.flatten(theta, is_leaf=core.is_gated)

        def drawn(x: core.Gated, key: jax.Array) -> jax.Array:
            noise = jax.random.logistic(key, x.gate.shape, x.gate.dtype)  # log u - log(1 - u)
            z = stretched(jax.nn.sigmoid((noise + x.gate) / TEMPERATURE))
            return x.weight * spread(x, z)

        used = [
            drawn(x, jax.random.fold_in(key, i)) if core.is_gated(x) else x
            for i, x in enumerate(leaves)
        ]
        return jax.tree.unflatten(tree, used)

    def finish(theta: Params) -> tuple[Params, Masks]:
        return core.cut(
            theta,
            lambda x: x.weight * spread(x, final(x)),
            lambda x: spread(x, final(x) > 0),
        )

    def penalty(theta: Params, step: int | jax.Array) -> jax.Array:
        del step
        shift = TEMPERATURE * math.log(-LOW / HIGH)
        return strength * core.total(theta, lambda x: spread(x, jax.nn.sigmoid(x.gate - shift)))

    return core.Reparameterization(init, at, finish, penalty)
