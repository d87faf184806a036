"""Powerpropagation, against the paper's formulas in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax.reparameterization import powerprop

W = np.random.default_rng(0).normal(size=(8, 6))


@pytest.mark.parametrize("alpha", [1.0, 2.0, 3.5])
def test_values_and_gradients(alpha):
    """The network begins as it is, and ∂L/∂v = α |v|^(α - 1) ∂L/∂w."""
    method = powerprop(0.5, alpha=alpha)
    theta = method.init({"w": jnp.float32(W)}, jax.random.key(0))
    v = np.sign(W) * np.abs(W) ** (1 / alpha)
    np.testing.assert_allclose(theta["w"], v, rtol=1e-5)
    np.testing.assert_allclose(method.apply(theta, 0, None)["w"], W, rtol=1e-5)
    grads = jax.grad(lambda t: jnp.sum(W * method.apply(t, 0, None)["w"]))(theta)
    np.testing.assert_allclose(grads["w"], alpha * np.abs(v) ** (alpha - 1) * W, rtol=1e-4)


def test_a_weight_of_zero_stays_there_and_does_no_harm():
    method = powerprop(0.5, alpha=1.5)
    grads = jax.grad(lambda t: jnp.sum(method.apply(t, 0, None)["w"]))({"w": jnp.zeros((1, 2))})
    np.testing.assert_array_equal(grads["w"], 0)


def test_the_smallest_are_pruned_in_the_end():
    for options in ({}, {"structure": sparsejax.nm(1, 4)}):
        method = powerprop(0.75, alpha=4.0, **options)
        theta = method.init({"w": jnp.float32(W)}, jax.random.key(0))
        params, masks = method.finish(theta)
        rows = np.abs(W).T.reshape(-1, 4 if options else 48)
        least = np.sort(rows, axis=1)[:, -rows.shape[1] // 4]
        expected = (rows >= least[:, None]).reshape(6, 8).T
        np.testing.assert_array_equal(masks["w"], expected)
        np.testing.assert_allclose(params["w"], np.where(expected, W, 0), rtol=1e-4)


def test_it_trains_under_any_rule():
    """v is 0 off the mask, so w is."""
    method = powerprop(0.0)
    tx = sparsejax.sparsify(optax.adam(0.1), sparsejax.static(0.5))
    theta = method.init({"w": jnp.float32(W)}, jax.random.key(0))
    state = tx.init(theta)
    theta = sparsejax.apply_masks(theta, sparsejax.get_masks(state))
    for _ in range(2):
        grads = jax.grad(lambda t: jnp.sum(jnp.sin(method.apply(t, 0, None)["w"])))(theta)
        updates, state = tx.update(grads, state, theta)
        theta = optax.apply_updates(theta, updates)
    assert np.count_nonzero(method.apply(theta, 0, None)["w"]) == 24


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": 1.5}, "sparsity must lie between 0 and 1"),
        ({"sparsity": 0.5, "alpha": 0.5}, "alpha must be at least 1, got 0.5"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        powerprop(**options)
    with pytest.raises(ValueError, match="does not fit 'w'"):
        powerprop(0.5, structure=sparsejax.nm(2, 7)).init({"w": jnp.ones((8, 6))}, None)
