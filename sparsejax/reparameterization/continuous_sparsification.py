"""Continuous sparsification: gates that harden while they are trained."""

import jax
import jax.numpy as jnp

from sparsejax import masks as mask_trees
from sparsejax.reparameterization import core
from sparsejax.rounding import is_concrete
from sparsejax.typing import Params, Prunable


def continuous_sparsification(
    steps: int,
    *,
    strength: float | jax.Array = 1e-8,
    initial: float | jax.Array = -0.01,
    final_temperature: float | jax.Array = 200.0,
    prunable: Prunable = mask_trees.default_prunable,
) -> core.Reparameterization:
    """Trains a gate for each weight, soft at first, that is open or shut in the end.

    The forward pass uses w · σ(β s) with s trained beside w, and β growing from 1 to
    `final_temperature` as a power of the step; the penalty is λ Σ σ(β s). In the end the weights
    with s > 0 are left. All are divided by σ(initial), so that the network begins as it is.
    Savarese et al. 2020, arXiv 1912.04427. How sparse it becomes hangs on `strength` and on
    `initial`. The authors let weight decay act on the weights alone.

    Needs:
      A second number for each weight.

    Args:
      steps: Steps of the training, after which β stays.
      strength: λ; may be traced.
      initial: The value of s at first; may be traced. Below 0 fewer weights are left, above more.
      final_temperature: β in the end; may be traced.
      prunable: `(path, leaf) -> bool`.

    Returns:
      The reparameterization.

    Raises:
      ValueError: if `steps` is below 1; by `init`, if no leaf is prunable.

    >>> method = continuous_sparsification(10, initial=0.0)
    >>> theta = method.init({"w": jnp.array([[2.0, 3.0]])}, jax.random.key(0))
    >>> method.apply(theta, 0, jax.random.key(0))["w"].tolist()
    [[2.0, 3.0]]
    >>> theta["w"] = core.Gated(theta["w"].weight, jnp.array([[0.1, -0.1]]))
    >>> method.finish(theta)[0]["w"].tolist()
    [[4.0, 0.0]]
    """
    if is_concrete(steps) and steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    scale = 1 / jax.nn.sigmoid(jnp.asarray(initial, jnp.float32))

    def init(params: Params, key: jax.Array) -> Params:
        return core.with_gates(params, lambda p, _: jnp.full_like(p, initial), key, prunable)

    def open_share(x: core.Gated, step: int | jax.Array) -> jax.Array:
        done = jnp.minimum(jnp.asarray(step, jnp.float32) / steps, 1)
        return jax.nn.sigmoid(final_temperature**done * x.gate.astype(jnp.float32))

    def at(theta: Params, step: int | jax.Array, key: jax.Array) -> Params:
        del key
        return core.map_gated(
            lambda x: (x.weight * scale * open_share(x, step)).astype(x.weight.dtype), theta
        )

    return core.Reparameterization(
        init,
        at,
        lambda theta: core.cut(
            theta, lambda x: (x.weight * scale).astype(x.weight.dtype), lambda x: x.gate > 0
        ),
        lambda theta, step: strength * core.total(theta, lambda x: open_share(x, step)),
    )
