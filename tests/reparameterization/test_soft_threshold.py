"""STR, against the paper's formulas in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.reparameterization import str_

V = np.random.default_rng(0).normal(size=(7, 5))
SLOPE = np.random.default_rng(1).normal(size=(7, 5))


@pytest.fixture
def theta():
    return str_(-0.5).init({"w": jnp.float32(V)}, jax.random.key(0))


def test_values_and_masks(theta):
    threshold = 1 / (1 + np.exp(0.5))
    kept = np.abs(V) > threshold
    expected = np.where(kept, V - np.sign(V) * threshold, 0)
    used = str_(-0.5).apply(theta, 0, None)["w"]
    np.testing.assert_allclose(used, expected, rtol=1e-5, atol=1e-6)
    params, masks = str_(-0.5).finish(theta)
    np.testing.assert_array_equal(params["w"], used)
    np.testing.assert_array_equal(masks["w"], kept)
    assert 0 < kept.sum() < kept.size


def test_gradients(theta):
    """∂L/∂v is ∂L/∂w where w is not 0, ∂L/∂s = -σ'(s) Σ sign(v) ∂L/∂w there."""
    grads = jax.grad(lambda t: jnp.sum(SLOPE * str_(-0.5).apply(t, 0, None)["w"]))(theta)["w"]
    sigma = 1 / (1 + np.exp(0.5))
    kept = np.abs(V) > sigma
    np.testing.assert_allclose(grads.weight, np.where(kept, SLOPE, 0), rtol=1e-5)
    slope = -sigma * (1 - sigma) * (np.sign(V) * SLOPE)[kept].sum()
    np.testing.assert_allclose(grads.gate, slope, rtol=1e-4)


def test_where_the_paper_begins_nothing_is_pruned():
    method = str_(-3200.0)
    theta = method.init({"w": jnp.float32(V)}, jax.random.key(0))
    params, masks = method.finish(theta)
    np.testing.assert_array_equal(params["w"], jnp.float32(V))
    assert masks["w"].all()
