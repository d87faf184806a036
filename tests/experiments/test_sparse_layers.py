"""Flax modules with sparse kernels give what they give with dense ones."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import sparse_layers
from sparsejax import formats

MODULES = {
    "dense": nn.Dense(6),
    "dense without bias": nn.Dense(6, use_bias=False),
    "1 x 1": nn.Conv(6, (1, 1)),
    "1 x 1 with strides": nn.Conv(6, (1, 1), strides=2, use_bias=False),
    "1 x 1 in groups": nn.Conv(6, (1, 1), feature_group_count=2),
    "3 x 3": nn.Conv(6, (3, 3)),
    "in bfloat16": nn.Dense(6, dtype=jnp.bfloat16),
    "between others": nn.Sequential([nn.Dense(6), nn.relu, nn.LayerNorm(), nn.Dense(4)]),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_sparse_kernel_is_the_same_layer(name):
    module = MODULES[name]
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 5, 4)), jnp.float32)
    variables = module.init(jax.random.key(0), x)

    def cut(path, p):
        if path[-1].key != "kernel":
            return p + 0.5, p + 0.5
        mask = np.random.default_rng(1).random(p.shape) < 0.4
        return jnp.where(mask, p, 0), formats.CSR.from_dense(p, mask)

    both = jax.tree_util.tree_map_with_path(cut, variables)
    dense, sparse = (
        jax.tree.map(lambda pair, i=i: pair[i], both, is_leaf=lambda x: isinstance(x, tuple))
        for i in range(2)
    )
    expected = module.apply(dense, x)
    got = sparse_layers.apply(module, sparse, x)
    assert got.dtype == expected.dtype
    tolerance = 2e-2 if expected.dtype == jnp.bfloat16 else 1e-5
    np.testing.assert_allclose(
        np.asarray(got, np.float32), np.asarray(expected, np.float32), atol=tolerance
    )
