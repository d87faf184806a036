"""What every reparameterization promises: any optimizer trains it, and it ends with ordinary
parameters that are exactly 0 off their masks."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparsejax import reparameterization

METHODS = {
    "continuous_sparsification": lambda **o: reparameterization.continuous_sparsification(
        5, strength=0.01, **o
    ),
    "l0": lambda **o: reparameterization.l0(0.01, **o),
    "powerprop": lambda **o: reparameterization.powerprop(0.5, **o),
    "str_": lambda **o: reparameterization.str_(-2.0, **o),
}


def small_params(dtype=jnp.float32):
    kernel = jax.random.normal(jax.random.key(1), (6, 8), dtype)
    return {"dense": {"kernel": kernel, "bias": jnp.ones(8, dtype)}}


def test_the_table_has_every_method():
    public = {name for name in reparameterization.__all__ if name[0].islower()}
    assert public == set(METHODS)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", METHODS)
def test_training(name, dtype):
    """In one trace; the parameters keep their structure, shapes and dtypes."""
    method, params = METHODS[name](), small_params(dtype)
    theta = method.init(params, jax.random.key(0))
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(theta))
    tx, traces = optax.adam(0.1), []

    def loss(theta, step, key):
        used = method.apply(theta, step, key)
        assert jax.tree.map(jnp.shape, used) == jax.tree.map(jnp.shape, params)
        assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(used))
        fit = sum(jnp.sum(jnp.sin(3 * x.astype(jnp.float32))) for x in jax.tree.leaves(used))
        return fit + method.penalty(theta, step)

    @jax.jit
    def step(theta, opt_state, number):
        traces.append(number)
        value, grads = jax.value_and_grad(loss)(theta, number, jax.random.key(number))
        updates, opt_state = tx.update(grads, opt_state, theta)
        return optax.apply_updates(theta, updates), opt_state, value

    opt_state, before = tx.init(theta), theta
    for number in range(3):
        theta, opt_state, value = step(theta, opt_state, number)
        assert np.isfinite(value)
    assert len(traces) == 1
    for old, new in zip(*map(jax.tree.leaves, (before, theta)), strict=True):
        assert np.all(np.isfinite(new)) and np.any(old != new)

    final, masks = method.finish(theta)
    assert jax.tree.map(jnp.shape, final) == jax.tree.map(jnp.shape, params)
    kernel, mask = final["dense"]["kernel"], masks["dense"]["kernel"]
    assert kernel.dtype == dtype and mask.dtype == bool
    np.testing.assert_array_equal(np.asarray(kernel) != 0, np.broadcast_to(mask, kernel.shape))
    assert masks["dense"]["bias"].shape == ()
    np.testing.assert_array_equal(final["dense"]["bias"], theta["dense"]["bias"])


@pytest.mark.parametrize("name", METHODS)
def test_a_tree_without_prunable_leaves_is_refused(name):
    with pytest.raises(ValueError, match="no parameter is prunable"):
        METHODS[name]().init({"bias": jnp.ones(3)}, jax.random.key(0))
    method = METHODS[name](prunable=lambda path, leaf: path == "bias")
    _, masks = method.finish(method.init({"bias": jnp.ones(4)}, jax.random.key(0)))
    assert masks["bias"].shape == (4,)
