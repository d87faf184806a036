"""STR: soft threshold weight reparameterization."""

import jax
import jax.numpy as jnp

from sparsejax import masks as mask_trees
from sparsejax.reparameterization import core
from sparsejax.typing import Params, Prunable


def str_(
    initial: float | jax.Array, *, prunable: Prunable = mask_trees.default_prunable
) -> core.Reparameterization:
    """Learns a threshold for each layer, below which its weights are 0.

    w = sign(v) · max(|v| - σ(s), 0), with a number s for each layer that is trained with v. What
    makes the network sparse is the weight decay of the optimizer, which pulls s towards 0, and so
    the threshold up to 1/2. Kusupati et al. 2020, arXiv 2002.03231. How sparse it becomes hangs on
    the decay and on `initial`, not on a sparsity that could be asked for.

    Needs:
      Weight decay on all that is trained; one number more for each layer.

    Args:
      initial: The value of s at first; may be traced. The paper has -3200 for ResNet-50 on
        ImageNet, with SGD and decays of about 2e-5. Where σ(s) is 0 in float32, below -104, s feels
        nothing but the decay.
      prunable: `(path, leaf) -> bool`.

    Returns:
      The reparameterization.

    Raises:
      ValueError: by `init`, if no leaf is prunable.

    >>> method = str_(0.0)
    >>> theta = method.init({"w": jnp.array([[2.0, -0.75, 0.25]])}, jax.random.key(0))
    >>> params, masks = method.finish(theta)
    >>> params["w"].tolist(), masks["w"].tolist()
    ([[1.5, -0.25, 0.0]], [[True, True, False]])
    """

    def init(params: Params, key: jax.Array) -> Params:
        return core.with_gates(params, lambda p, _: jnp.full((), initial, p.dtype), key, prunable)

    def above(x: core.Gated) -> jax.Array:
        return jnp.abs(x.weight) - jax.nn.sigmoid(x.gate)

    def shrunk(x: core.Gated) -> jax.Array:
        return jnp.sign(x.weight) * jax.nn.relu(above(x))

    return core.Reparameterization(
        init,
        lambda theta, step, key: core.map_gated(shrunk, theta),
        lambda theta: core.cut(theta, shrunk, lambda x: above(x) > 0),
        core.no_penalty,
    )
